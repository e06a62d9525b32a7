"""Files of traces: JSON lines, compressed, in parts; whole up to the last batch wherever the process was killed."""

from __future__ import annotations

import gzip
import json
import logging
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

MAX_PART_BYTES = 64 << 20
_BEGUN: set[Path] = set()
"""Files that this process writes."""


class TraceFile:
    """
    A file that rows are appended to, a batch at a time.

    Args:
        path (`str` or `Path`):
            File. With the ending `.gz` it is compressed, a gzip member a batch; when it has grown too large it is put
            aside as `NAME.1.jsonl.gz` and so on, and begun again.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.suffix == ".gz" and self.path.exists() and self.path not in _BEGUN:
            # Of another process: perhaps cut off in the middle, which may only be at the end of a part.
            self.path.rename(self._part(len(parts(self.path))))
        _BEGUN.add(self.path)

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write one line a row."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
        data = text.encode("utf-8", errors="replace")
        if self.path.suffix == ".gz":
            if self.path.exists() and self.path.stat().st_size > MAX_PART_BYTES:
                self.path.rename(self._part(len(parts(self.path))))
            data = gzip.compress(data, compresslevel=5, mtime=0)
        with self.path.open("ab") as file:
            file.write(data)

    def _part(self, number: int) -> Path:
        return self.path.with_name(self.path.name.replace(".jsonl", f".{number}.jsonl"))


def parts(path: Path) -> list[Path]:
    """All parts of a trace file, oldest first."""
    stem, _, ending = path.name.partition(".jsonl")
    old = [
        own for own in path.parent.glob(f"{stem}.*.jsonl{ending}") if own.name[len(stem) + 1 :].split(".")[0].isdigit()
    ]
    old.sort(key=lambda own: int(own.name[len(stem) + 1 :].split(".")[0]))
    return [*old, *([path] if path.exists() else [])]


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a trace file and its parts, in the order they were written; a batch that was cut off is left out."""
    for part in parts(path):
        for line in _lines(part):
            try:
                row: dict[str, Any] = json.loads(line)
            except ValueError:
                logger.warning("%s: a line that was cut off is left out", part)
                continue
            yield row


def _lines(part: Path) -> Iterator[str]:
    if part.suffix != ".gz":
        with part.open(encoding="utf-8", errors="replace") as file:
            yield from file
        return
    with gzip.open(part, "rt", encoding="utf-8", errors="replace") as file:
        try:
            yield from file
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            logger.warning("%s ends in the middle of a batch: %s", part, error)
