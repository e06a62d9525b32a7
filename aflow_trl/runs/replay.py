"""Rewards and advantages of a run computed again from its traces: unchanged, or as another recipe would have them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from ..dsl import DEFAULT_LIMITS
from ..errors import RecipeError
from ..operators import load_operators
from ..rewards import reward_values
from ..rollouts import REWARDS_FILE, TRAIN, ScoredRollout, read_traces, trace_name
from ..scoring import quantize
from ..storage import read_rows
from ..trainer import (
    REPLAY_SETTINGS_FILE,
    WA_GRPO,
    AdvantageConfig,
    ReplaySettings,
    RewardBatch,
    compute_advantages,
    to_tensor,
)
from ..trainer.advantages import task_numbers


@dataclass(frozen=True, slots=True)
class ReplayedStep:
    """Rewards and advantages of one step: as recorded, and as computed again."""

    step: int
    old_rewards: Tensor
    """Shape (B*G, R); NaN where unscored."""
    new_rewards: Tensor
    old_advantages: Tensor
    """Shape (B*G,)."""
    new_advantages: Tensor


def replay(output_dir: Path, settings: ReplaySettings | None = None) -> Iterator[ReplayedStep]:
    """
    Compute rewards and advantages of every training step again, without a model call.

    Args:
        output_dir (`Path`):
            Output folder of a run.
        settings ([`~aflow_trl.trainer.ReplaySettings`], *optional*):
            Settings of another recipe. Defaults to those of the run.

    Yields:
        [`ReplayedStep`]: In order. Of a step that was repeated because the run was resumed, the last.

    Raises:
        [`RecipeError`]: The folder holds no run, or the settings do not fit its groups.
    """
    path = output_dir / REPLAY_SETTINGS_FILE
    if not path.is_file():
        raise RecipeError(
            f"{output_dir} holds no {REPLAY_SETTINGS_FILE}: it is not the output folder of a run that executed workflows."
        )
    recorded_settings = ReplaySettings.from_json(json.loads(path.read_text(encoding="utf-8")))
    settings = recorded_settings if settings is None else settings
    if settings.advantage.num_generations != recorded_settings.advantage.num_generations:
        raise RecipeError(
            f"the run has groups of {recorded_settings.advantage.num_generations}, the recipe of "
            f"{settings.advantage.num_generations}; a replay cannot change num_generations."
        )
    if settings.advantage_estimator != WA_GRPO:
        raise RecipeError(
            f"advantage_estimator {settings.advantage_estimator} is computed inside a training step of TRL; a replay "
            f"can only compute {WA_GRPO}."
        )
    load_operators(settings.operator_modules)
    batches = _batches(output_dir)
    recorded = {row["step"]: row for row in read_rows(output_dir / REWARDS_FILE)}
    for step in sorted(recorded.keys() & batches.keys()):
        rewards = _rewards(batches[step], settings)
        yield ReplayedStep(
            step,
            to_tensor(recorded[step]["rewards"]),
            rewards,
            torch.tensor(recorded[step]["advantages"]),
            _advantages(rewards, batches[step], settings),
        )


def _batches(output_dir: Path) -> dict[int, list[ScoredRollout]]:
    """Rollouts of each training step, in the order in which the trainer gathered them."""
    batches: dict[int, list[ScoredRollout]] = {}
    process_index = 0
    while (path := output_dir / trace_name(process_index)).exists():
        recorded = (item for item in read_traces(path) if item.phase == TRAIN)
        latest = {}
        for (step, _), items in groupby(recorded, key=lambda item: (item.step, item.batch)):
            latest[step] = [item.rollout for item in items]
        for step, rollouts in latest.items():
            batches.setdefault(step, []).extend(rollouts)
        process_index += 1
    return batches


def _rewards(rollouts: list[ScoredRollout], settings: ReplaySettings) -> Tensor:
    vocabulary = load_operators([]).select(settings.operators).vocabulary
    rescored = [_rescored(rollout, settings.quantize_correctness) for rollout in rollouts]
    by_function = [
        reward_values(
            name,
            rescored,
            gate_secondary=settings.gate_secondary,
            vocabulary=vocabulary,
            limits=DEFAULT_LIMITS,
        )
        for name in settings.reward_funcs
    ]
    return to_tensor([list(values) for values in zip(*by_function, strict=True)])


def _rescored(rollout: ScoredRollout, quantized: bool) -> ScoredRollout:
    if rollout.score is None or rollout.correctness is None:
        return rollout
    return replace(rollout, correctness=quantize(rollout.score) if quantized else rollout.score.value)


def _advantages(rewards: Tensor, rollouts: list[ScoredRollout], settings: ReplaySettings) -> Tensor:
    batch = RewardBatch(
        rewards,
        torch.tensor(settings.reward_weights, dtype=torch.float32),
        torch.tensor([rollout.progress for rollout in rollouts]),
        task_numbers([rollout.domain for rollout in rollouts], rewards.device),
    )
    config: AdvantageConfig = settings.advantage
    return compute_advantages(batch, config)
