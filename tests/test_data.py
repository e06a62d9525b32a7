"""Rows, prompts and datasets: bad rows are named, and the policy sees what the executor sees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aflow_trl.data import build_dataset, load_rows, policy_messages, policy_prompts, read_row
from aflow_trl.errors import DataError, RecipeError
from aflow_trl.operators import Problem, describe, vocabulary

PLAIN = {"question": "What is 6 * 7?", "answer": "42", "domain": "math", "entry_point": ""}

BAD_ROWS = [
    ({**PLAIN, "question": ""}, "question"),
    ({"answer": "42"}, "question"),
    ({"question": "q", "domain": "math"}, "answer"),
    ({"question": "q", "answer": "", "domain": "qa"}, "answer"),
    ({**PLAIN, "domain": "physics"}, "physics"),
    ({"question": "q", "domain": "code", "entry_point": "f"}, "hidden_tests"),
    ({**PLAIN, "gold": "42"}, "gold"),
    ({**PLAIN, "question": ["q"]}, "question"),
    ({**PLAIN, "answer": {"a": 1}}, "answer"),
]


def write(path: Path, *rows: object) -> str:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def test_plain_rows_of_earlier_systems_load_as_they_are(tmp_path: Path) -> None:
    (row,) = load_rows(write(tmp_path / "d.jsonl", PLAIN), split="train", count=None, seed=0)
    assert (row.question, row.answer, row.domain) == ("What is 6 * 7?", ("42",), "math")


@pytest.mark.parametrize(("raw", "name"), BAD_ROWS, ids=[row[1] for row in BAD_ROWS])
def test_bad_row_is_named_by_file_line_and_field(raw: dict, name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", PLAIN, raw)
    with pytest.raises(DataError, match=name) as caught:
        load_rows(path, split="train", count=None, seed=0)
    assert "d.jsonl, line 2" in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_line_that_is_no_object_is_named(text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 1"):
        load_rows(write(tmp_path / "d.jsonl", text), split="train", count=None, seed=0)


def test_missing_and_empty_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="does not exist"):
        load_rows(str(tmp_path / "none.jsonl"), split="train", count=None, seed=0)
    with pytest.raises(DataError, match="no rows"):
        load_rows(write(tmp_path / "d.jsonl", ""), split="train", count=None, seed=0)


def test_datasets_load_from_a_folder_in_the_hubs_layout(tmp_path: Path) -> None:
    write(tmp_path / "train.json", PLAIN)
    assert load_rows(str(tmp_path), split="train", count=None, seed=0)[0].answer == ("42",)


def test_unknown_hub_dataset_is_told() -> None:
    with pytest.raises(RecipeError, match="no-such-owner"):
        load_rows("no-such-owner/no-such-dataset", split="train", count=None, seed=0)


@pytest.mark.parametrize("prompt", sorted(policy_prompts()))
def test_policy_sees_everything_the_executor_is_shown(prompt: str) -> None:
    row = read_row({**PLAIN, "context": "A passage."}, "here")
    messages = policy_messages(row, prompt=prompt, operators=["Custom"], descriptions="- Custom: x")
    statement = Problem(row.question, row.domain, row.context).statement
    assert statement in messages[1]["content"]
    assert [message["role"] for message in messages] == ["system", "user"]


def test_full_prompt_lists_the_operators_that_may_be_used() -> None:
    names = ["Custom", "Review"]
    row = read_row(PLAIN, "here")
    system = policy_messages(row, prompt="full", operators=names, descriptions=describe(names))[0]["content"]
    assert "- Custom:" in system and "- Review:" in system and "Programmer" not in system
    assert set(vocabulary(names)) == set(names)


def test_dataset_is_conversational_and_keeps_the_columns() -> None:
    dataset = build_dataset([read_row(PLAIN, "here")], prompt="compact", operators=[], descriptions="")
    assert dataset[0]["prompt"][1]["content"] == PLAIN["question"]
    assert dataset[0]["answer"] == ["42"] and dataset[0]["hidden_tests"] == []
