"""Rows, prompts and datasets: invalid rows are reported by name, and the policy sees what the executor sees."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aflow_trl.data import (
    PolicyPrompt,
    Row,
    build_dataset,
    load_questions,
    load_rows,
    policy_prompts,
    read_row,
    sum_rows,
    synthetic_rows,
)
from aflow_trl.dsl import extract, format_workflow
from aflow_trl.errors import DataError, RecipeError
from aflow_trl.operators import DEFAULT_OPERATORS, Problem
from aflow_trl.scoring import BUILTIN_DOMAINS

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
    ({**PLAIN, "difficulty": -1}, "difficulty"),
    ({**PLAIN, "difficulty": [3]}, "difficulty"),
    ({**PLAIN, "weak_verdict": "yes"}, "weak_verdict"),
]


def write(path: Path, *rows: object) -> str:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


# -- files -----------------------------------------------------------------------------------------------------------


def test_plain_rows_load_without_conversion(tmp_path: Path) -> None:
    (row,) = load_rows(write(tmp_path / "d.jsonl", PLAIN))
    assert (row.question, row.answer, row.domain) == ("What is 6 * 7?", ("42",), "math")


def test_assertions_in_the_answer_of_a_code_row_become_its_hidden_tests() -> None:
    row = read_row({"question": "q", "answer": ["assert f(1) == 1"], "domain": "code", "entry_point": "f"}, "here")
    assert (row.answer, row.hidden_tests) == ((), ("assert f(1) == 1",))


@pytest.mark.parametrize(("raw", "name"), BAD_ROWS, ids=[name for _, name in BAD_ROWS])
def test_invalid_row_is_reported_with_file_line_and_field(raw: dict[str, Any], name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", PLAIN, raw)
    with pytest.raises(DataError, match=rf"d\.jsonl, line 2: .*{name}"):
        load_rows(path)


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_line_that_is_not_an_object_is_reported(text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: .*one JSON object per line"):
        load_rows(write(tmp_path / "d.jsonl", text))


Load = Callable[[Path], list[Row]]
LOADERS = [pytest.param(lambda path: load_rows(str(path)), id="rows"), pytest.param(load_questions, id="questions")]


@pytest.mark.parametrize("load", LOADERS)
def test_missing_file_is_reported(load: Load, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.jsonl.*does not exist"):
        load(tmp_path / "none.jsonl")


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("text", ["", "\n\n"])
def test_empty_file_is_reported(load: Load, text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"d\.jsonl: there are no rows.*at least one"):
        load(Path(write(tmp_path / "d.jsonl", text)))


@pytest.mark.parametrize("load", LOADERS)
def test_file_in_another_encoding_is_reported(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(json.dumps({**PLAIN, "question": "Où ?"}, ensure_ascii=False).encode("latin-1"))
    with pytest.raises(DataError, match=r"d\.jsonl: not UTF-8"):
        load(path)


def test_questions_need_no_gold_answer(tmp_path: Path) -> None:
    (row,) = load_questions(Path(write(tmp_path / "d.jsonl", {"question": "Why?"})))
    assert (row.question, row.answer) == ("Why?", ())


def test_dataset_loads_from_a_local_folder(tmp_path: Path) -> None:
    write(tmp_path / "train.json", PLAIN)
    assert load_rows(str(tmp_path))[0].answer == ("42",)


def test_unknown_hub_dataset_is_reported() -> None:
    with pytest.raises(RecipeError, match="no-such-owner"):
        load_rows("no-such-owner/no-such-dataset")


# -- selection -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["synthetic", "d.jsonl"])
@pytest.mark.parametrize("count", [0, -3])
def test_count_below_one_is_reported(source: str, count: int, tmp_path: Path) -> None:
    path = write(tmp_path / source, PLAIN) if source.endswith(".jsonl") else source
    with pytest.raises(RecipeError, match=f"number of rows is {count}.*at least 1"):
        load_rows(path, count=count)


def test_generated_data_needs_a_count() -> None:
    with pytest.raises(RecipeError, match="num_train_problems"):
        load_rows("synthetic")


IMPOSSIBLE = [
    ("synthetic", {"domains": []}, "domains is empty.*math, code, qa"),
    ("synthetic", {"domains": ["physics"]}, "'physics'.*math, code, qa"),
    ("synthetic", {"domains": ["math", "physics"]}, "'physics'.*math, code, qa"),
    ("synthetic", {"max_difficulty": 0}, "max_difficulty is 0.*1 or more"),
    ("synthetic-sums", {"domains": ["qa"]}, "domains qa.*Use some of math"),
    ("synthetic-sums", {"max_difficulty": -1}, "max_difficulty is -1.*1 or more"),
]


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("source", "selection", "message"), IMPOSSIBLE)
def test_selection_that_no_generated_problem_matches_is_reported(
    source: str, selection: dict[str, Any], message: str
) -> None:
    """The stream of generated problems is endless, so searching it would never finish."""
    with pytest.raises(RecipeError, match=message):
        load_rows(source, count=1, **selection)


@pytest.mark.parametrize("selection", [{"domains": ["qa"]}, {"max_difficulty": 2}])
def test_selection_that_no_row_of_a_file_matches_is_reported(selection: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", {**PLAIN, "difficulty": 3})
    with pytest.raises(DataError, match=f"none of the 1 rows matches {next(iter(selection))}"):
        load_rows(path, **selection)


def test_generated_rows_match_the_selection() -> None:
    rows = load_rows("synthetic", count=30, domains=["math", "qa"], max_difficulty=2)
    assert {row.domain for row in rows} == {"math", "qa"} and {row.difficulty for row in rows} == {1, 2}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("domains", [(), ("physics",), ("math", "physics")])
def test_stream_of_no_or_unknown_domains_is_refused_at_once(domains: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError, match=r"domains .*Use some of math, code, qa"):
        synthetic_rows(0, "train", domains=domains)


def test_sums_of_the_two_splits_share_no_text() -> None:
    train, test = (
        {next(stream).question for _ in range(400)} for stream in (sum_rows(0, "train"), sum_rows(1, "test"))
    )
    assert not train & test


# -- prompts and datasets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(policy_prompts()))
@pytest.mark.parametrize("method", ["messages", "reasoning_messages"])
def test_policy_sees_everything_the_executor_sees(name: str, method: str) -> None:
    row = read_row({**PLAIN, "context": "A passage."}, "here")
    messages = getattr(PolicyPrompt(name), method)(row)
    assert Problem(row.question, row.domain, row.context).statement in messages[-1]["content"]
    assert [message["role"] for message in (messages[0], messages[-1])] == ["system", "user"]


def test_braces_in_a_problem_are_not_placeholders() -> None:
    row = read_row({**PLAIN, "question": "What does {operators} print? {names}"}, "here")
    assert row.question in PolicyPrompt().messages(row)[1]["content"]


def test_full_prompt_describes_the_selected_operators_only() -> None:
    system = PolicyPrompt("full", DEFAULT_OPERATORS.select(["Custom", "Review"])).system
    assert "- Custom:" in system and "- Review:" in system and "Programmer" not in system


def test_unknown_prompt_is_reported() -> None:
    with pytest.raises(RecipeError, match=r"'none'.*full"):
        PolicyPrompt("none")


def test_dataset_is_conversational_and_keeps_the_columns() -> None:
    dataset = build_dataset([read_row(PLAIN, "here")], PolicyPrompt("compact"))
    assert dataset[0]["prompt"][1]["content"] == PLAIN["question"]
    assert dataset[0]["answer"] == ["42"] and dataset[0]["hidden_tests"] == []


def test_columns_of_a_row_load_as_the_same_row() -> None:
    for row in load_rows("synthetic", count=2 * len(BUILTIN_DOMAINS)):
        assert read_row(row.columns(), "here") == row


def test_dataset_of_no_rows_is_refused() -> None:
    with pytest.raises(DataError, match="no rows to build a dataset from"):
        build_dataset([])


@pytest.mark.parametrize(
    ("test", "words"),
    [
        ("", "empty test"),
        ("  ", "empty test"),
        ("it returns 3", "neither Python nor"),
        ('{"stdin": ', "neither Python nor"),
    ],
)
def test_a_test_that_nothing_could_pass_is_refused_when_the_row_is_read(test: str, words: str) -> None:
    row = {"question": "q", "domain": "code", "entry_point": "f", "hidden_tests": ["assert f(1) == 2", test]}
    with pytest.raises(DataError, match=words):
        read_row(row, "rows.jsonl, line 1")


def test_shots_are_turns_of_the_chat_before_the_problem() -> None:
    messages = PolicyPrompt("fewshot").messages(Row("What is 6 * 7?", ("42",), "math"))
    roles = [message["role"] for message in messages]
    assert roles == ["system", *["user", "assistant"] * (len(roles) // 2 - 1), "user"] and len(roles) > 8
    assert "What is 6 * 7?" in messages[-1]["content"]
    workflows = [message["content"] for message in messages if message["role"] == "assistant"]
    parsed = [extract(text).workflow for text in workflows]
    # One for each form of the language.
    assert len({str(type(workflow)) + format_workflow(workflow) for workflow in parsed if workflow}) == len(workflows)


def test_every_shot_is_the_last_one_for_some_problems() -> None:
    prompt = PolicyPrompt("fewshot")
    last = [prompt.messages(Row(f"What is {number} * 7?", ("1",), "math"))[-2]["content"] for number in range(300)]
    counts = [last.count(f"<workflow>{workflow}</workflow>") for _, workflow in prompt.shots]
    assert sum(counts) == 300 and min(counts) > 20


def test_shots_with_an_operator_that_is_not_offered_are_left_out() -> None:
    prompt = PolicyPrompt("fewshot", DEFAULT_OPERATORS.select(["AnswerGenerate", "Programmer", "Format"]))
    assert [workflow for _, workflow in prompt.shots] == ["AnswerGenerate", "Programmer -> Format"]
