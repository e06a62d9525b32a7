"""A collapse is injected into a run: it is noticed at once, and undone if asked for; a healthy run is not touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from aflow_trl.errors import FatalEndpointError
from aflow_trl.trainer import CollapseGuard, Probe, Share, WorkflowGRPOConfig, WorkflowGRPOTrainer
from aflow_trl.trainer.callbacks.collapse_guard import LR_FACTOR, MAX_ROLLBACKS
from trainers import PROMPTS, build, parameters, train_until_stopped

BAD_STEP = 3
"""Step, from 1, whose update is destructive."""
PROBE = [[{"role": "user", "content": text}] for text in PROMPTS[:4]]


class Saboteur(TrainerCallback):
    """Ruins the parameters after some optimiser steps."""

    def __init__(self, trainer: Any, value: float | None, steps: tuple[int, ...]) -> None:
        self.trainer, self.value, self.steps = trainer, value, steps

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 in self.steps:
            for parameter in self.trainer.model.parameters():
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
                parameter.data.add_(noise if self.value is None else self.value)


class Recorder(TrainerCallback):
    """Parameters and learning rate after every step, once all others are done."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.seen: list[torch.Tensor] = []
        self.rates: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seen.append(parameters(self.trainer).clone())
        self.rates.append(self.trainer.optimizer.param_groups[0]["lr"])


def guarded(
    model: Path,
    folder: Path,
    mode: str,
    *,
    value: float | None = None,
    steps: tuple[int, ...] = (BAD_STEP,),
    shares: Any = None,
    **overrides: Any,
) -> tuple[Any, CollapseGuard, Recorder]:
    settings = {"max_steps": 6, "nonfinite": "skip", "lr_scheduler_type": "constant", "learning_rate": 1e-3}
    trainer = build(WorkflowGRPOTrainer, WorkflowGRPOConfig, model, folder, **(settings | overrides))

    def probe() -> Probe:
        own = {"valid": Share(1.0, 50)} if shares is None else shares(trainer.state.global_step)
        return Probe(PROBE, trainer.sample(PROBE, seed=0), own)

    guard = CollapseGuard(trainer, probe, mode, probe_steps=2)
    recorder = Recorder(trainer)
    for callback in (Saboteur(trainer, value, steps), guard, recorder):
        trainer.add_callback(callback)
    return trainer, guard, recorder


INJECTED = [("destructive update", None), ("NaN", float("nan"))]


@pytest.mark.parametrize("value", [row[1] for row in INJECTED], ids=[row[0] for row in INJECTED])
def test_rollback_restores_the_last_good_state_and_lowers_the_rate(
    value: float | None, tiny_model: Path, tmp_path: Path
) -> None:
    trainer, guard, recorder = guarded(tiny_model, tmp_path, "rollback", value=value)
    trainer.train()
    assert guard.rollbacks == 1 and guard.reason is None and len(guard.events) == 1
    # The last probe before the bad step was after step 2.
    assert torch.equal(recorder.seen[BAD_STEP - 1], recorder.seen[1])
    assert recorder.rates[BAD_STEP - 1] == pytest.approx(recorder.rates[1] * LR_FACTOR)
    assert trainer.state.global_step == 6 and torch.isfinite(recorder.seen[-1]).all()
    assert not torch.equal(recorder.seen[-1], recorder.seen[1])


@pytest.mark.parametrize("value", [row[1] for row in INJECTED], ids=[row[0] for row in INJECTED])
def test_stop_ends_the_run_and_saves_nothing_of_the_collapse(
    value: float | None, tiny_model: Path, tmp_path: Path
) -> None:
    options = {"save_strategy": "steps", "save_steps": 1}
    trainer, guard, _ = guarded(tiny_model, tmp_path, "stop", value=value, **options)
    train_until_stopped(trainer)
    assert trainer.state.global_step == BAD_STEP
    assert guard.reason is not None and "good at step 2" in guard.reason
    assert not (tmp_path / f"checkpoint-{BAD_STEP}").exists() and (tmp_path / f"checkpoint-{BAD_STEP - 1}").exists()


def test_without_a_guard_the_injected_update_stays(tiny_model: Path, tmp_path: Path) -> None:
    """The negative control: what is injected does ruin the policy."""
    trainer, guard, recorder = guarded(tiny_model, tmp_path, "stop")
    trainer.remove_callback(guard)
    trainer.train()
    assert (recorder.seen[-1] - recorder.seen[1]).abs().mean() > 0.5


def test_optimiser_state_is_that_of_the_last_good_step(tiny_model: Path, tmp_path: Path) -> None:
    kept: list[list[torch.Tensor]] = []
    trainer, _, _ = guarded(tiny_model, tmp_path, "rollback", value=float("nan"))

    class Moments(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            kept.append([own["exp_avg"].clone() for own in trainer.optimizer.state.values()])

    trainer.add_callback(Moments())
    trainer.train()
    assert all(torch.equal(ours, good) for ours, good in zip(kept[BAD_STEP - 1], kept[1], strict=True))


def test_after_too_many_rollbacks_the_run_ends_with_the_good_state(tiny_model: Path, tmp_path: Path) -> None:
    steps = tuple(range(3, 20))
    trainer, guard, recorder = guarded(tiny_model, tmp_path, "rollback", steps=steps, max_steps=20)
    train_until_stopped(trainer)
    assert guard.rollbacks == MAX_ROLLBACKS + 1 and guard.reason is not None and "step 2" in guard.reason
    assert torch.equal(recorder.seen[-1], recorder.seen[1])
    assert (tmp_path / f"checkpoint-{trainer.state.global_step}").is_dir()


def test_a_healthy_run_is_bit_equal_to_one_without_a_guard(tiny_model: Path, tmp_path: Path) -> None:
    watched, guard, _ = guarded(tiny_model, tmp_path / "a", "rollback", steps=())
    watched.train()
    plain, off, _ = guarded(tiny_model, tmp_path / "b", "rollback", steps=())
    plain.remove_callback(off)
    plain.train()
    assert guard.rollbacks == 0 and torch.equal(parameters(watched), parameters(plain))
    last = next(entry for entry in reversed(watched.state.log_history) if "watch/kl" in entry)
    assert abs(last["watch/kl"]) < 1 and last["watch/probe_valid"] == 1.0 and last["watch/rollbacks"] == 0


@pytest.mark.parametrize("name", ["valid", "accuracy"])
def test_a_probe_that_falls_by_half_is_a_collapse(name: str, tiny_model: Path, tmp_path: Path) -> None:
    trainer, guard, _ = guarded(
        tiny_model, tmp_path, "rollback", steps=(), shares=lambda step: {name: Share(0.3 if step == 4 else 0.9, 16)}
    )
    trainer.train()
    assert guard.events == [f"step 4: probe {name} fell to 0.30 from 0.90"]


CHANCE = [
    ("fell by half, many", Share(0.4, 100), Share(0.9, 100), True),
    ("fell by less than half", Share(0.5, 1000), Share(0.9, 1000), False),
    ("too few to tell", Share(0.25, 4), Share(0.75, 4), False),
    ("nothing is left", Share(0.0, 16), Share(0.9, 16), True),
    ("rose", Share(0.9, 100), Share(0.4, 100), False),
]


@pytest.mark.parametrize(("now", "best", "collapsed"), [row[1:] for row in CHANCE], ids=[row[0] for row in CHANCE])
def test_collapse_is_a_half_that_chance_does_not_explain(now: Share, best: Share, collapsed: bool) -> None:
    assert now.collapsed_from(best) is collapsed


def test_batches_whose_shares_fall_are_a_collapse(tiny_model: Path, tmp_path: Path) -> None:
    def reward(completions: list[Any], log_metric: Any, trainer_state: Any, **_: Any) -> list[float]:
        log_metric("workflows/valid", 0.9 if trainer_state.global_step < 5 else 0.0)
        return [float(index % 2) for index in range(len(completions))]

    trainer, guard, _ = guarded(
        tiny_model, tmp_path, "stop", steps=(), max_steps=12, reward_funcs=[reward], per_device_train_batch_size=16
    )
    train_until_stopped(trainer)
    assert guard.reason is not None and "valid fell to" in guard.reason and trainer.state.global_step <= 8


@pytest.mark.parametrize(("share", "collapsed"), [(0.37, False), (0.0, True)], ids=["hard problems", "none is right"])
def test_accuracy_has_the_sample_size_of_its_problems(
    share: float, collapsed: bool, tiny_model: Path, tmp_path: Path
) -> None:
    """Two problems a step, eight completions each: 48 completions of three steps are six problems."""

    def reward(completions: list[Any], log_metric: Any, trainer_state: Any, **_: Any) -> list[float]:
        log_metric("accuracy/all", 0.88 if trainer_state.global_step < 4 else share)
        return [float(index % 2) for index in range(len(completions))]

    batch = {"per_device_train_batch_size": 16, "num_generations": 8}
    trainer, guard, _ = guarded(tiny_model, tmp_path, "stop", steps=(), max_steps=9, reward_funcs=[reward], **batch)
    if collapsed:
        assert "accuracy fell to 0.00 from 0.88" in train_until_stopped(trainer)
    else:
        trainer.train()
        assert guard.reason is None


def test_after_a_rollback_vllm_gets_the_restored_weights(tiny_model: Path, tmp_path: Path) -> None:
    trainer, guard, _ = guarded(
        tiny_model, tmp_path, "rollback", steps=(), shares=lambda step: {"valid": Share(0.1 if step == 4 else 0.9, 50)}
    )
    trainer._last_loaded_step = 4  # as TRL leaves it when the probe has generated with vLLM
    marks = []

    class Look(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            marks.append(trainer._last_loaded_step)

    trainer.add_callback(Look())
    trainer.train()
    assert guard.rollbacks == 1 and marks[3] == -1


def test_a_checkpoint_of_a_run_that_only_stops_can_go_on_with_rollback(tiny_model: Path, tmp_path: Path) -> None:
    first, _, _ = guarded(tiny_model, tmp_path, "stop", steps=(), max_steps=3, save_strategy="steps", save_steps=3)
    first.train()
    again, guard, seen = guarded(tiny_model, tmp_path, "rollback", steps=(4,), max_steps=6)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert guard.rollbacks == 1 and torch.isfinite(seen.seen[-1]).all() and again.state.global_step == 6


def test_a_batch_that_is_trained_on_twice_counts_once(tiny_model: Path, tmp_path: Path) -> None:
    def reward(completions: list[Any], log_metric: Any, trainer_state: Any, **_: Any) -> list[float]:
        log_metric("workflows/valid", 0.0 if trainer_state.global_step == 12 else 0.9)
        return [float(index % 2) for index in range(len(completions))]

    options = {"num_iterations": 3, "max_steps": 18, "per_device_train_batch_size": 16, "reward_funcs": [reward]}
    trainer, guard, _ = guarded(tiny_model, tmp_path, "stop", steps=(), **options)
    trainer.train()
    assert guard.reason is None and trainer.state.global_step == 18


def test_empty_completions_are_no_reason_to_fail(tiny_model: Path, tmp_path: Path) -> None:
    trainer, guard, _ = guarded(tiny_model, tmp_path, "rollback", steps=(), max_steps=4)
    guard.probe = lambda: Probe(PROBE, [""] * len(PROBE), {})
    trainer.train()
    assert trainer.state.global_step == 4 and guard.rollbacks == 0


def test_a_lost_executor_is_left_to_the_callback_that_saves(tiny_model: Path, tmp_path: Path) -> None:
    def shares(step: int) -> dict[str, Share]:
        if step == 2:
            raise FatalEndpointError("key revoked")
        return {"valid": Share(1.0, 50)}

    trainer, guard, _ = guarded(tiny_model, tmp_path, "rollback", steps=(), shares=shares)
    trainer.train()
    assert trainer.state.global_step == 6 and guard.reason is None and guard.rollbacks == 0


def test_steps_without_a_gradient_are_no_measure_for_those_after(tiny_model: Path, tmp_path: Path) -> None:
    def reward(completions: list[Any], trainer_state: Any, **_: Any) -> list[float]:
        told = trainer_state.global_step >= 12
        return [float(index % 2) if told else 0.0 for index in range(len(completions))]

    trainer, guard, _ = guarded(tiny_model, tmp_path, "stop", steps=(), max_steps=14, reward_funcs=[reward])
    trainer.train()
    assert guard.reason is None and trainer.gradient_norm > 0


def test_a_gradient_far_beyond_the_usual_is_a_collapse(tiny_model: Path, tmp_path: Path) -> None:
    trainer, guard, _ = guarded(tiny_model, tmp_path, "stop", steps=(), max_steps=14, max_grad_norm=1e-3)
    original = trainer._compute_loss
    trainer._compute_loss = lambda *a, **k: original(*a, **k) * (1e6 if trainer.state.global_step == 12 else 1.0)
    train_until_stopped(trainer)
    assert guard.reason is not None and "step 13: the gradient norm is" in guard.reason


def test_rollback_is_the_same_after_a_resume(tiny_model: Path, tmp_path: Path) -> None:
    """Resumed between the last good step and the destructive one, the guard goes back to the same state."""
    options = {"save_strategy": "steps", "save_steps": 3, "max_steps": 7}
    whole, _, seen = guarded(tiny_model, tmp_path, "rollback", steps=(4,), **options)
    whole.train()
    again, guard, resumed = guarded(tiny_model, tmp_path, "rollback", steps=(4,), max_steps=7)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert guard.rollbacks == 1
    assert torch.equal(seen.seen[3], seen.seen[1]) and torch.equal(resumed.seen[0], seen.seen[1])
    assert torch.equal(parameters(again), parameters(whole))
