"""The benchmarks' own code: the classic form of WA-GRPO, and the figures of the study's report."""

from __future__ import annotations

import itertools
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

from classic import CLASSIC_WEIGHTS, ClassicGRPOTrainer, classic_features, wa_grpo_classic

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
