"""The state of a run in its output folder: what it runs, how far it is, how it ended; and the lock on the folder."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import RecipeError
from .json_files import write_json

RUN_FILE = "run.json"
LOCK_FILE = ".run.lock"


class RunRecord:
    """
    `run.json` of an output folder, and the lock that keeps a second run out of it. A context manager.

    Args:
        folder (`Path`):
            Output folder; it is created.

    Raises:
        [`RecipeError`]: Another process is at work in the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.content: dict[str, Any] = {}
        self._lock = FileLock(folder / LOCK_FILE)

    def __enter__(self) -> RunRecord:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            holder = (read_run(self.folder) or {}).get("process", {})
            raise RecipeError(
                f"the folder {self.folder} is in use by process {holder.get('pid', 'unknown')} on "
                f"{holder.get('host', 'an unknown host')}. Wait for its end, or name another output_dir."
            ) from None
        except OSError as error:
            raise RecipeError(
                f"the output folder {self.folder} cannot be written: {error.strerror}. Name another output_dir."
            ) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self._lock.release()
        if not self.content and {path.name for path in self.folder.iterdir()} <= {LOCK_FILE}:
            # Nothing has begun: what was wrong leaves no trace.
            (self.folder / LOCK_FILE).unlink(missing_ok=True)
            self.folder.rmdir()

    def begin(self, content: Mapping[str, Any]) -> None:
        """Record what runs."""
        self.content = dict(content) | {
            "outcome": None,
            "process": {"host": socket.gethostname(), "pid": os.getpid()},
            "started": time.time(),
        }
        self.update(phase="start")

    def update(self, **changes: Any) -> None:
        """Record a change, such as the outcome; without effect before [`begin`]."""
        if not self.content:
            return
        self.content |= changes | {"updated": time.time()}
        write_json(self.folder / RUN_FILE, self.content)


def read_run(folder: Path) -> dict[str, Any] | None:
    """Content of the `run.json` of a folder; `None` if there is none that can be read."""
    try:
        content = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
