"""Data as people have it: kinds of files, byte order marks, foreign encodings, tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from aflow_trl.data import load_rows
from aflow_trl.errors import DataError, RecipeError

RECORDS: list[dict[str, Any]] = [
    {"question": "What is 6 * 7, in Zürich – and in 東京?", "answer": "42"},
    {"question": 'Say "a, b"\nand stop.', "answer": "[1, 2]", "domain": "math"},
    {
        "question": "Write add.",
        "domain": "code",
        "entry_point": "add",
        "hidden_tests": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"],
    },
]


def write_lines(path: Path) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS), encoding="utf-8")


def write_list(path: Path) -> None:
    path.write_text(json.dumps(RECORDS, indent=2, ensure_ascii=False), encoding="utf-8")


def write_table(path: Path) -> None:
    columns = ["question", "answer", "domain", "entry_point", "hidden_tests"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        for record in RECORDS:
            writer.writerow(
                {name: json.dumps(value) if isinstance(value, list) else value for name, value in record.items()}
            )


def write_parquet(path: Path) -> None:
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([dict.fromkeys(RECORDS[2]) | {"answer": None} | record for record in RECORDS]), path
    )


WRITERS: dict[str, Callable[[Path], None]] = {
    "rows.jsonl": write_lines,
    "rows.ndjson": write_lines,
    "lines.json": write_lines,
    "list.json": write_list,
    "ROWS.JSON": write_list,
    "rows.csv": write_table,
    "rows.tsv": write_table,
    "rows.parquet": write_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    rows = load_rows(str(tmp_path / name))
    assert [row.question for row in rows] == [record["question"] for record in RECORDS]
    assert rows[1].answer == ("[1, 2]",) and rows[2].hidden_tests == tuple(RECORDS[2]["hidden_tests"])


@pytest.mark.parametrize("name", [name for name in WRITERS if not name.endswith("parquet")])
def test_a_byte_order_mark_is_no_part_of_the_first_field(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_rows(str(path))[0].question == RECORDS[0]["question"]


BAD: dict[str, tuple[str, bytes, list[str]]] = {
    "GBK": ("rows.jsonl", '{"question": "六乘七？", "answer": "42"}'.encode("gbk"), ["not UTF-8", "iconv"]),
    "GBK in a table": ("rows.csv", "question,answer\n六乘七？,42".encode("gbk"), ["not UTF-8"]),
    "a cut line": ("rows.jsonl", b'{"question": "q", "answer": "1"}\n{"question": "q2"', ["line 2", "not JSON"]),
    "a list in a line": ("rows.jsonl", b"[1]\n", ["line 1", "a JSON list"]),
    "numbers in a list": ("rows.json", b"[1, 2]", ["item 1", "a JSON int"]),
    "a cut list": ("rows.json", b'[{"question": "q"', ["not JSON"]),
    "an unknown column": ("rows.csv", b"question,gold\nq,1\n", ["line 2", "'gold'", "answer"]),
    "too many cells": ("rows.csv", b"question,answer\nq,1,2\n", ["line 2", "more cells"]),
    "an open quote": ("rows.csv", b'question,answer\n"q,1\n', ["line"]),
    "a broken list in a cell": (
        "rows.csv",
        b'question,domain,hidden_tests\nq,code,"[assert"\n',
        ["hidden_tests", "line 2"],
    ),
    "not Parquet": ("rows.parquet", b"PAR1 and nothing", ["not Parquet"]),
    "no gold": ("rows.tsv", b"question\tanswer\nq\t\n", ["line 2", "'answer'"]),
    "nothing": ("rows.csv", b"question,answer\n", ["no rows"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_named_with_place_and_remedy(case: str, tmp_path: Path) -> None:
    name, content, words = BAD[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_rows(str(tmp_path / name))
    assert name in str(caught.value) and all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("name", ["none.csv", "none.parquet", "none.json"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="does not exist"):
        load_rows(str(tmp_path / name))
