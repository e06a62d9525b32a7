"""The warm start: it finds good workflows within its budget, teaches them, and pays for nothing twice."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
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
from aflow_trl.rollouts import read_rollout
from aflow_trl.storage import read_rows
from aflow_trl.tasks.warm_start import group_rows
from aflow_trl.warm_start import Candidate, EvalRequest, Group, HalvingSearch, Run, successive_halving

ROOT = Path(__file__).parent.parent
GROUP = Group("math")


class Bandit:
    """Workflows with known skill; every run costs what its name says."""

    def __init__(self, skill: dict[str, float], costs: dict[str, int], seed: int = 0) -> None:
        self.skill, self.costs, self.dice = skill, costs, random.Random(seed)
        self.spent = 0

    async def measure(self, jobs: Sequence[EvalRequest]) -> list[Run]:
        runs = []
        for job in jobs:
            cost = self.dice.randint(1, self.costs[job.workflow])
            self.spent += cost
            runs.append(Run(float(self.dice.random() < self.skill[job.workflow]), cost, cost))
        return runs


def search(bandit: Bandit, budget: int, winners: int = 3, rows: int = 10_000) -> HalvingSearch:
    contest = HalvingSearch(GROUP, rows, bandit.costs, budget, winners, seed=0)
    asyncio.run(successive_halving([contest], bandit.measure))
    return contest


@pytest.mark.parametrize("seed", range(5))
def test_the_best_workflow_is_found_among_many(seed: int) -> None:
    names = [f"w{number}" for number in range(64)]
    skill = {name: 0.3 + 0.4 * number / 63 for number, name in enumerate(names)} | {"w20": 0.95}
    contest = search(Bandit(skill, dict.fromkeys(names, 2), seed), budget=6_000)
    assert contest.best[0].workflow == "w20"
    assert contest.best[0].scored > 200, "most of the budget is spent on those that are left"


@given(
    count=st.integers(1, 40),
    budget=st.integers(1, 2_000),
    worst=st.integers(1, 40),
    winners=st.integers(1, 4),
    rows=st.integers(1, 50),
)
@settings(max_examples=80, deadline=None)
def test_the_budget_is_never_exceeded(count: int, budget: int, worst: int, winners: int, rows: int) -> None:
    names = [f"w{number}" for number in range(count)]
    bandit = Bandit(dict.fromkeys(names, 0.5), dict.fromkeys(names, worst))
    contest = search(bandit, budget, winners, rows)
    assert bandit.spent == contest.paid <= budget
    best = contest.best
    assert len(best) <= winners
    assert not best or sum(arm.weight for arm in best) == pytest.approx(1)
    # Nothing is tried only where not even one run is affordable.
    assert best or worst > budget


def test_of_equally_good_workflows_the_cheaper_wins() -> None:
    contest = search(Bandit({"dear": 1.0, "cheap": 1.0}, {"dear": 9, "cheap": 1}), budget=2_000, winners=1)
    assert [arm.workflow for arm in contest.best] == ["cheap"]


def test_what_the_infrastructure_lost_counts_for_nobody() -> None:
    class Flaky(Bandit):
        async def measure(self, jobs: Sequence[EvalRequest]) -> list[Run]:
            runs = await super().measure(jobs)
            return [
                Run(None, 0, 1) if job.workflow == "good" and job.row % 2 else run
                for job, run in zip(jobs, runs, strict=True)
            ]

    contest = search(Flaky({"good": 1.0, "bad": 0.6}, {"good": 1, "bad": 1}), budget=400, winners=2)
    assert contest.best[0].workflow == "good" and contest.best[0].accuracy == 1.0
    assert contest.best[0].weight > contest.best[1].weight


def test_weights_follow_accuracy() -> None:
    arms = search(Bandit({"a": 0.9, "b": 0.85, "c": 0.1}, dict.fromkeys("abc", 1)), budget=3_000, winners=3).best
    assert [arm.workflow for arm in arms] == ["a", "b", "c"]
    assert arms[0].weight > arms[1].weight > 100 * arms[2].weight


def test_forms_are_valid_distinct_and_within_the_limits() -> None:
    found = [format_workflow(workflow) for workflow in workflow_templates()]
    assert len(found) == len(set(found)) > 200
    for text in found:
        parse(text)
    few = {name: builtin_vocabulary()[name] for name in ("Custom", "ScEnsemble")}
    assert {name for own in workflow_templates(vocabulary=few) for name in analyze(own).operators} <= set(few)


def test_groups_are_domains_split_by_difficulty_where_there_is_enough_of_both() -> None:
    rows = load_rows("synthetic", split="train", count=300, seed=0)
    groups = group_rows(rows, 3)
    assert {str(group) for group in groups} == {
        f"{d} {level}" for d in ("math", "code", "qa") for level in ("easy", "hard")
    }
    assert sum(map(len, groups.values())) == 300
    assert all((row.difficulty >= 3) == (group.level == "hard") for group, own in groups.items() for row in own)
    assert set(group_rows(rows, None)) == {Group("math"), Group("code"), Group("qa")}
    assert set(group_rows(rows[:20], 3)) <= {Group("math"), Group("code"), Group("qa")}


BAD = [
    ('{"max_callz": 5}', "max_callz"),
    ('{"max_calls": 0}', "max_calls must be at least 1"),
    ('{"policy_samples": 0, "grammar_samples": 0, "forms": false}', "nothing to try"),
    ('{"workflows": ["Nothing"]}', "unknown operator 'Nothing'"),
    ("perhaps", "Give true, or a JSON object"),
    ("[1]", "a list is no setting"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=[row[1] for row in BAD])
def test_bad_settings_are_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(["quickstart.yaml", "--warm_start", text])


def test_only_policies_that_compose_have_a_warm_start() -> None:
    with pytest.raises(RecipeError, match="task: reason"):
        load_recipe(["reason-quickstart.yaml", "--warm_start", "true"])


def recipe_file(folder: Path, **overrides: Any) -> Path:
    source = yaml.safe_load((ROOT / "recipes" / "quickstart.yaml").read_text()) | {
        "output_dir": str(folder / "run"),
        "num_train_problems": 150,
        "num_eval_problems": 12,
        "baseline_workflows": [],
        "max_steps": 2,
        "per_device_train_batch_size": 16,
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


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=250)


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_and_training_uses_it(tmp_path: Path) -> None:
    recipe, folder = recipe_file(tmp_path), tmp_path / "run" / "warm_start"
    command = [sys.executable, "-m", "aflow_trl.cli", "warmstart", str(recipe)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    journal = folder / "search.jsonl"
    while process.poll() is None and not (journal.is_file() and len(journal.read_text().splitlines()) > 2):
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = journal.read_text().splitlines(keepends=True)
    whole = [line for line in kept if line.endswith("\n")]
    assert len(whole) >= 2 and not (folder / "winners.json").exists()

    done = run("aflow_trl.cli", "warmstart", str(recipe))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "workflows found by execution" in done.stdout
    assert journal.read_text().startswith("".join(whole)), "what was measured before is not measured again"
    facts = json.loads((folder / "winners.json").read_text())
    assert 0 < facts["model_calls"] <= 1_500
    paid = sum(read_rollout(row).trace.paid_calls for row in read_rows(tmp_path / "run" / "traces.jsonl.gz"))
    assert facts["model_calls"] <= paid

    before = (folder / "policy" / "adapter_model.safetensors").stat().st_mtime_ns
    trained = run("aflow_trl.train", str(recipe))
    assert trained.returncode == 0, trained.stderr[-2000:]
    assert (folder / "policy" / "adapter_model.safetensors").stat().st_mtime_ns == before
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["warm_start"] == facts
    assert {"untrained", "warm_start", "best_per_group", "trained"} <= set(summary["accuracy"])
    report = summary["learning"]
    assert set(report["policies"]) == {"untrained", "warm start", "trained"}
    assert set(report["frontier"]) == {"all", "code", "math", "qa"}
    assert (tmp_path / "run" / "frontier.png").stat().st_size > 10_000

    other = run("aflow_trl.train", str(recipe_file(tmp_path, seed=1)))
    assert other.returncode == 2 and "other settings (rows, seed)" in other.stderr


def test_arms_without_results_have_no_accuracy() -> None:
    assert Candidate("Custom").accuracy == Candidate("Custom").calls_per_problem == 0


def test_rows_of_a_domain_without_winners_are_named() -> None:
    from aflow_trl.tasks.warm_start import _group_of

    with pytest.raises(RecipeError, match="no qa problem"):
        _group_of(Row("q", ("a",), "qa"), [Group("math")], 3)
