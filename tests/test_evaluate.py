"""Evaluation and search from files to files: resumed, cached, nothing hidden, nothing chosen on what is reported."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from aflow_trl.data import Row, synthetic_rows
from aflow_trl.dsl import builtin_vocabulary, format_workflow, parse
from aflow_trl.evaluation import (
    Evaluation,
    Result,
    best_on,
    evaluate,
    oracle,
    paired_difference,
    self_consistency,
    summarize_system,
    votes_at_equal_cost,
)
from aflow_trl.improvement import MIX, Search, SearchSettings, load_improvements, selection
from aflow_trl.rollouts import Rollouts
from conftest import ScriptedEndpoint, chat_response

ROWS = list(itertools.islice(synthetic_rows(11, "test"), 6))


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aflow_trl.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def result(correct: float | None, calls: int = 1) -> Result:
    return Result(correct, correct, True, calls, 10, 0.0, 0.1, "Custom", "a", "ok")


def write_rows(path: Path, seed: int, count: int) -> str:
    rows = itertools.islice(synthetic_rows(seed, "test"), count)
    path.write_text("".join(json.dumps(row.columns()) + "\n" for row in rows))
    return str(path)


# -- what results amount to --------------------------------------------------------------------------------------------


def test_unscored_problems_are_told_and_never_wrong() -> None:
    own = summarize_system([[result(1.0)], [result(None)], [result(0.0)]], ROWS[:3])
    assert own["strict"]["mean"] == 0.5 and own["strict"]["n"] == 2
    assert own["unscored_share"] == pytest.approx(1 / 3)


def test_seeds_of_a_problem_count_once() -> None:
    own = summarize_system([[result(1.0), result(0.0)], [result(1.0), result(1.0)]], ROWS[:2])
    assert own["strict"]["mean"] == 0.75 and own["strict"]["n"] == 2


def test_paired_difference_finds_a_difference_and_finds_none() -> None:
    half = [[result(float(index % 2))] for index in range(60)]
    better = [[result(1.0)] for _ in range(60)]
    found = paired_difference(better, half)
    assert found["mean"] == 0.5 and 0.3 < found["low"] < found["high"] < 0.7 and found["p"] < 0.01
    none = paired_difference(half, half)
    assert (none["mean"], none["low"], none["high"], none["p"]) == (0.0, 0.0, 0.0, 1.0)


def test_the_interval_of_a_difference_covers_it_as_often_as_it_says() -> None:
    import random

    covered = 0
    for seed in range(60):
        dice = random.Random(seed)
        pairs = [(float(dice.random() < 0.7), float(dice.random() < 0.5)) for _ in range(150)]
        found = paired_difference([[result(a)] for a, _ in pairs], [[result(b)] for _, b in pairs], seed=seed)
        covered += found["low"] <= 0.2 <= found["high"]
    assert covered >= 52


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, None]), min_size=4, max_size=4), min_size=1, max_size=4))
def test_the_oracle_is_as_good_as_the_best_of_each_problem(table: list[list[float | None]]) -> None:
    systems = {str(number): [[result(value)] for value in values] for number, values in enumerate(table)}
    for problem, own in enumerate(oracle(systems)):
        known = [values[problem] for values in table if values[problem] is not None]
        assert own[0].correct == (max(known) if known else None)


def test_of_equals_the_cheaper_one_is_best() -> None:
    assert best_on({"dear": [[result(1.0, 5)]], "cheap": [[result(1.0, 1)]], "wrong": [[result(0.0, 1)]]}) == "cheap"


@pytest.mark.parametrize(("calls", "votes"), [(0.5, 2), (3.4, 3), (50.0, 9)])
def test_self_consistency_costs_about_as_much(calls: float, votes: int) -> None:
    assert votes_at_equal_cost(calls) == votes
    assert format_workflow(parse(self_consistency(votes))) == self_consistency(votes)


# -- runs --------------------------------------------------------------------------------------------------------------


def evaluation(
    endpoint: ScriptedEndpoint, folder: Path, rows: Sequence[Row] = ROWS, seeds: Sequence[int] = (0,)
) -> Any:
    return Evaluation(Rollouts(endpoint.engine_of_short_calls()), rows, folder, seeds, lambda *_: None)


def all_of(text: str) -> Callable[[int], list[str]]:
    return lambda seed: [text] * len(ROWS)


async def test_what_was_done_is_not_done_again(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    first = await evaluation(endpoint, tmp_path).run("Custom", all_of("Custom"))
    calls = len(endpoint.payloads)
    again = await evaluation(endpoint, tmp_path, seeds=(0, 1)).run("Custom", all_of("Custom"))
    assert calls == len(ROWS) and len(endpoint.payloads) == 2 * calls
    assert [own[0] for own in again] == [own[0] for own in first]


async def test_a_line_that_was_cut_off_is_done_again(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    await evaluation(endpoint, tmp_path).run("Custom", all_of("Custom"))
    (path,) = tmp_path.glob("*.jsonl")
    path.write_bytes(path.read_bytes()[:-20])
    calls = len(endpoint.payloads)
    assert len(await evaluation(endpoint, tmp_path).run("Custom", all_of("Custom"))) == len(ROWS)
    assert len(endpoint.payloads) == calls + 1


async def test_what_an_endpoint_lost_is_unscored_and_tried_again(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.script = lambda prompt, number: web.Response(status=500)
    lost = await evaluation(endpoint, tmp_path).run("Custom", all_of("Custom"))
    assert summarize_system(lost, ROWS)["unscored_share"] == 1.0
    endpoint.script = lambda prompt, number: chat_response("The answer is 1.")
    found = await evaluation(endpoint, tmp_path).run("Custom", all_of("Custom"))
    assert summarize_system(found, ROWS)["unscored_share"] == 0.0


async def test_one_question_with_two_golds_is_two_problems(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.script = lambda prompt, number: chat_response("The answer is 1.")
    rows = [Row("Same?", (gold,), "math", source="x", id="same") for gold in ("1", "2")]
    own = await evaluation(endpoint, tmp_path, rows).run("Custom", lambda seed: ["Custom"] * 2)
    assert [runs[0].correct for runs in own] == [1.0, 0.0]


def test_a_few_problems_prove_nothing() -> None:
    few = paired_difference([[result(1.0)]] * 3, [[result(0.0)]] * 3)
    assert (few["mean"], few["low"], few["high"], few["p"]) == (1.0, -1.0, 1.0, 1.0)


def test_the_best_is_told_on_what_all_were_scored_on() -> None:
    lucky = [[result(1.0, 2)], [result(None)], [result(None)]]
    steady = [[result(1.0)], [result(1.0)], [result(0.0)]]
    assert best_on({"lucky": lucky, "steady": steady}) == "steady"


async def test_the_best_fixed_workflow_is_chosen_on_validation(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    # `Custom` is right on the test problem, `Format` on the one for validation.
    test, valid = Row("Test?", ("1",), "math", source="x", id="t"), Row("Valid?", ("2",), "math", source="x", id="v")

    def script(prompt: str, number: int) -> Any:
        formats = "<answer>" in prompt
        return chat_response("<answer>2</answer>" if formats else "The answer is 1.")

    endpoint.script = script
    report = await evaluate(
        evaluation(endpoint, tmp_path / "test", [test]),
        policies={},
        workflows=["Custom", "Format"],
        validation=evaluation(endpoint, tmp_path / "valid", [valid]),
    )
    assert report["best_fixed"] == "Format"
    assert report["systems"]["best fixed, chosen on validation"]["strict"]["mean"] == 0.0
    assert report["systems"]["oracle over the list"]["strict"]["mean"] == 1.0


def test_the_command_writes_a_table_a_plot_and_results(tiny_model: Path, tmp_path: Path) -> None:
    data, valid = write_rows(tmp_path / "test.jsonl", 1, 9), write_rows(tmp_path / "valid.jsonl", 2, 9)
    command = ["eval", data, "--valid", valid, "--model", str(tiny_model), "--workflow", "Custom"]
    command += ["--workflow", "Programmer", "--seeds", "0", "1", "--out", str(tmp_path / "out")]
    done = cli(*command)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {"trained policy", "single call: Custom", "chain of thought: AnswerGenerate"} <= set(report["systems"])
    assert {"random valid workflow", "oracle over the list", "Programmer"} <= set(report["systems"])
    assert report["differences"]["trained policy"]["n"] == 9 and report["seeds"] == [0, 1]
    assert (tmp_path / "out" / "accuracy_cost.png").stat().st_size > 10_000
    assert "| system |" in (tmp_path / "out" / "results.md").read_text() and "unscored" in done.stdout
    again = cli(*command)
    assert again.returncode == 0 and again.stdout == done.stdout
    other = cli("eval", valid, "--out", str(tmp_path / "out"))
    assert other.returncode == 2 and "--out" in other.stderr and "data" in other.stderr


def test_validation_on_the_tested_problems_is_refused(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "test.jsonl", 1, 3)
    done = cli("eval", data, "--valid", data, "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and "3 problems are in both" in done.stderr


# -- search ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_the_choice_of_a_parent_is_a_soft_mix(scores: list[float]) -> None:
    chances = selection(scores)
    assert sum(chances) == pytest.approx(1.0) and min(chances) >= MIX / len(scores) - 1e-12
    assert all(a >= b for a, b in itertools.pairwise(p for _, p in sorted(zip(scores, chances, strict=True))[::-1]))


def test_the_choice_of_a_parent_is_the_published_one() -> None:
    # Ten percent apart: exp(0.2 * 10) times as likely, beside the part left to chance.
    better, worse = selection([0.6, 0.5])
    assert (better - 0.15) / (worse - 0.15) == pytest.approx(2.718281828**2)


def search(endpoint: ScriptedEndpoint, path: Path, replies: list[str], **settings: Any) -> Search:
    async def propose(messages: Sequence[dict[str, str]], seed: int) -> str:
        return replies[min(seed // 3 - 2, len(replies) - 1)]

    rows = [Row("What is 6 * 7?", ("42",), "math"), Row("What is 1 + 1?", ("2",), "math")]
    return Search(Rollouts(endpoint.engine()), rows, propose, SearchSettings(passes=1, **settings), path)


def skilled(prompt: str, number: int) -> Any:
    """Format is always right here, Custom half of the time."""
    right = "42" if "6 * 7" in prompt else "2"
    return chat_response(f"<answer>{right}</answer>" if "<answer>" in prompt else "The answer is 42.")


EDITS = [
    "<workflow>Custom -> Format</workflow>",
    "no idea",
    "<workflow>Format</workflow>",
    "<workflow>Custom -> (</workflow>",
]


async def test_a_search_finds_what_is_better_and_keeps_records(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.script = skilled
    own = search(endpoint, tmp_path / "rounds.jsonl", EDITS, rounds=4)
    best = await own.run(lambda one: None)
    assert best.score == 1.0 and best.workflow in ("Custom -> Format", "Format")
    assert [one.number for one in own.tried] == [1, 2, 3, 4]
    records = own.records()
    assert records[0].parent_workflow == "Custom" and records[0].tag == "improved"
    assert records[0].failures and records[0].failures[0].gold == "2"


async def test_a_search_that_was_ended_goes_on_as_if_it_had_not_been(
    endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    endpoint.script = skilled
    whole = search(endpoint, tmp_path / "whole.jsonl", EDITS, rounds=5)
    await whole.run(lambda one: None)
    await search(endpoint, tmp_path / "cut.jsonl", EDITS, rounds=2).run(lambda one: None)
    with (tmp_path / "cut.jsonl").open("a") as file:
        file.write('{"number": 3, "workf')
    resumed = search(endpoint, tmp_path / "cut.jsonl", EDITS, rounds=5)
    await resumed.run(lambda one: None)
    assert resumed.tried == whole.tried


async def test_a_search_without_progress_ends_early(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.script = skilled
    own = search(endpoint, tmp_path / "rounds.jsonl", ["no idea"], rounds=20, patience=3)
    await own.run(lambda one: None)
    assert len(own.tried) == 4 and not own.records()


def test_the_command_searches_with_the_simulated_optimizer(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "valid.jsonl", 2, 12)
    command = ["search", data, "--rounds", "4", "--passes", "2", "--out", str(tmp_path / "out")]
    done = cli(*command)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "best for math" in done.stdout and "best for qa" in done.stdout
    assert load_improvements(tmp_path / "out" / "improvements.jsonl", builtin_vocabulary())
    again = cli(*command)
    assert (
        again.stdout.splitlines()[-4:] == done.stdout.splitlines()[-4:]
        and "round" not in again.stdout.split("best")[0]
    )
