"""NaN and infinity in a step: injected into loss, logits and gradients, they never reach the parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from aflow_trl.trainer import WorkflowGRPOConfig, WorkflowGRPOTrainer
from aflow_trl.trainer.advantages import wa_grpo
from trainers import build, parameters, train_until_stopped

BAD_STEP = 1
"""Step, from 0, in which something is injected."""


class Watch(TrainerCallback):
    """Keeps the parameters after every step."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []
        self.trainer: Any = None

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seen.append(parameters(self.trainer).clone())


def inject(trainer: Any, place: str) -> None:
    """Put a NaN into one place of one step."""

    def due() -> bool:
        return trainer.state.global_step == BAD_STEP and trainer.model.training

    if place == "loss":
        original = trainer._compute_loss
        trainer._compute_loss = lambda *a, **k: original(*a, **k) * (torch.nan if due() else 1.0)
    elif place == "log-probabilities":
        head, kept = trainer.model.get_output_embeddings().weight, []
        original = trainer._compute_loss

        def poisoned(*args: Any, **kwargs: Any) -> Any:
            if due():
                kept.append(head.detach().clone())
                head.data[0, 0] = torch.nan
            return original(*args, **kwargs)

        class Heal(TrainerCallback):
            def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
                if kept:
                    head.data.copy_(kept.pop())

        trainer._compute_loss = poisoned
        trainer.add_callback(Heal())
    else:
        parameter = next(p for p in trainer.model.parameters() if p.requires_grad)
        parameter.register_hook(lambda grad: torch.full_like(grad, torch.inf) if due() else grad)


PLACES = ("loss", "log-probabilities", "gradients")


def run(place: str, mode: str, model: Path, folder: Path, steps: int = 4) -> tuple[Any, Watch]:
    watch = Watch()
    trainer = build(WorkflowGRPOTrainer, WorkflowGRPOConfig, model, folder, nonfinite=mode, max_steps=steps)
    watch.trainer = trainer
    trainer.add_callback(watch)
    inject(trainer, place)
    if mode == "stop":
        train_until_stopped(trainer)
    else:
        trainer.train()
    return trainer, watch


@pytest.mark.parametrize("place", PLACES)
def test_skip_leaves_the_step_out_counts_it_and_goes_on(place: str, tiny_model: Path, tmp_path: Path) -> None:
    trainer, watch = run(place, "skip", tiny_model, tmp_path)
    assert trainer.numerical_guard.skipped == 1 and trainer.numerical_guard.reason is None
    assert torch.equal(watch.seen[BAD_STEP], watch.seen[BAD_STEP - 1])
    assert trainer.state.global_step == 4 and not torch.equal(watch.seen[-1], watch.seen[BAD_STEP])
    assert torch.isfinite(watch.seen[-1]).all()
    assert trainer.state.log_history[-2]["nonfinite_steps"] == 1.0


@pytest.mark.parametrize("place", PLACES)
def test_stop_ends_with_the_place_and_a_checkpoint_of_good_parameters(
    place: str, tiny_model: Path, tmp_path: Path
) -> None:
    trainer, watch = run(place, "stop", tiny_model, tmp_path)
    assert trainer.numerical_guard.reason is not None and place in trainer.numerical_guard.reason
    assert trainer.state.global_step == BAD_STEP + 1
    assert torch.equal(watch.seen[-1], watch.seen[BAD_STEP - 1])
    assert (tmp_path / f"checkpoint-{BAD_STEP + 1}" / "model.safetensors").is_file()


def test_under_deepspeed_the_damaged_parameters_are_not_saved_as_good_ones(tiny_model: Path, tmp_path: Path) -> None:
    """DeepSpeed steps inside the backward pass; all that the trainer knows of it is this flag."""
    trainer = build(WorkflowGRPOTrainer, WorkflowGRPOConfig, tiny_model, tmp_path, max_steps=4)
    trainer.numerical_guard.steps_in_backward = True
    inject(trainer, "loss")
    message = train_until_stopped(trainer)
    assert "DeepSpeed has applied" in message and "are those of the step before" not in message
    assert not list(tmp_path.glob("checkpoint-*"))


def test_off_lets_it_through(tiny_model: Path, tmp_path: Path) -> None:
    trainer, _ = run("gradients", "off", tiny_model, tmp_path, steps=2)
    assert trainer.numerical_guard.skipped == 0 and not torch.isfinite(parameters(trainer)).all()


@pytest.mark.parametrize("estimator", ["wa_grpo", "grpo"])
def test_advantages_are_clipped_whatever_the_estimator(estimator: str, tiny_model: Path, tmp_path: Path) -> None:
    trainer = build(
        WorkflowGRPOTrainer,
        WorkflowGRPOConfig,
        tiny_model,
        tmp_path,
        advantage_estimator=estimator,
        advantage_clip=0.01,
        max_steps=1,
    )
    trainer.train()
    assert 0 < max(abs(value) for value in trainer._logs["advantages"]) <= 0.01 + 1e-9


def test_task_scale_divides_each_task_by_its_own_spread() -> None:
    rewards = torch.tensor([0.0, 4.0, 0.0, 0.4])
    advantages = wa_grpo(rewards, torch.zeros(4), 2, scale="task", alpha=0.0, tasks=torch.tensor([0.0, 0.0, 1.0, 1.0]))
    assert torch.allclose(advantages[:2], advantages[2:], atol=1e-3)


def test_task_scale_needs_the_tasks() -> None:
    with pytest.raises(ValueError, match="task"):
        wa_grpo(torch.zeros(2), torch.zeros(2), 2, scale="task")
