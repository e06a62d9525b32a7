"""
JSON Lines files that survive a kill at any moment.

Two kinds: [`JsonLines`] is a short journal that is read back and continued line by line; [`TraceFile`] is compressed,
grows to gigabytes and is written a batch at a time.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from .json_files import finite

logger = logging.getLogger(__name__)

MAX_PART_BYTES = 64 << 20
_OPENED: set[Path] = set()
"""Trace files that this process writes."""


def open_private(path: Path, mode: str, **options: Any) -> IO[Any]:
    """Open a file for writing that only its owner may read: it holds prompts and replies."""
    return open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600), **options)


class JsonLines:
    """
    A journal of rows. Opening it for writing removes a last line that a kill has cut off, which would spoil the next.

    Args:
        path (`Path`):
            File; made with its folder at the first row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Any]:
        """Rows up to the first line that is not JSON; empty if there is no file."""
        rows: list[Any] = []
        if not self.path.is_file():
            return rows
        for line in self.path.read_text(encoding="utf-8").split("\n"):
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def repair(self) -> list[Any]:
        """[`read`], then cut the file off after these rows."""
        rows = self.read()
        if self.path.is_file():
            scratch = self.path.with_suffix(".tmp")
            scratch.write_text("".join(_line(row) for row in rows), encoding="utf-8", errors="replace")
            scratch.replace(self.path)
        return rows

    def append(self, rows: Sequence[object]) -> None:
        """Write one line for each row."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open_private(self.path, "a", encoding="utf-8", errors="replace") as file:
            file.write("".join(_line(row) for row in rows))


class TraceFile:
    """
    A file that rows are appended to, a batch at a time.

    Args:
        path (`str` or `Path`):
            File. With the ending `.gz` each batch is one gzip member; a file that has grown beyond [`MAX_PART_BYTES`]
            is renamed `NAME.1.jsonl.gz`, `NAME.2.jsonl.gz` and so on, and a new one is begun.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.suffix == ".gz" and self.path.exists() and self.path not in _OPENED:
            # Another process wrote it and may have been killed inside a gzip member, which can only be read past at
            # the end of a part.
            self.path.rename(self._part(len(trace_parts(self.path))))
        _OPENED.add(self.path)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write one line for each row."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        data = "".join(_line(row) for row in rows).encode("utf-8", errors="replace")
        if self.path.suffix == ".gz":
            if self.path.exists() and self.path.stat().st_size > MAX_PART_BYTES:
                self.path.rename(self._part(len(trace_parts(self.path))))
            data = gzip.compress(data, compresslevel=5, mtime=0)
        with open_private(self.path, "ab") as file:
            file.write(data)

    def _part(self, number: int) -> Path:
        return self.path.with_name(self.path.name.replace(".jsonl", f".{number}.jsonl"))


def trace_parts(path: Path) -> list[Path]:
    """All parts of a trace file, oldest first; empty if there is none."""
    stem, _, ending = path.name.partition(".jsonl")
    numbered = {
        int(number): part
        for part in path.parent.glob(f"{stem}.*.jsonl{ending}")
        if (number := part.name[len(stem) + 1 :].split(".")[0]).isdigit()
    }
    return [*(numbered[number] for number in sorted(numbered)), *([path] if path.exists() else [])]


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a trace file and its parts, in the order they were written; a batch that was cut off is skipped."""
    for part in trace_parts(path):
        for line in _lines(part):
            try:
                row: dict[str, Any] = json.loads(line)
            except ValueError:
                logger.warning("%s: a truncated line is skipped", part)
                continue
            yield row


def set_aside(folder: Path, paths: Sequence[Path]) -> Path | None:
    """
    Move files of an earlier run into a new subfolder `earlier-N`, so that another run does not append to them.

    Returns:
        `Path`, *optional*: The subfolder; `None` if none of the files exists.
    """
    existing = [path for path in paths if path.exists()]
    if not existing:
        return None
    number = 1
    while (target := folder / f"earlier-{number}").exists():
        number += 1
    target.mkdir()
    for path in existing:
        path.rename(target / path.name)
        _OPENED.discard(path)
    return target


def _line(row: object) -> str:
    try:
        return json.dumps(row, ensure_ascii=False, default=str, allow_nan=False) + "\n"
    except ValueError:  # NaN or infinity, which JSON does not know; the walk over the row is paid for only then
        return json.dumps(finite(row), ensure_ascii=False, default=str, allow_nan=False) + "\n"


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
