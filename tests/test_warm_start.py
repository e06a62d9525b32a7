"""The warm start: it finds good workflows within its budget, fine-tunes on them, and pays for nothing twice."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from aflow_trl.data import Row, load_rows
from aflow_trl.dsl import analyze, builtin_vocabulary, format_workflow, parse, workflow_templates
from aflow_trl.errors import RecipeError
from aflow_trl.recipes import load_recipe
from aflow_trl.rollouts import read_traces
from aflow_trl.train import main as train
from aflow_trl.warm_start import (
    Candidate,
    EvalRequest,
    EvalResult,
    Group,
    HalvingSearch,
    group_of,
    group_rows,
    search_prices,
    successive_halving,
    winners_at,
)
from command_line import aflow, is_drawn

ROOT = Path(__file__).parent.parent
GROUP = Group("math")


class Bandit:
    """Workflows of fixed skill; a run costs up to `costs` calls."""

    def __init__(self, skill: dict[str, float], costs: dict[str, int], seed: int = 0) -> None:
        self.skill, self.costs, self.rng = skill, costs, random.Random(seed)
        self.spent = 0

    async def measure(self, requests: Sequence[EvalRequest]) -> list[EvalResult]:
        results = []
        for request in requests:
            cost = self.rng.randint(1, self.costs[request.workflow])
            self.spent += cost
            results.append(EvalResult(float(self.rng.random() < self.skill[request.workflow]), cost, cost))
        return results


def search(bandit: Bandit, budget: int, winners: int = 3, rows: int = 10_000) -> HalvingSearch:
    halving = HalvingSearch(GROUP, rows, bandit.costs, budget, winners, seed=0)
    asyncio.run(successive_halving([halving], bandit.measure))
    return halving


# -- successive halving ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_best_workflow_is_found_among_many(seed: int) -> None:
    names = [f"w{number}" for number in range(64)]
    skill = {name: 0.3 + 0.4 * number / 63 for number, name in enumerate(names)} | {"w20": 0.95}
    halving = search(Bandit(skill, dict.fromkeys(names, 2), seed), budget=6_000)
    assert halving.best[0].workflow == "w20"
    # Spread evenly, the budget would give each of the 64 fewer than 70 problems.
    assert halving.best[0].scored > 200, "the finalists get most of the budget"


@given(
    count=st.integers(1, 40),
    budget=st.integers(1, 2_000),
    max_cost=st.integers(1, 40),
    winners=st.integers(1, 4),
    rows=st.integers(1, 50),
)
@settings(max_examples=80, deadline=None)
def test_the_budget_is_never_exceeded(count: int, budget: int, max_cost: int, winners: int, rows: int) -> None:
    names = [f"w{number}" for number in range(count)]
    bandit = Bandit(dict.fromkeys(names, 0.5), dict.fromkeys(names, max_cost))
    halving = search(bandit, budget, winners, rows)
    assert bandit.spent == halving.paid <= budget
    best = halving.best
    assert len(best) <= winners
    # Nothing is tried only where not even a single run is affordable.
    assert best or max_cost > budget


def candidates_of(
    costs: dict[str, int], budget: int, *, seed: int, protected: Collection[str] = (), winners: int = 1
) -> set[str]:
    halving = HalvingSearch(GROUP, 100, costs, budget, winners, seed, protected)
    return {candidate.workflow for candidate in halving.candidates}


@given(seed=st.integers(0, 1_000), count=st.integers(3, 60), budget=st.integers(1, 60), cost=st.integers(1, 8))
def test_workflows_of_the_user_are_dropped_last_where_the_budget_is_small(
    seed: int, count: int, budget: int, cost: int
) -> None:
    costs = {f"w{number}": cost for number in range(count)}
    tried = candidates_of(costs, budget, seed=seed, protected=("w1", "w2"))
    assert len(tried & {"w1", "w2"}) == min(2, len(tried))


def test_without_the_user_naming_them_which_workflows_are_dropped_depends_on_the_seed() -> None:
    costs = {f"w{number}": 5 for number in range(40)}
    assert len({frozenset(candidates_of(costs, 20, seed=seed)) for seed in range(10)}) > 1


def test_of_equally_good_workflows_the_cheaper_wins() -> None:
    halving = search(Bandit({"dear": 1.0, "cheap": 1.0}, {"dear": 9, "cheap": 1}), budget=2_000, winners=1)
    assert [candidate.workflow for candidate in halving.best] == ["cheap"]


def test_a_run_that_the_infrastructure_lost_counts_neither_for_nor_against_a_workflow() -> None:
    class Flaky(Bandit):
        async def measure(self, requests: Sequence[EvalRequest]) -> list[EvalResult]:
            results = await super().measure(requests)
            return [
                EvalResult(None, 0, 1) if request.workflow == "good" and request.row % 2 else result
                for request, result in zip(requests, results, strict=True)
            ]

    halving = search(Flaky({"good": 1.0, "bad": 0.6}, {"good": 1, "bad": 1}), budget=400, winners=2)
    assert halving.best[0].workflow == "good" and halving.best[0].accuracy == 1.0


def survivor(workflow: str, accuracy: float, calls: int) -> Candidate:
    return Candidate(workflow, right=100 * accuracy, scored=100, calls=100 * calls, usd=calls)


def test_weights_follow_accuracy() -> None:
    survivors = {GROUP: [survivor("a", 0.9, 1), survivor("b", 0.85, 1), survivor("c", 0.1, 1)]}
    winners = winners_at(survivors, {GROUP: 1.0}, "model_calls", None)[GROUP]
    assert [winner.workflow for winner in winners] == ["a", "b"], "what would hardly be taught is left out"
    assert winners[0].weight > winners[1].weight and sum(winner.weight for winner in winners) == pytest.approx(1)


def mean_cost(winners: dict[Group, list[Candidate]], shares: dict[Group, float], unit: str) -> float:
    return sum(
        shares[group] * sum(item.weight * item.cost(unit) for item in items) for group, items in winners.items()
    )


@given(
    accuracies=st.lists(st.floats(0, 1), min_size=6, max_size=6),
    share=st.floats(0.1, 0.9),
    target=st.floats(1.0, 12.0),
    unit=st.sampled_from(["model_calls", "usd"]),
)
def test_winners_are_taught_in_shares_that_meet_the_target(
    accuracies: list[float], share: float, target: float, unit: str
) -> None:
    groups = [Group("math"), Group("qa")]
    shares = dict(zip(groups, (share, 1 - share), strict=True))
    names = [("cheap", 1), ("middle", 4), ("dear", 9)]
    rows = [survivor(name, accuracies[index], calls) for index, (name, calls) in enumerate(names * 2)]
    survivors = {groups[0]: rows[:3], groups[1]: rows[3:]}
    scale = 1.0 if unit == "model_calls" else 0.01
    held = mean_cost(winners_at(survivors, shares, unit, target * scale), shares, unit)
    assert held <= target * scale * 1.0001


def test_a_search_for_targets_keeps_the_cheap_and_the_good() -> None:
    skill = {"cheap": 0.6, "middle": 0.8, "dear": 0.9} | {f"bad{number}": 0.3 for number in range(30)}
    costs = {"cheap": 1, "middle": 4, "dear": 9} | {f"bad{number}": 5 for number in range(30)}
    bandit = Bandit(skill, costs)
    halving = HalvingSearch(GROUP, 10_000, costs, 20_000, 1, 0, prices=search_prices([2.0]))
    asyncio.run(successive_halving([halving], bandit.measure))
    assert {"cheap", "middle", "dear"} <= {candidate.workflow for candidate in halving.best}


def test_a_candidate_without_results_has_accuracy_zero() -> None:
    assert Candidate("Custom").accuracy == Candidate("Custom").calls_per_problem == 0


# -- candidates and groups ---------------------------------------------------------------------------------------------


def test_templates_are_distinct_and_within_the_limits() -> None:
    texts = [format_workflow(workflow) for workflow in workflow_templates()]
    assert len(texts) == len(set(texts)) > 200
    for text in texts:
        parse(text)


def test_templates_use_the_operators_of_the_recipe_only() -> None:
    vocabulary = {name: builtin_vocabulary()[name] for name in ("Custom", "ScEnsemble")}
    templates = list(workflow_templates(vocabulary=vocabulary))
    assert {name for template in templates for name in analyze(template).operators} == set(vocabulary)


def test_a_domain_is_split_by_difficulty_where_both_parts_are_large_enough() -> None:
    rows = load_rows("synthetic", split="train", count=300, seed=0)
    groups = group_rows(rows, 3)
    assert {str(group) for group in groups} == {
        f"{domain} {level}" for domain in ("math", "code", "qa") for level in ("easy", "hard")
    }
    assert sum(map(len, groups.values())) == 300
    assert all((row.difficulty >= 3) == (group.level == "hard") for group, part in groups.items() for row in part)


@pytest.mark.parametrize(("count", "hard_from"), [(300, None), (20, 3)], ids=["difficulty ignored", "few problems"])
def test_other_domains_stay_whole(count: int, hard_from: int | None) -> None:
    rows = load_rows("synthetic", split="train", count=count, seed=0)
    assert set(group_rows(rows, hard_from)) == {Group("math"), Group("code"), Group("qa")}


def test_a_domain_that_nothing_was_searched_for_is_named() -> None:
    with pytest.raises(RecipeError, match="no qa problem"):
        group_of(Row("q", ("a",), "qa"), [Group("math")], 3)


# -- settings ----------------------------------------------------------------------------------------------------------

BAD_SETTINGS = [
    ('{"max_callz": 5}', "max_callz"),
    ('{"max_calls": 0}', "max_calls must be at least 1"),
    ('{"policy_samples": 0, "grammar_samples": 0, "forms": false}', "nothing to try"),
    ('{"workflows": ["Nothing"]}', "unknown operator 'Nothing'"),
    ("perhaps", "Give true, or a JSON object"),
    ("[1]", "a list is no setting"),
]


@pytest.mark.parametrize(("text", "message"), BAD_SETTINGS, ids=[row[1] for row in BAD_SETTINGS])
def test_bad_settings_are_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(["quickstart.yaml", "--warm_start", text])


def test_only_policies_that_compose_have_a_warm_start() -> None:
    with pytest.raises(RecipeError, match="task: compose"):
        load_recipe(["reason-quickstart.yaml", "--warm_start", "true"])


# -- a whole warm start ------------------------------------------------------------------------------------------------


def write_recipe(folder: Path, **overrides: Any) -> Path:
    source = yaml.safe_load((ROOT / "recipes" / "quickstart.yaml").read_text()) | {
        "output_dir": str(folder / "run"),
        "num_train_problems": 150,
        "num_eval_problems": 6,
        "baseline_workflows": [],
        "max_steps": 1,
        "per_device_train_batch_size": 8,
        "collapse_guard": "off",
        "warm_start": {
            "policy_samples": 8,
            "grammar_samples": 4,
            "forms": False,
            "workflows": ["AnswerGenerate", "Programmer", "Custom", "CustomCodeGenerate"],
            "max_calls": 1_500,
            "sft_steps": 2,
            "winners": 2,
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(source | overrides))
    return path


@dataclass
class Continued:
    """A warm start that was killed during its search and started again."""

    recipe: Path
    killed_log: str
    """Complete lines of the log at the kill."""
    killed_had_winners: bool
    output: subprocess.CompletedProcess[str]
    """Of the second start."""

    @property
    def run(self) -> Path:
        return self.recipe.parent / "run"

    @property
    def folder(self) -> Path:
        return self.run / "warm_start"

    @property
    def winners(self) -> dict[str, Any]:
        return json.loads((self.folder / "winners.json").read_text())


@pytest.fixture(scope="module")
def continued(tmp_path_factory: pytest.TempPathFactory) -> Continued:
    folder = tmp_path_factory.mktemp("warm-start")
    recipe = write_recipe(folder)
    command = [sys.executable, "-m", "aflow_trl.cli", "warmstart", str(recipe)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    log = folder / "run" / "warm_start" / "search.jsonl"
    while process.poll() is None and not (log.is_file() and len(log.read_text().splitlines()) > 2):
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()[1].decode()[-2000:]
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    complete = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    had_winners = (folder / "run" / "warm_start" / "winners.json").exists()
    return Continued(recipe, "".join(complete), had_winners, aflow("warmstart", str(recipe)))


@pytest.fixture(scope="module")
def trained(continued: Continued) -> dict[str, Any]:
    """Summary of a training of the same recipe, and the date of the fine-tuned policy before it."""
    before = (continued.folder / "policy" / "adapter_model.safetensors").stat().st_mtime_ns
    output = aflow(str(continued.recipe), command=train)
    assert output.returncode == 0, output.stderr[-2000:]
    return {"policy_date": before, "summary": json.loads((continued.run / "summary.json").read_text())}


@pytest.mark.slow
def test_a_killed_search_continues_with_what_it_has_measured(continued: Continued) -> None:
    assert continued.output.returncode == 0, continued.output.stderr[-2000:]
    assert not continued.killed_had_winners and continued.killed_log.count("\n") >= 2
    log = (continued.folder / "search.jsonl").read_text()
    assert log.startswith(continued.killed_log) and len(log) > len(continued.killed_log)


@pytest.mark.slow
def test_the_command_prints_the_workflows_that_it_found(continued: Continued) -> None:
    assert "workflows found by execution" in continued.output.stdout
    winners = [candidate["workflow"] for group in continued.winners["winners"].values() for candidate in group]
    assert winners and all(workflow in continued.output.stdout for workflow in winners if len(workflow) < 40)


@pytest.mark.slow
def test_the_search_over_both_launches_keeps_its_budget(continued: Continued) -> None:
    paid = sum(item.rollout.trace.paid_calls for item in read_traces(continued.folder / "traces.jsonl.gz"))
    assert 0 < continued.winners["model_calls"] <= min(1_500, paid)


@pytest.mark.slow
def test_training_uses_the_finished_warm_start(continued: Continued, trained: dict[str, Any]) -> None:
    adapter = continued.folder / "policy" / "adapter_model.safetensors"
    assert adapter.stat().st_mtime_ns == trained["policy_date"], "fine-tuned once"
    assert trained["summary"]["warm_start"] == continued.winners


@pytest.mark.slow
def test_the_summary_counts_the_calls_of_the_search(continued: Continued, trained: dict[str, Any]) -> None:
    paths = [continued.folder / "traces.jsonl.gz", continued.run / "traces.jsonl.gz"]
    paid = sum(item.rollout.trace.paid_calls for path in paths for item in read_traces(path))
    assert trained["summary"]["model_calls"] == paid


@pytest.mark.slow
def test_the_report_has_every_stage_of_the_policy(continued: Continued, trained: dict[str, Any]) -> None:
    assert {"untrained", "warm_start", "best_per_group", "trained"} <= set(trained["summary"]["accuracy"])
    report = trained["summary"]["learning"]
    assert set(report["policies"]) == {"untrained", "warm start", "trained"}
    assert set(report["frontier"]) == {"all", "code", "math", "qa"}
    assert is_drawn(continued.run / "frontier.png")


OTHER_SETTINGS = [
    (["--temperature", "0.3"], "sampling"),
    (["--top_p", "0.5"], "sampling"),
    (["--max_completion_length", "20"], "sampling"),
    (["--executor_temperature", "0.2"], "executor"),
    (["--executor_max_tokens", "99"], "executor"),
    (["--models", '{"Review": {"executor_temperature": 0.1}}'], "models"),
    (["--judge_domains", "math"], "judge_domains"),
    (["--quantize_correctness", "true"], "quantize_correctness"),
    (["--dtype", "bfloat16"], "model_options"),
    (["--lora_r", "4"], "adapter"),
    (["--seed", "1"], "rows, seed"),
    (["--warm_start", '{"max_calls": 7}'], "search"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "name"), OTHER_SETTINGS, ids=[row[0][0] for row in OTHER_SETTINGS])
def test_a_warm_start_with_other_settings_is_refused_by_name(
    flags: list[str], name: str, continued: Continued
) -> None:
    refused = aflow("warmstart", str(continued.recipe), *flags)
    assert refused.returncode == 2 and f"other settings ({name})" in refused.stderr, refused.stderr[-2000:]
    assert "Remove it, or name another output_dir" in refused.stderr


@pytest.mark.slow
def test_a_workflow_of_the_user_is_tried_however_it_is_spelled(tmp_path: Path) -> None:
    """The budget is too small for all candidates, and the text in the recipe is not the canonical one."""
    warm_start = {
        **{"policy_samples": 0, "grammar_samples": 200, "forms": False, "workflows": ["Custom->Format"]},
        **{"max_calls": 40, "winners": 1, "by_difficulty": False, "sft_steps": 1},
    }
    recipe = write_recipe(tmp_path, warm_start=warm_start, domains=["math"])
    finished = aflow("warmstart", str(recipe))
    assert finished.returncode == 0, finished.stderr[-2000:]
    traces = read_traces(tmp_path / "run" / "warm_start" / "traces.jsonl.gz")
    tried = {item.rollout.trace.workflow for item in traces}
    assert "Custom -> Format" in tried and len(tried) < 40
