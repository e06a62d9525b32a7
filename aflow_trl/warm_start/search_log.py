"""Measured runs of a search on disk, so that a search that was ended goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from accelerate.utils import wait_for_everyone

from ..errors import RecipeError
from .halving import EvalRequest, Run


class SearchLog:
    """
    Measured runs on disk, a line a wave: a search that is started again does not pay for them twice.

    Args:
        path (`Path`):
            File.
        writes (`bool`):
            Whether this process writes it; all read it.
    """

    def __init__(self, path: Path, writes: bool) -> None:
        self.path, self.writes = path, writes
        self._known = []
        for line in path.read_text(encoding="utf-8").split("\n") if path.is_file() else ():
            try:
                self._known.append(json.loads(line))
            except ValueError:  # cut off by a kill: measured again
                break
        wait_for_everyone()
        if writes and path.is_file():
            path.write_text("".join(json.dumps(row) + "\n" for row in self._known), encoding="utf-8")

    def next(self, jobs: Sequence[EvalRequest]) -> list[Run] | None:
        """Runs of the next wave, if they are known."""
        if not self._known:
            return None
        row = self._known.pop(0)
        if row["jobs"] != _digest(jobs):
            raise RecipeError(f"{self.path} is of another search. Remove the folder it is in.")
        return [Run(*own) for own in row["runs"]]

    def append(self, jobs: Sequence[EvalRequest], runs: Sequence[Run]) -> None:
        """Keep a wave."""
        if self.writes:
            row = {"jobs": _digest(jobs), "runs": [[run.correctness, run.calls, run.paid] for run in runs]}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def _digest(jobs: Sequence[EvalRequest]) -> str:
    return hashlib.blake2b(repr(list(jobs)).encode(), digest_size=8).hexdigest()
