"""Records of a data file as people have it: JSON Lines, JSON, CSV, TSV or Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet

from ..errors import DataError, RecipeError

FILE_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
LIST_COLUMNS = ("public_tests", "hidden_tests")
"""Columns of a table whose cells may hold a JSON list."""
Record = tuple[str, dict[str, Any]]
"""Place, for messages, and content."""


def is_data_file(source: str) -> bool:
    """Whether a source of problems is a file, as its name says."""
    return source.lower().endswith(FILE_SUFFIXES)


def read_records(path: Path) -> Iterator[Record]:
    """
    Read the records of a file, of a kind that its name tells.

    Args:
        path (`Path`):
            File. Text is UTF-8, with or without a byte order mark.

    Yields:
        `tuple[str, dict[str, Any]]`: Place of a record, such as `"train.jsonl, line 3"`, and its content.

    Raises:
        [`RecipeError`]: The file does not exist.
        [`DataError`]: It cannot be read. The message names the place.
    """
    if not path.is_file():
        raise RecipeError(
            f"the data file {str(path)!r} does not exist. Give a path relative to the working directory."
        )
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet(path)
        return
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}). Convert it, such as by iconv -f GBK -t UTF-8.") from None
    if suffix in (".csv", ".tsv"):
        yield from _table(path, text, "\t" if suffix == ".tsv" else ",")
    elif suffix == ".json" and text.lstrip()[:1] == "[":
        yield from _array(path, text)
    else:
        yield from _lines(path, text)


def _lines(path: Path, text: str) -> Iterator[Record]:
    # Not `splitlines`, which also splits at characters that a JSON text may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                content = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: not JSON ({error}). Write one JSON object per line.") from None
            yield where, _object(content, where, "Write one JSON object per line.")


def _array(path: Path, text: str) -> Iterator[Record]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}). Write a list of objects, or one object per line.") from None
    for number, item in enumerate(content, start=1):
        where = f"{path}, item {number}"
        yield where, _object(item, where, "Write a list of objects.")


def _table(path: Path, text: str, delimiter: str) -> Iterator[Record]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restkey="", strict=True)
    try:
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            if "" in cells:
                raise DataError(f"{where}: more cells than columns. Put a cell with a separator in quotes.")
            yield where, {name: _cell(name, value, where) for name, value in cells.items() if value not in (None, "")}
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}.") from None


def _cell(name: str, value: str, where: str) -> object:
    if name == "weak_verdict" and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if name in LIST_COLUMNS and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError as error:
            raise DataError(f"{where}: {name!r} is no JSON list ({error}).") from None
    return value


def _parquet(path: Path) -> Iterator[Record]:
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not Parquet ({str(error).splitlines()[0]}).") from None
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", row


def _object(content: object, where: str, remedy: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise DataError(f"{where}: a JSON {type(content).__name__}. {remedy}")
    return content
