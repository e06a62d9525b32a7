"""Log of a search on disk, from which an interrupted search continues."""

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
    Results of a search on disk, one line per wave of requests, so that a restarted search does not pay for them again.

    Args:
        path (`Path`):
            JSON Lines file.
        writes (`bool`):
            Whether this process writes the file; every process reads it.
    """

    def __init__(self, path: Path, writes: bool) -> None:
        self._file, self._writes = JsonLines(path), writes
        self._recorded = self._file.read()
        # Every process has to read the same waves, or they would disagree on what to run: read before the repair.
        wait_for_everyone()
        if writes:
            self._file.repair()

    def next(self, requests: Sequence[EvalRequest]) -> list[EvalResult] | None:
        """
        Recorded results of the next wave.

        Args:
            requests (`Sequence[EvalRequest]`):
                Requests of the wave.

        Returns:
            `list[EvalResult]`, *optional*: `None` if the wave has to be run.

        Raises:
            [`RecipeError`]: The file records other requests.
        """
        if not self._recorded:
            return None
        wave = self._recorded.pop(0)
        if wave["requests"] != _digest(requests):
            raise RecipeError(f"{self._file.path} records another search. Remove its folder to search again.")
        return [EvalResult(*fields) for fields in wave["results"]]

    def append(self, requests: Sequence[EvalRequest], results: Sequence[EvalResult]) -> None:
        """Record a wave that was run."""
        if self._writes:
            fields = [[result.correctness, result.calls, result.paid, result.usd] for result in results]
            self._file.append([{"requests": _digest(requests), "results": fields}])


def _digest(requests: Sequence[EvalRequest]) -> str:
    """Identifies a wave: a search is deterministic, so an equal one asks for the same waves in the same order."""
    return hashlib.blake2b(repr(list(requests)).encode(), digest_size=8).hexdigest()
