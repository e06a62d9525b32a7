"""Evaluation and search from files to files: resumed, cached, nothing hidden, nothing chosen on what is reported."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from aflow_trl.data import Row, synthetic_rows
from aflow_trl.dsl import builtin_vocabulary, format_workflow, parse
from aflow_trl.engine import Engine
from aflow_trl.evaluation import (
    Result,
    Results,
    SystemEvaluator,
    best_on,
    evaluate,
    oracle_choice,
    paired_difference,
    pass_at_k,
    plot_evaluation,
    run_evaluation,
    self_consistency,
    summarize_system,
    votes_at_equal_cost,
)
from aflow_trl.improvement import MIX, Search, SearchSettings, load_improvements, selection
from aflow_trl.llm import LLMClient
from aflow_trl.rollouts import Rollouts
from command_line import aflow, read_strictly
from conftest import ScriptedEndpoint, chat_response

ROWS = list(itertools.islice(synthetic_rows(11, "test"), 6))


def result(correct: float | None, calls: int = 1, workflow: str = "Custom") -> Result:
    return Result(correct, correct, correct, True, calls, 10, 0.0, 0.1, workflow, "a", "ok")


def write_rows(path: Path, seed: int, count: int) -> str:
    rows = itertools.islice(synthetic_rows(seed, "test"), count)
    path.write_text("".join(json.dumps(row.columns()) + "\n" for row in rows))
    return str(path)


# -- summaries and comparisons of results ------------------------------------------------------------------------------


def test_unscored_problems_are_reported_and_never_count_as_wrong() -> None:
    summary = summarize_system([[result(1.0)], [result(None)], [result(0.0)]], ROWS[:3])
    assert summary["strict"]["mean"] == 0.5 and summary["strict"]["n"] == 2
    assert summary["unscored_share"] == pytest.approx(1 / 3)


def test_a_problem_with_several_seeds_counts_once() -> None:
    summary = summarize_system([[result(1.0), result(0.0)], [result(1.0), result(1.0)]], ROWS[:2])
    assert summary["strict"]["mean"] == 0.75 and summary["strict"]["n"] == 2


def test_paired_difference_detects_a_difference() -> None:
    half = [[result(float(index % 2))] for index in range(60)]
    difference = paired_difference([[result(1.0)] for _ in range(60)], half)
    assert difference["mean"] == 0.5 and difference["p"] < 0.01
    assert 0.3 < difference["low"] < difference["high"] < 0.7


def test_paired_difference_of_equal_results_is_zero() -> None:
    half = [[result(float(index % 2))] for index in range(60)]
    difference = paired_difference(half, half)
    assert [difference[name] for name in ("mean", "low", "high", "p")] == [0.0, 0.0, 0.0, 1.0]


def test_paired_difference_of_a_few_problems_is_never_significant() -> None:
    difference = paired_difference([[result(1.0)]] * 3, [[result(0.0)]] * 3)
    assert [difference[name] for name in ("mean", "low", "high", "p")] == [1.0, -1.0, 1.0, 1.0]


def test_interval_of_a_paired_difference_covers_at_its_nominal_rate() -> None:
    covered = 0
    for seed in range(60):
        rng = random.Random(seed)
        pairs = [(float(rng.random() < 0.7), float(rng.random() < 0.5)) for _ in range(150)]
        difference = paired_difference([[result(a)] for a, _ in pairs], [[result(b)] for _, b in pairs], seed=seed)
        covered += difference["low"] <= 0.2 <= difference["high"]
    # 95 % of 60 are 57; 52 is three standard deviations below.
    assert covered >= 52


CORRECT = st.sampled_from([0.0, 1.0])
CORRECT_OR_UNSCORED = st.sampled_from([0.0, 1.0, None])


def tables(
    value: st.SearchStrategy[Any], *, systems: int = 5, seeds: int = 3
) -> st.SearchStrategy[dict[str, Results]]:
    """Results of up to `systems` systems on the same problems and seeds."""

    def table(shape: tuple[int, int, int]) -> st.SearchStrategy[dict[str, Results]]:
        count, problems, repetitions = shape
        runs = st.builds(result, value, st.integers(1, 9))
        grid = st.lists(
            st.lists(runs, min_size=repetitions, max_size=repetitions), min_size=problems, max_size=problems
        )
        return st.fixed_dictionaries({f"system {number}": grid for number in range(count)})

    return st.tuples(st.integers(1, systems), st.integers(1, 4), st.integers(1, seeds)).flatmap(table)


@given(tables(CORRECT, seeds=1))
def test_pass_at_k_is_the_unbiased_estimator(systems: dict[str, Results]) -> None:
    """The mean over all choices of k of n samples is 1 - C(n-c, k) / C(n, k), for c right ones (arXiv 2107.03374)."""
    n = len(systems)
    for k, problem in itertools.product(range(1, n + 1), range(len(systems["system 0"]))):
        right = sum(int(runs[problem][0].correct or 0) for runs in systems.values())
        choices = [dict(choice) for choice in itertools.combinations(systems.items(), k)]
        mean = fmean(pass_at_k(choice)[problem][0].correct or 0 for choice in choices)
        assert mean == pytest.approx(1 - math.comb(n - right, k) / math.comb(n, k))


@given(tables(CORRECT_OR_UNSCORED))
def test_pass_at_k_is_the_best_scored_result_of_each_problem_and_seed(systems: dict[str, Results]) -> None:
    for problem, runs in enumerate(pass_at_k(systems)):
        for seed, best in enumerate(runs):
            scored = [table[problem][seed].correct for table in systems.values()]
            assert best.correct == max((value for value in scored if value is not None), default=None)


@given(tables(CORRECT))
def test_the_oracle_choice_never_beats_pass_at_k(systems: dict[str, Results]) -> None:
    choice = oracle_choice(systems)
    if choice is not None:
        bound = pass_at_k(systems)
        pairs = ((a, b) for left, right in zip(choice, bound, strict=True) for a, b in zip(left, right, strict=True))
        assert all((chosen.correct or 0) <= (best.correct or 0) for chosen, best in pairs)


@given(tables(CORRECT, seeds=3), CORRECT)
def test_the_oracle_never_chooses_by_the_result_it_is_scored_on(systems: dict[str, Results], changed: float) -> None:
    named = {
        name: [[result(run.correct, run.calls, name) for run in runs] for runs in table]
        for name, table in systems.items()
    }
    choice = oracle_choice(named)
    if choice is None:
        assert len(systems["system 0"][0]) == 1, "there is no second seed to choose by"
        return
    for name, table in named.items():
        other = named | {name: [[result(changed, runs[0].calls, name), *runs[1:]] for runs in table]}
        again = oracle_choice(other)
        assert again is not None
        assert [runs[0].workflow for runs in again] == [runs[0].workflow for runs in choice]


def test_the_oracle_choice_finds_the_specialist_of_each_problem() -> None:
    first = [[result(1.0)] * 3, [result(0.0)] * 3]
    second = [[result(0.0)] * 3, [result(1.0)] * 3]
    choice = oracle_choice({"first": first, "second": second})
    assert choice is not None and [run.correct for runs in choice for run in runs] == [1.0] * 6


def test_luck_alone_gives_the_oracle_choice_no_advantage() -> None:
    """Systems with independent coin flips look good by pass@k; choosing among them by other seeds gains nothing."""
    rng = random.Random(0)
    systems = {
        str(number): [[result(float(rng.random() < 0.5)) for _ in range(2)] for _ in range(400)] for number in range(6)
    }
    choice, bound = oracle_choice(systems), pass_at_k(systems)
    assert choice is not None
    accuracy, upper = (fmean(run.correct or 0 for runs in table for run in runs) for table in (choice, bound))
    assert upper > 0.9 and abs(accuracy - 0.5) < 0.08


def test_of_equally_accurate_systems_the_cheaper_one_is_best() -> None:
    assert best_on({"dear": [[result(1.0, 5)]], "cheap": [[result(1.0, 1)]], "wrong": [[result(0.0, 1)]]}) == "cheap"


def test_systems_are_compared_on_the_problems_that_all_were_scored_on() -> None:
    lucky = [[result(1.0, 2)], [result(None)], [result(None)]]
    steady = [[result(1.0)], [result(1.0)], [result(0.0)]]
    assert best_on({"lucky": lucky, "steady": steady}) == "steady"


@pytest.mark.parametrize(("calls", "votes"), [(0.5, 2), (3.4, 3), (50.0, 9)])
def test_self_consistency_costs_about_as_much_as_the_policy(calls: float, votes: int) -> None:
    assert votes_at_equal_cost(calls) == votes
    assert format_workflow(parse(self_consistency(votes))) == self_consistency(votes)


# -- evaluation of systems ---------------------------------------------------------------------------------------------


def evaluator(
    endpoint: ScriptedEndpoint, folder: Path, rows: Sequence[Row] = ROWS, seeds: Sequence[int] = (0,)
) -> SystemEvaluator:
    return SystemEvaluator(Rollouts(endpoint.engine_of_short_calls()), rows, folder, seeds, lambda *_: None)


def all_of(text: str) -> Callable[[int], list[str]]:
    return lambda seed: [text] * len(ROWS)


async def test_finished_results_are_read_from_disk(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    first = await evaluator(endpoint, tmp_path).run("Custom", all_of("Custom"))
    calls = len(endpoint.payloads)
    again = await evaluator(endpoint, tmp_path, seeds=(0, 1)).run("Custom", all_of("Custom"))
    assert calls == len(ROWS) and len(endpoint.payloads) == 2 * calls
    assert [runs[0] for runs in again] == [runs[0] for runs in first]


async def test_a_truncated_line_is_evaluated_again(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    await evaluator(endpoint, tmp_path).run("Custom", all_of("Custom"))
    (path,) = tmp_path.glob("*.jsonl")
    path.write_bytes(path.read_bytes()[:-20])
    calls = len(endpoint.payloads)
    assert len(await evaluator(endpoint, tmp_path).run("Custom", all_of("Custom"))) == len(ROWS)
    assert len(endpoint.payloads) == calls + 1


async def test_a_problem_that_the_endpoint_failed_on_is_unscored_and_tried_again(
    endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    endpoint.script = lambda prompt, number: web.Response(status=500)
    failed = await evaluator(endpoint, tmp_path).run("Custom", all_of("Custom"))
    assert summarize_system(failed, ROWS)["unscored_share"] == 1.0
    endpoint.script = lambda prompt, number: chat_response("The answer is 1.")
    results = await evaluator(endpoint, tmp_path).run("Custom", all_of("Custom"))
    assert summarize_system(results, ROWS)["unscored_share"] == 0.0


async def test_one_question_with_two_golds_is_two_problems(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.script = lambda prompt, number: chat_response("The answer is 1.")
    rows = [Row("Same?", (gold,), "math", source="x", id="same") for gold in ("1", "2")]
    results = await evaluator(endpoint, tmp_path, rows).run("Custom", lambda seed: ["Custom"] * 2)
    assert [runs[0].correct for runs in results] == [1.0, 0.0]


async def test_the_best_fixed_workflow_is_chosen_on_validation(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    # `Custom` is right on the test problem, `Format` on the one for validation.
    test, valid = Row("Test?", ("1",), "math", source="x", id="t"), Row("Valid?", ("2",), "math", source="x", id="v")

    def script(prompt: str, number: int) -> Any:
        formats = "<answer>" in prompt
        return chat_response("<answer>2</answer>" if formats else "The answer is 1.")

    endpoint.script = script
    report = await evaluate(
        evaluator(endpoint, tmp_path / "test", [test]),
        policies={},
        workflows=["Custom", "Format"],
        validation=evaluator(endpoint, tmp_path / "valid", [valid]),
    )
    assert report["best_fixed"] == "Format"
    assert report["systems"]["best fixed, chosen on validation"]["strict"]["mean"] == 0.0
    assert report["systems"]["pass@2 over the list"]["strict"]["mean"] == 1.0


@pytest.mark.parametrize(
    ("seeds", "bounds"),
    [((0,), ["pass@2 over the list"]), ((0, 1), ["pass@2 over the list", "oracle choice from the list"])],
)
async def test_bounds_are_reported_but_nothing_is_compared_with_them(
    seeds: tuple[int, ...], bounds: list[str], endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    endpoint.script = lambda prompt, number: chat_response("The answer is 1.")
    report = await evaluate(
        evaluator(endpoint, tmp_path, seeds=seeds),
        policies={},
        workflows=["Custom", "Format"],
        validation=None,
    )
    assert report["bounds"] == bounds and set(bounds) <= set(report["systems"])
    assert report["best_baseline"] not in bounds


async def test_an_evaluation_without_a_single_score_writes_json_that_a_strict_parser_reads(
    endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    # It works while it is tried, and fails on every problem.
    trials = ("What is 2 + 3?", "the sum of two numbers")
    endpoint.script = lambda prompt, number: (
        web.Response(status=500) if "<task>" in prompt and not any(trial in prompt for trial in trials) else "ready"
    )
    client: LLMClient = endpoint.client(executor_call_timeout_s=0.3)

    def run() -> dict[str, Any]:
        return run_evaluation(
            Engine(client),
            data=write_rows(tmp_path / "test.jsonl", 1, 2),
            valid=None,
            policy=None,
            workflows=["Custom", "Format"],
            seeds=[0],
            limit=2,
            out=tmp_path / "out",
            on_progress=lambda *_: None,
        )

    # It starts an event loop of its own, beside the one that the endpoint runs on.
    report = await asyncio.to_thread(run)
    assert math.isnan(report["systems"]["Format"]["strict"]["mean"])
    written = read_strictly(tmp_path / "out")
    assert written["results.json"]["systems"]["Format"]["strict"]["mean"] is None


def test_the_plot_shows_every_system_at_its_accuracy_and_cost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures: list[Any] = []
    monkeypatch.setattr("aflow_trl.evaluation.report.save_figure", lambda figure, path: figures.append(figure))
    systems = {
        name: summarize_system([[result(value, calls)] for value in values], ROWS[:2])
        for name, calls, values in (
            ("trained policy", 2, (1.0, 1.0)),
            ("Custom", 1, (1.0, 0.0)),
            ("bad", 7, (0.0, 0.0)),
        )
    }
    report = {
        **{"systems": systems, "differences": {"trained policy": {}}, "bounds": ["bad"], "best_fixed": None},
        **{"problems": 2, "seeds": [0], "executor": "e"},
    }
    plot_evaluation(report, tmp_path / "plot.png")
    (axis,) = figures[0].axes
    points = {
        container.get_label().split(maxsplit=1)[1]: tuple(float(values[0]) for values in container.lines[0].get_data())
        for container in axis.containers
    }
    assert points == {"trained policy": (2.0, 1.0), "Custom": (1.0, 0.5), "bad": (7.0, 0.0)}


@pytest.fixture(scope="module")
def evaluation(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An evaluation by the command: its command line, its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("evaluation")
    data, valid = write_rows(folder / "test.jsonl", 1, 9), write_rows(folder / "valid.jsonl", 2, 9)
    command = ["eval", data, "--simulated", "--valid", valid, "--model", str(tiny_model), "--workflow", "Custom"]
    command += ["--workflow", "Programmer", "--seeds", "0", "1", "--out", str(folder / "out")]
    return {"command": command, "out": folder / "out", "valid": valid, "finished": aflow(*command)}


def test_eval_reports_policies_baselines_and_bounds(evaluation: dict[str, Any]) -> None:
    assert evaluation["finished"].returncode == 0, evaluation["finished"].stderr[-2000:]
    report = json.loads((evaluation["out"] / "results.json").read_text())
    assert set(report["systems"]) == {
        *("trained policy", "single call: Custom", "chain of thought: AnswerGenerate", "self-consistency of 2"),
        *("random valid workflow", "best fixed, chosen on validation", "Programmer"),
        *("pass@2 over the list", "oracle choice from the list"),
    }
    assert report["differences"]["trained policy"]["n"] == 9 and report["seeds"] == [0, 1]


def test_the_page_has_a_row_for_every_system(evaluation: dict[str, Any]) -> None:
    report = json.loads((evaluation["out"] / "results.json").read_text())
    lines = (evaluation["out"] / "results.md").read_text().splitlines()
    rows = [line.split("|")[1].strip().strip("`") for line in lines if line.startswith("|")]
    assert rows[0] == "system" and set(rows[2:]) == set(report["systems"])


def test_eval_given_again_prints_the_same_from_disk(
    evaluation: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished evaluation executes nothing")

    monkeypatch.setattr(Rollouts, "execute", fail)
    again = aflow(*evaluation["command"])
    assert again.returncode == 0 and again.stdout == evaluation["finished"].stdout


def test_a_folder_of_another_evaluation_is_refused_by_name(evaluation: dict[str, Any]) -> None:
    other = aflow("eval", "--simulated", evaluation["valid"], "--out", str(evaluation["out"]))
    assert other.returncode == 2 and "--out" in other.stderr and "data" in other.stderr


def test_validation_on_the_tested_problems_is_refused(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "test.jsonl", 1, 3)
    refused = aflow("eval", "--simulated", data, "--valid", data, "--out", str(tmp_path / "out"))
    assert refused.returncode == 2 and "3 problems are in both" in refused.stderr


BAD_ARGUMENTS = [
    (["eval", "--limit", "0"], ["--limit", "at least 1"]),
    (["eval", "--limit", "-5"], ["--limit", "at least 1"]),
    (["eval", "--workflows", "no-such-list.txt"], ["no-such-list.txt", "one workflow per line"]),
    (["eval", "--workflow", "Custom -> Solve"], ["Solve", "unknown_operator"]),
    (["eval", "--model", "no-such-model", "--temperature", "-1"], ["temperature", "0 or more"]),
    (["eval", "--valid", "no-such-data.jsonl"], ["no-such-data.jsonl", "does not exist"]),
    (["search", "--limit", "0"], ["--limit", "at least 1"]),
    (["search", "--limit", "-5"], ["--limit", "at least 1"]),
    (["search", "--passes", "0"], ["--passes", "at least 1"]),
    (["search", "--rounds", "0"], ["--rounds", "at least 1"]),
    (["search", "--patience", "0"], ["--patience", "at least 1"]),
]


@pytest.mark.parametrize(("command", "texts"), BAD_ARGUMENTS, ids=[" ".join(row[0]) for row in BAD_ARGUMENTS])
def test_a_bad_argument_is_named_with_its_remedy(command: list[str], texts: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused = aflow(*command, "--simulated", write_rows(tmp_path / "rows.jsonl", 1, 2), "--out", str(out))
    assert refused.returncode == 2 and all(text in refused.stderr for text in texts), refused.stderr
    assert "Traceback" not in refused.stderr and not out.exists()


@pytest.mark.parametrize("command", ["eval", "search"])
def test_missing_data_is_named(command: str, tmp_path: Path) -> None:
    refused = aflow(command, "--simulated", str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "out"))
    assert refused.returncode == 2 and "none.jsonl" in refused.stderr and "does not exist" in refused.stderr


def test_an_empty_list_of_workflows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n  \n")
    refused = aflow(
        "eval",
        "--simulated",
        write_rows(tmp_path / "rows.jsonl", 1, 2),
        "--workflows",
        str(tmp_path / "list.txt"),
        "--out",
        str(tmp_path / "out"),
    )
    assert refused.returncode == 2 and "list.txt" in refused.stderr and "is empty" in refused.stderr


# -- search ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_the_choice_of_a_parent_is_a_soft_mix(scores: list[float]) -> None:
    chances = selection(scores)
    assert sum(chances) == pytest.approx(1.0) and min(chances) >= MIX / len(scores) - 1e-12
    assert all(a >= b for a, b in itertools.pairwise(p for _, p in sorted(zip(scores, chances, strict=True))[::-1]))


def test_the_choice_of_a_parent_follows_the_published_formula() -> None:
    # Ten percent apart: exp(0.2 * 10) times as likely, beside the share that is left to chance.
    better, worse = selection([0.6, 0.5])
    assert (better - MIX / 2) / (worse - MIX / 2) == pytest.approx(math.exp(2))


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


async def test_a_search_finds_a_better_workflow_and_records_the_improvement(
    endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    endpoint.script = skilled
    finder = search(endpoint, tmp_path / "rounds.jsonl", EDITS, rounds=4)
    best = await finder.run(lambda _: None)
    assert best.score == 1.0 and best.workflow in ("Custom -> Format", "Format")
    assert [tried.number for tried in finder.tried] == [1, 2, 3, 4]
    records = finder.records()
    assert records[0].parent_workflow == "Custom" and records[0].tag == "improved"
    assert records[0].failures and records[0].failures[0].gold == "2"


async def test_an_interrupted_search_continues_as_if_it_had_not_been(
    endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    endpoint.script = skilled
    whole = search(endpoint, tmp_path / "whole.jsonl", EDITS, rounds=5)
    await whole.run(lambda _: None)
    await search(endpoint, tmp_path / "cut.jsonl", EDITS, rounds=2).run(lambda _: None)
    with (tmp_path / "cut.jsonl").open("a") as file:
        file.write('{"number": 3, "workf')
    resumed = search(endpoint, tmp_path / "cut.jsonl", EDITS, rounds=5)
    await resumed.run(lambda _: None)
    assert resumed.tried == whole.tried


async def test_a_search_without_progress_stops_early(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.script = skilled
    finder = search(endpoint, tmp_path / "rounds.jsonl", ["no idea"], rounds=20, patience=3)
    await finder.run(lambda _: None)
    assert len(finder.tried) == 4 and not finder.records()


@pytest.fixture(scope="module")
def simulated_search(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A search by the command with the simulated optimizer: its command line, its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("search")
    data = write_rows(folder / "valid.jsonl", 2, 12)
    command = ["search", "--simulated", data, "--rounds", "4", "--passes", "2", "--out", str(folder / "out")]
    return {"command": command, "out": folder / "out", "finished": aflow(*command)}


def test_search_searches_every_domain_and_writes_records(simulated_search: dict[str, Any]) -> None:
    finished = simulated_search["finished"]
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert all(f"best for {domain}" in finished.stdout for domain in ("math", "code", "qa"))
    assert load_improvements(simulated_search["out"] / "improvements.jsonl", builtin_vocabulary())


def test_search_given_again_reports_the_same_without_another_round(simulated_search: dict[str, Any]) -> None:
    again = aflow(*simulated_search["command"])
    expected = [line for line in simulated_search["finished"].stdout.splitlines() if " round " not in line]
    assert again.stdout.splitlines() == expected


def test_a_folder_of_another_search_is_refused_by_name(simulated_search: dict[str, Any]) -> None:
    refused = aflow(*simulated_search["command"], "--passes", "3")
    assert refused.returncode == 2 and "passes" in refused.stderr and "--out" in refused.stderr
