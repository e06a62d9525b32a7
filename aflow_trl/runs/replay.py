"""
Recomputation of a run's rewards and advantages from its traces, with its own settings or with those of another recipe.

It answers what another reward weight or advantage scale would have done, without paying for a model call.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
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
from ..rollouts.batch import rollout_row
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
from ..trainer.reward_roles import charges_of


@dataclass(frozen=True, slots=True)
class ReplayedStep:
    """Recorded and recomputed rewards and advantages of one step."""

    step: int
    old_rewards: Tensor
    """Shape (B*G, R); NaN where unscored."""
    new_rewards: Tensor
    old_advantages: Tensor
    """Shape (B*G,)."""
    new_advantages: Tensor


def replay(output_dir: Path, settings: ReplaySettings | None = None) -> Iterator[ReplayedStep]:
    """
    Recompute rewards and advantages of every training step, without a model call.

    Args:
        output_dir (`Path`):
            Output folder of a run.
        settings ([`~aflow_trl.trainer.ReplaySettings`], *optional*):
            Settings of another recipe. Defaults to those of the run.

    Yields:
        [`ReplayedStep`]: In order. A step that was repeated after a resume appears once, as it was run last.

    Raises:
        [`RecipeError`]: The folder holds no run, or the settings do not fit its groups.
    """
    path = output_dir / REPLAY_SETTINGS_FILE
    if not path.is_file():
        raise RecipeError(
            f"{output_dir} holds no {REPLAY_SETTINGS_FILE}. Name the output folder of a run that executed workflows "
            "with save_traces."
        )
    recorded_settings = ReplaySettings.from_json(json.loads(path.read_text(encoding="utf-8")))
    settings = recorded_settings if settings is None else settings
    if settings.advantage.num_generations != recorded_settings.advantage.num_generations:
        raise RecipeError(
            f"num_generations is {settings.advantage.num_generations} in the recipe, but the run has groups of "
            f"{recorded_settings.advantage.num_generations}, which a replay cannot regroup. Use the same value."
        )
    if settings.advantage_estimator != WA_GRPO:
        raise RecipeError(
            f"advantage_estimator is {settings.advantage_estimator!r}, computed inside a training step of TRL, which "
            f"a replay does not repeat. Only {WA_GRPO!r} can be replayed."
        )
    # Operators of the user have to be registered before their workflows can be parsed.
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
            _advantages(rewards, batches[step], settings, recorded[step].get("prices")),
        )


def _batches(output_dir: Path) -> dict[int, list[ScoredRollout]]:
    """Rollouts of each training step, in the order in which the trainer gathered them."""
    batches: dict[int, list[ScoredRollout]] = {}
    process_index = 0
    while (path := output_dir / trace_name(process_index)).exists():
        recorded = (item for item in read_traces(path) if item.phase == TRAIN)
        # A resumed run repeats the steps after its checkpoint, and appends them to the same file.
        latest = {}
        for (step, _), items in groupby(recorded, key=lambda item: (item.step, item.batch)):
            latest[step] = [item.rollout for item in items]
        for step, rollouts in latest.items():
            batches.setdefault(step, []).extend(rollouts)
        process_index += 1
    return batches


def _rewards(rollouts: list[ScoredRollout], settings: ReplaySettings) -> Tensor:
    vocabulary = load_operators([]).select(settings.operators).with_models(settings.models).vocabulary
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
    """The rollout with its correctness derived from the recorded score; unscored and invalid ones are unchanged."""
    if rollout.score is None or rollout.correctness is None:
        return rollout
    return replace(rollout, correctness=quantize(rollout.score) if quantized else rollout.score.value)


def _advantages(
    rewards: Tensor, rollouts: list[ScoredRollout], settings: ReplaySettings, prices: Mapping[str, float] | None
) -> Tensor:
    """Advantages of a step; `prices` are the recorded ones, because they depend on all steps before."""
    charges = None
    if settings.cost_targets is not None and prices is not None:
        unit, targets = settings.cost_targets
        rows = [rollout_row(rollout) for rollout in rollouts]
        charges = charges_of(rows, unit, targets, prices, settings.advantage.num_generations)
    batch = RewardBatch(
        rewards,
        torch.tensor(settings.reward_weights, dtype=torch.float32),
        torch.tensor([rollout.progress for rollout in rollouts]),
        task_numbers([rollout.domain for rollout in rollouts], rewards.device),
        charges,
    )
    config: AdvantageConfig = settings.advantage
    return compute_advantages(batch, config)
