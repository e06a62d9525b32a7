"""The benchmarks' own code: the classic form of WA-GRPO, the figures of the study's report, the scorer card."""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from aflow_trl.dsl import extract
from aflow_trl.engine import Engine
from aflow_trl.rewards import workflow_rewards
from aflow_trl.rollouts import RolloutRow, Rollouts, from_columns
from aflow_trl.simulator import simulated_client
from aflow_trl.trainer import WorkflowGRPOConfig

# The benchmarks are scripts beside the package, not part of it.
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import scorers
from classic import CLASSIC_WEIGHTS, ClassicGRPOTrainer, classic_features, wa_grpo_classic
from learning_report import area, calls_until, collapsed, read_study, report

# -- the classic form --------------------------------------------------------------------------------------------------


def features(count: int) -> dict[str, torch.Tensor]:
    return {name: torch.arange(count).float() for name in CLASSIC_WEIGHTS}


def test_classic_form_divides_by_the_groups_std_and_clips() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    advantages = wa_grpo_classic(rewards, features(8), 8)
    expected = (rewards - rewards.mean()) / (rewards.std(correction=0) + 1e-8)
    torch.testing.assert_close(advantages, expected.clamp(-2, 2))


def test_classic_form_breaks_ties_at_full_strength() -> None:
    advantages = wa_grpo_classic(torch.full((4,), 0.5), features(4), 4)
    assert advantages.abs().max() > 1 and list(advantages.argsort()) == [0, 1, 2, 3]


def test_classic_form_is_seeded_and_leaves_unscored_members_out() -> None:
    rewards = torch.tensor([0.5, 0.5, math.nan, 0.52])
    first, second = (wa_grpo_classic(rewards, features(4), 4, seed=3) for _ in range(2))
    assert torch.equal(first, second) and first[2] == 0


def row(workflow: str, **fields: Any) -> RolloutRow:
    defaults = {
        "workflow": workflow,
        "outcome": "ok",
        "invalid_label": "",
        "answer": "42",
        "score": 1.0,
        "model_calls": 1,
        "usd": 0.0,
        "progress": 1.0,
        "executed": 1.0,
        "revise_gain": 0.0,
        "domain": "math",
        "repaired": False,
        "operators": ["Custom"],
    }
    return RolloutRow(**defaults | fields)


def test_classic_features_come_from_the_rollouts_of_a_group() -> None:
    rows = [
        row("Custom"),
        row("Custom", executed=0.5),
        row("Custom -> Review", model_calls=2, operators=["Custom", "Review"], revise_gain=0.5),
        # Equal to the first two, but of another group.
        *[row("Custom")] * 3,
    ]
    columns = {name: tensor.tolist() for name, tensor in classic_features(rows, 3, torch.zeros(6)).items()}
    assert columns == {
        "diversity": [0.5, 0.5, 1.0, 0.0, 0.0, 0.0],
        "revise_gain": [0.0, 0.0, 0.5, 0.0, 0.0, 0.0],
        "execution_success": [1.0, 0.5, 1.0, 1.0, 1.0, 1.0],
        "efficiency": [-1.0, -1.0, -2.0, -1.0, -1.0, -1.0],
        "operator_variety": [1.0, 1.0, 2.0, 1.0, 1.0, 1.0],
    }


def classic_trainer(texts: Sequence[str], model: Path, output_dir: Path) -> ClassicGRPOTrainer:
    """A trainer whose completions are taken for `texts`, in turn: the random model writes no workflow."""
    rollouts = Rollouts(Engine(simulated_client()))
    texts_in_turn = itertools.cycle(texts)
    rollouts.engine._extraction = lambda _: extract(next(texts_in_turn))
    args = WorkflowGRPOConfig(
        str(output_dir),
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=8,
        max_steps=1,
        learning_rate=1e-2,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        collapse_guard="off",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=3,
    )
    questions = [f"What is {a} * {b}?" for a in (2, 3) for b in (4, 5)]
    rows = [{"prompt": [{"role": "user", "content": text}], "question": text, "answer": ["42"]} for text in questions]
    return ClassicGRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        reward_funcs=workflow_rewards(rollouts),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model),
    )


def test_classic_trainer_trains_with_the_classic_form(tiny_model: Path, tmp_path: Path) -> None:
    texts = ("Custom", "Custom -> Review ? Revise : done", "nonsense")
    trainer = classic_trainer(texts, tiny_model, tmp_path)
    captured: list[dict[str, list[object]]] = []
    group_advantages = trainer.group_advantages

    def spy(columns: Mapping[str, Sequence[object]], size: int) -> torch.Tensor:
        captured.append({name: list(values) for name, values in columns.items()})
        return group_advantages(columns, size)

    trainer.group_advantages = spy
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    assert any(not torch.equal(*pair) for pair in zip(before, trainer.model.parameters(), strict=True))
    rows = from_columns(captured[0])
    assert rows is not None and {row.workflow for row in rows} == {*texts[:2], ""}
    total = (trainer._gathered_rewards * trainer.reward_weights).sum(dim=1)
    expected = wa_grpo_classic(total, classic_features(rows, 4, total), 4, seed=3)
    assert list(trainer._logs["advantages"]) == pytest.approx(expected.tolist())


def test_classic_trainer_gives_unscored_completions_no_advantage(tiny_model: Path, tmp_path: Path) -> None:
    trainer = classic_trainer(["Custom"], tiny_model, tmp_path)
    rewards = torch.tensor([[1.0] * 5, [0.0] * 5, [torch.nan] * 5, [0.0] * 5])
    trainer._gathered_rewards = rewards
    without = rewards[[0, 1, 3]].sum(dim=1) / 5
    expected = (without - without.mean()) / without.std(correction=0)
    advantages = trainer.group_advantages({}, 4)
    assert advantages[2] == 0
    torch.testing.assert_close(advantages[[0, 1, 3]], expected)


# -- the report of the study -------------------------------------------------------------------------------------------


def curve(*accuracies: float, valid: float = 1.0) -> list[dict[str, Any]]:
    """Points ten steps and a hundred training calls apart."""
    return [
        {
            "step": 10 * index,
            "accuracy": accuracy,
            "by_domain": {"math": accuracy},
            "calls": 2.0,
            "valid": valid,
            "workflows": {"math": {"Custom": 1}},
            "training_calls": 100 * index,
            "evaluation_calls": 10,
        }
        for index, accuracy in enumerate(accuracies)
    ]


def result(estimator: str, seed: int, *accuracies: float, logs: Sequence[float] = (0.5,) * 10) -> dict[str, Any]:
    steps = [
        {
            "workflows/valid": 1.0,
            "accuracy/all": accuracy,
            "groups/total": 4,
            "groups/decisive": 2,
            "groups/tie_broken": 1,
            "groups/dead": 1,
        }
        for accuracy in logs
    ]
    return {"estimator": estimator, "k": 4, "seed": seed, "curve": curve(*accuracies), "logs": steps}


def test_area_is_the_mean_accuracy_by_the_trapezoid_rule() -> None:
    assert area(curve(0.0, 1.0)) == 0.5
    assert area(curve(0.2, 0.4, 0.8)) == pytest.approx((0.3 + 0.6) / 2)


@pytest.mark.parametrize(
    ("accuracies", "calls"),
    [((0.5, 0.6, 0.8), 150.0), ((0.5, 0.7), 100.0), ((0.8, 0.9), 0.0), ((0.5, 0.6), None)],
    ids=["between two points", "at a point", "from the start", "never"],
)
def test_calls_until_an_accuracy_are_interpolated(accuracies: tuple[float, ...], calls: float | None) -> None:
    assert calls_until(curve(*accuracies), 0.7) == (None if calls is None else pytest.approx(calls))


def test_collapse_is_a_fall_below_half_of_the_best_so_far() -> None:
    assert not collapsed(result("grpo", 0, 0.4, 0.6, 0.5))
    assert not collapsed(result("grpo", 0, 0.2, 0.9)), "a rise is no collapse"
    assert collapsed(result("grpo", 0, 0.6, 0.2))
    assert collapsed(result("grpo", 0, 0.5, 0.5, logs=[0.8] * 5 + [0.1] * 5))
    assert not collapsed(result("grpo", 0, 0.5, 0.5, logs=[0.8] * 5 + [0.1] + [0.8] * 5)), "one odd batch is none"


def test_report_compares_estimators_seed_by_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for estimator, gain in (("wa_grpo", 0.4), ("grpo", 0.2)):
        for seed in range(3):
            content = result(estimator, seed, 0.4, 0.4 + gain + 0.1 * seed)
            folder = tmp_path / f"{estimator}-{seed}"
            folder.mkdir()
            (folder / "result.json").write_text(json.dumps(content))
    bounds = {"best fixed": 0.75, "best fixed per domain": 0.85}
    (tmp_path / "bounds-seed0.json").write_text(json.dumps(bounds))
    report(tmp_path, ["grpo", "wa_grpo"], "A study.")
    page = (tmp_path / "study.md").read_text()
    assert page == capsys.readouterr().out
    assert "- best fixed: 0.750" in page and "- untrained: 0.400" in page
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:3] == "| 4"]
    # The t quantile of two degrees of freedom is 4.303: areas 0.5, 0.55 and 0.6, and 0.6, 0.65 and 0.7.
    assert [row[:4] for row in rows[:2]] == [
        ["4", "grpo", "0.550 ± 0.124", "0.700 ± 0.248"],
        ["4", "wa_grpo", "0.650 ± 0.124", "0.900 ± 0.248"],
    ]
    assert rows[2] == ["4", "0.100 ± 0.000"]
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")
    assert set(read_study(tmp_path)) == {(4, "grpo"), (4, "wa_grpo")}


def test_report_without_results_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds no result"):
        report(tmp_path, ["grpo"], "A study.")


# -- the scorer card ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", ["math", "qa"])
def test_scorers_refuse_no_form_and_accept_no_change_of_the_golds_of_the_scorer_card(domain: str) -> None:
    tallies = scorers.measure(scorers.GOLDS[domain], domain)
    assert sum(tally.golds for tally in tallies.values()) == len(scorers.GOLDS[domain]) > 15
    failures = [
        text for tally in tallies.values() for text, count in (tally.refused + tally.accepted).items() if count
    ]
    assert failures == []
