"""Progress of a long command: a file that other programs can follow, a log, and lines on the console."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from .jsonl import JsonLines, open_private

PROGRESS_FILE = "progress.jsonl"
LOG_FILE = "run.log"
SILENCE_S = 10.0
"""Seconds without a line on the console after which progress is printed."""
WRITE_EVERY_S = 1.0
"""Minimum seconds between two lines of one unit in the file, unless they bring something new."""


class Progress:
    """
    Progress of a command: what is printed is also logged, and what takes long is counted.

    Each line of `progress.jsonl` has `time` (seconds since 1970) and `phase`; those that count have `unit`, `done`,
    `total`, `usd` and `eta_s` (for this unit of this phase; `None` if not known) as well, and some bring figures.
    """

    def __init__(self) -> None:
        self.phase: str | None = None
        """What the command is doing; `None` outside of commands, where nothing is counted."""
        self.stream: TextIO | None = None
        """Where lines are printed; `None` for the standard output."""
        self.usd: Callable[[], float | None] = lambda: None
        """USD paid so far by this process; `None` if unknown."""
        self._file: JsonLines | None = None
        self._handler: logging.Handler | None = None
        self._log = logging.Logger("aflow_trl", logging.INFO)
        self._first: dict[str, tuple[float, int]] = {}
        """When the present count of a unit began, and where."""
        self._latest: dict[str, tuple[float, int]] = {}
        """When a unit was written last, and its count."""
        self._printed = time.monotonic()

    def open(self, folder: Path) -> None:
        """Write to `progress.jsonl` and `run.log` in a folder; warnings and errors of all packages are logged too."""
        self._file = JsonLines(folder / PROGRESS_FILE)
        self._file.repair()
        open_private(folder / LOG_FILE, "a").close()
        self._handler = logging.FileHandler(folder / LOG_FILE, encoding="utf-8", errors="replace")
        # The run goes on without its log; why a disk is full is said once, by the run.
        self._handler.handleError = lambda record: None  # type: ignore[method-assign]
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._log.addHandler(self._handler)
        logging.getLogger().addHandler(self._handler)

    def close(self) -> None:
        """End the command."""
        if self._handler is not None:
            self._log.removeHandler(self._handler)
            logging.getLogger().removeHandler(self._handler)
            # What a full disk has not taken is written once more here.
            with suppress(OSError):
                self._handler.close()
        self._file = self._handler = self.phase = self.stream = None
        self.usd = lambda: None

    def print(self, line: str) -> None:
        """Print and log a line."""
        print(line, file=self.stream, flush=True)
        self._printed = time.monotonic()
        self._log.info("%s", line)

    def log_error(self, error: BaseException) -> None:
        """Log an error with its traceback; somebody else prints it."""
        if self._handler is None:
            return
        self._log.error("%s: %s", type(error).__name__, error, exc_info=error)

    def enter(self, phase: str) -> None:
        """Begin a phase; without effect within it."""
        if phase == self.phase:
            return
        self.phase = phase
        self._first.clear()
        self._latest.clear()
        self._write({})
        self.print(phase)

    def count(self, unit: str, done: int, total: int | None, **figures: object) -> None:
        """
        Count something within the phase; without effect outside of commands.

        Args:
            unit (`str`):
                What is counted, such as `"workflows"`.
            done (`int`):
                Number done so far. A smaller one than before begins a new count.
            total (`int`, *optional*):
                Number there will be; `None` if unknown.
            **figures:
                Anything else that is known now.
        """
        if self.phase is None:
            return
        now = time.monotonic()
        latest_s, latest = self._latest.get(unit, (0.0, done))
        if unit not in self._first or done < latest:
            self._first[unit] = (now, done)
        first_s, first = self._first[unit]
        left_s = (now - first_s) / (done - first) * (total - done) if total is not None and done > first else None
        if figures or done == total or now - latest_s >= WRITE_EVERY_S:
            usd = self.usd()
            line = {"unit": unit, "done": done, "total": total, "usd": usd, "eta_s": left_s}
            self._write(line | figures)
            self._latest[unit] = (now, done)
        else:
            self._latest[unit] = (latest_s, done)
        if now - self._printed >= SILENCE_S:
            usd = self.usd()
            parts = [f"  {done}{'' if total is None else f'/{total}'} {unit}"]
            parts += [f"{usd:.4f} USD"] if usd else []
            parts += [f"{left_s:.0f} s left"] if left_s is not None else []
            self.print(", ".join(parts))

    def _write(self, line: dict[str, object]) -> None:
        if self._file is not None:
            self._file.append([{"time": time.time(), "phase": self.phase} | line])


PROGRESS = Progress()
"""A process runs one command."""
