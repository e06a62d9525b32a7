"""Domains of the user: a scorer in a module, and a run that knows no other."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from aflow_trl.answers import extract_answer
from aflow_trl.data import load_rows
from aflow_trl.errors import DataError, RecipeError, ScorerError
from aflow_trl.scoring import Score, domains, known_domains, score_answer, scorer
from aflow_trl.train import main as train
from aflow_trl.trainer import WorkflowGRPOConfig, WorkflowGRPOTrainer
from command_line import aflow

ROOT = Path(__file__).parent.parent

MODULE = """
from aflow_trl.answers import extract_answer
from aflow_trl.scoring import scorer


@scorer(domain="estimation", description="estimates that may be ten percent off")
def within_ten_percent(answer, golds, question):
    value, gold = float(extract_answer(answer, "math")), float(golds[0])
    return abs(value - gold) <= 0.1 * abs(gold)
"""


@pytest.fixture(autouse=True)
def no_other_domains() -> Iterator[None]:
    """A domain of one test is none of the next."""
    before = dict(domains._CUSTOM)
    yield
    domains._CUSTOM.clear()
    domains._CUSTOM.update(before)


def score(answer: str, golds: list[str], domain: str = "estimation") -> Score:
    return asyncio.run(score_answer(answer, domain=domain, golds=golds, question="How many?"))


def test_a_scorer_scores_its_domain() -> None:
    @scorer(domain="estimation")
    def within_ten_percent(answer: str, golds: list[str], question: str) -> bool:
        return abs(float(answer) - float(golds[0])) <= 0.1 * float(golds[0])

    assert [score(answer, ["100"]).value for answer in ("95", "80")] == [1.0, 0.0]


def test_a_scorer_may_be_a_coroutine_and_return_a_score() -> None:
    @scorer(domain="estimation")
    async def half(answer: str, golds: list[str], question: str) -> Score:
        await asyncio.sleep(0)
        return Score(0.5, "half", answer, partial=0.75)

    assert score("x", ["y"]) == Score(0.5, "half", "x", partial=0.75)


def test_an_answer_that_the_scorer_cannot_read_is_wrong() -> None:
    @scorer(domain="estimation")
    def number(answer: str, golds: list[str], question: str) -> bool:
        return float(answer) == float(golds[0])

    assert (score("many", ["100"]).value, score("many", ["100"]).label) == (0.0, "too_complex")


@pytest.mark.parametrize("result", [1.5, -0.1, float("nan"), "yes", None])
def test_a_result_that_is_no_credit_is_the_scorers_fault(result: object) -> None:
    @scorer(domain="estimation")
    def broken(answer: str, golds: list[str], question: str) -> object:
        return result

    with pytest.raises(ScorerError, match="estimation"):
        score("1", ["1"])


def test_a_scorer_that_fails_for_the_gold_leaves_the_answer_unscored() -> None:
    @scorer(domain="estimation")
    def broken(answer: str, golds: list[str], question: str) -> float:
        raise OSError("no rubric")

    with pytest.raises(ScorerError, match="no rubric"):
        score("1", ["1"])


@pytest.mark.parametrize("name", ["math", "two words", ""])
def test_a_domain_needs_a_name_of_its_own(name: str) -> None:
    with pytest.raises(RecipeError, match="choose another name"):
        scorer(domain=name)


def test_a_text_without_a_marked_answer_is_the_answer() -> None:
    essay = "The answer is blowing in the wind.\n\n42"
    assert extract_answer(essay, "essays") == essay
    assert extract_answer(f"{essay} <answer>wind</answer>", "essays") == "wind"


def test_a_row_of_an_unknown_domain_names_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "Why?", "answer": "so", "domain": "reasoning"}), encoding="utf-8")
    with pytest.raises(DataError, match=r"line 1: 'domain' is 'reasoning'.*@scorer"):
        load_rows(str(path))


def test_a_scorer_that_cannot_score_the_gold_is_reported_before_anything_starts(tmp_path: Path) -> None:
    @scorer(domain="estimation")
    def broken(answer: str, golds: list[str], question: str) -> float:
        return float(answer)

    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "q", "answer": "a lot", "domain": "estimation"}), encoding="utf-8")
    with pytest.raises(DataError, match=r"rows.jsonl: the scorer of 'estimation' fails for the gold 'a lot'"):
        load_rows(str(path))


@pytest.fixture
def estimation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a scorer module and rows: synthetic problems that the simulated executor knows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_scorers.py").write_text(MODULE, encoding="utf-8")
    for name, start, count in (("train", 0, 40), ("test", 100, 12)):
        rows = load_rows("synthetic", count=start + count, domains=["math"])[start:]
        lines = [json.dumps(row.columns() | {"domain": "estimation"}) for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    yield tmp_path
    sys.modules.pop("my_scorers", None)
    sys.path[:] = [folder for folder in sys.path if folder != str(tmp_path)]


def test_evaluation_reports_a_domain_of_the_user(estimation: Path) -> None:
    flags = ("--simulated", "--workflow", "Custom", "--out", "out", "--scorer-module", "my_scorers.py")
    result = aflow("eval", "test.jsonl", *flags)
    assert result.returncode == 0, result.stderr
    report = json.loads(Path("out/results.json").read_text(encoding="utf-8"))
    assert report["systems"]["single call: Custom"]["by_domain"]["estimation"]["mean"] > 0
    assert "estimation" in Path("out/results.md").read_text(encoding="utf-8")


TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "compose": ("quickstart.yaml", {"warm_start": None, "baseline_workflows": ["Programmer"]}),
    "reason": ("reason-quickstart.yaml", {"max_prompt_length": 4_000}),
    "improve": ("improve-quickstart.yaml", {"problems_per_gain": 2, "num_records": 4}),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_trains_on_a_domain_of_the_user(estimation: Path, tiny_model: Path, task: str) -> None:
    name, changes = TASKS[task]
    recipe = yaml.safe_load((ROOT / "recipes" / name).read_text(encoding="utf-8"))
    recipe |= {
        "train_data": "train.jsonl",
        "eval_data": "test.jsonl",
        "scorer_modules": ["my_scorers"],
        "max_steps": 1,
    }
    recipe |= {"model_name_or_path": str(tiny_model), "output_dir": "run", "per_device_train_batch_size": 8}
    recipe |= {"use_peft": False, "max_completion_length": 8, "num_generations": 4}
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe | changes), encoding="utf-8")
    result = aflow("recipe.yaml", command=train)
    assert result.returncode == 0, result.stderr
    summary = json.loads(Path("run/summary.json").read_text(encoding="utf-8"))
    assert summary["recipe"]["scorer_modules"] == ["my_scorers"]


def test_dataset_of_an_unknown_domain_is_refused_before_the_model_loads(tmp_path: Path) -> None:
    from datasets import Dataset

    from aflow_trl.engine import Engine
    from aflow_trl.rewards import workflow_rewards
    from aflow_trl.rollouts import Rollouts
    from aflow_trl.simulator import simulated_client

    dataset = Dataset.from_list([{"prompt": "p", "question": "q", "answer": "a", "domain": "reasoning"}])
    rewards = workflow_rewards(Rollouts(Engine(simulated_client())))
    args = WorkflowGRPOConfig(str(tmp_path), use_cpu=True, bf16=False)
    with pytest.raises(DataError, match=r"domain 'reasoning'.*@scorer"):
        WorkflowGRPOTrainer("no/such-model", rewards, args, train_dataset=dataset)
    with pytest.raises(DataError, match="no column 'question'"):
        WorkflowGRPOTrainer("no/such-model", rewards, args, train_dataset=dataset.remove_columns("question"))


def test_domains_are_the_built_in_ones_and_those_of_the_user() -> None:
    scorer(domain="estimation")(lambda answer, golds, question: 1.0)
    assert known_domains() == ("math", "code", "qa", "estimation")
