"""Results of a search on disk, so that an interrupted search continues."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from accelerate.utils import wait_for_everyone

from ..errors import RecipeError
from ..storage import JsonLines
from .types import EvalRequest, EvalResult


class SearchLog:
    """
    Results on disk, one line for each wave: a search that is started again does not pay for them twice.

    Args:
        path (`Path`):
            File.
        writes (`bool`):
            Whether this process writes it; every process reads it.
    """

    def __init__(self, path: Path, writes: bool) -> None:
        self._file, self._writes = JsonLines(path), writes
        self._recorded = self._file.read()
        # All processes have to read before one of them changes the file.
        wait_for_everyone()
        if writes:
            self._file.repair()

    def next(self, requests: Sequence[EvalRequest]) -> list[EvalResult] | None:
        """Recorded results of the next wave; `None` if it has to be run."""
        if not self._recorded:
            return None
        wave = self._recorded.pop(0)
        if wave["requests"] != _digest(requests):
            raise RecipeError(f"{self._file.path} belongs to another search. Remove the folder it is in.")
        return [EvalResult(*fields) for fields in wave["results"]]

    def append(self, requests: Sequence[EvalRequest], results: Sequence[EvalResult]) -> None:
        """Record a wave."""
        if self._writes:
            fields = [[result.correctness, result.calls, result.paid] for result in results]
            self._file.append([{"requests": _digest(requests), "results": fields}])


def _digest(requests: Sequence[EvalRequest]) -> str:
    return hashlib.blake2b(repr(list(requests)).encode(), digest_size=8).hexdigest()
