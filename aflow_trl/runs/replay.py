"""Rewards and advantages of a run again, from its traces alone: the same, or as another recipe would have them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..dsl import DEFAULT_LIMITS
from ..errors import RecipeError
from ..operators import load_operators, vocabulary
from ..recipes import Recipe
from ..rollouts import ScoredRollout, batch_columns, read_rollout
from ..storage import read_rows
from ..rewards import reward_value
from ..scoring import quantize
from ..trainer import EstimatorSettings, FEATURE_COLUMNS, REWARDS_FILE, TRL_ESTIMATORS, estimate_advantages

SETTINGS_FILE = "settings.json"


@dataclass(frozen=True, slots=True)
class ReplayedStep:
    """Rewards and advantages of one step: as they were, and as they come out again."""

    step: int
    old_rewards: Tensor
    """Shape (B*G, number of reward functions); NaN where unscored."""
    new_rewards: Tensor
    old_advantages: Tensor
    """Shape (B*G,)."""
    new_advantages: Tensor


def trace_name(rank: int) -> str:
    """File of the traces of one process."""
    return f"traces.rank{rank}.jsonl.gz" if rank else "traces.jsonl.gz"


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """What decides rewards and advantages of given traces, as plain data."""
    args, training = recipe.workflow, recipe.training
    if args.task != "compose":
        raise RecipeError(f"a replay knows recipes with task: compose; this one has task: {args.task}.")
    names = recipe.reward_names
    weights = training.reward_weights or [recipe.reward_weights[name] for name in names]
    return {
        "reward_funcs": names,
        "reward_weights": list(weights),
        "gate_secondary": args.gate_secondary,
        "quantize_correctness": args.quantize_correctness,
        "operators": args.operators,
        "operator_modules": args.operator_modules or [],
        "primary": names.index(training.primary_reward) if training.primary_reward else 0,
        "num_generations": training.num_generations,
        "advantage_estimator": training.advantage_estimator,
        "advantage_scale": training.advantage_scale,
        "tie_break_alpha": training.tie_break_alpha,
        "tie_tolerance": training.tie_tolerance,
        "advantage_clip": training.advantage_clip,
        "seed": training.seed,
    }


def replay(output_dir: Path, settings: dict[str, Any] | None = None) -> Iterator[ReplayedStep]:
    """
    Compute rewards and advantages of every training step again, without a model call.

    Args:
        output_dir (`Path`):
            Output folder of a run.
        settings (`dict[str, Any]`, *optional*):
            Settings by [`settings_of`] of another recipe. Defaults to the run's own.

    Yields:
        [`ReplayedStep`]: In order; of a step that was done twice, because the run was resumed, the last.

    Raises:
        [`RecipeError`]: The folder holds no run, or the settings do not fit its groups.
    """
    path = output_dir / SETTINGS_FILE
    if not path.is_file():
        raise RecipeError(
            f"{output_dir} holds no {SETTINGS_FILE}: it is no output folder of a run, or of an older one."
        )
    own = json.loads(path.read_text(encoding="utf-8"))
    new = own if settings is None else settings
    if new["num_generations"] != own["num_generations"]:
        raise RecipeError(
            f"the run has groups of {own['num_generations']}, the recipe of {new['num_generations']}; a replay cannot "
            "change num_generations."
        )
    if new["advantage_estimator"] in TRL_ESTIMATORS:
        raise RecipeError(
            f"advantage_estimator {new['advantage_estimator']} is TRL's own code inside a training step; a replay "
            "knows wa_grpo and wa_grpo_classic."
        )
    load_operators(new["operator_modules"])
    batches = _batches(output_dir)
    recorded = {row["step"]: row for row in read_rows(output_dir / REWARDS_FILE)}
    for step in sorted(recorded.keys() & batches.keys()):
        row = recorded[step]
        rewards = _rewards(batches[step], new)
        yield ReplayedStep(
            step,
            _tensor(row["rewards"]),
            rewards,
            torch.tensor(row["advantages"]),
            _advantages(rewards, batches[step], new, step),
        )


def _batches(output_dir: Path) -> dict[int, list[ScoredRollout]]:
    """Rollouts of each training step, in the order in which the trainer gathered them."""
    batches: dict[int, list[ScoredRollout]] = {}
    rank = 0
    while (output_dir / trace_name(rank)).exists():
        rows = (row for row in read_rows(output_dir / trace_name(rank)) if row["phase"] == "train")
        steps = {}
        for (step, _), own in groupby(rows, key=lambda row: (row["step"], row["batch"])):
            steps[step] = [read_rollout(row) for row in own]
        for step, rollouts in steps.items():
            batches.setdefault(step, []).extend(rollouts)
        rank += 1
    return batches


def _rewards(rollouts: list[ScoredRollout], settings: dict[str, Any]) -> Tensor:
    facts = {
        "gate_secondary": settings["gate_secondary"],
        "vocabulary": vocabulary(settings["operators"]),
        "limits": DEFAULT_LIMITS,
    }
    scored = [_rescored(rollout, settings["quantize_correctness"]) for rollout in rollouts]
    return _tensor([[reward_value(name, one, **facts) for name in settings["reward_funcs"]] for one in scored])


def _rescored(rollout: ScoredRollout, quantized: bool) -> ScoredRollout:
    if rollout.score is None or rollout.correctness is None:
        return rollout
    return replace(rollout, correctness=quantize(rollout.score) if quantized else rollout.score.value)


def _advantages(rewards: Tensor, rollouts: list[ScoredRollout], settings: dict[str, Any], step: int) -> Tensor:
    columns = batch_columns(rollouts)
    own: dict[str, Any] = {
        name: settings.get(name)
        for name in (
            "advantage_estimator",
            "advantage_scale",
            "tie_break_alpha",
            "tie_tolerance",
            "primary",
            "num_generations",
            "advantage_clip",
        )
    }
    return estimate_advantages(
        rewards,
        torch.tensor(settings["reward_weights"], dtype=torch.float32),
        {name: _column(columns[name]) for name in FEATURE_COLUMNS},
        columns["workflow"],
        EstimatorSettings(**own),
        seed=settings["seed"] + step,
    )


def _column(values: list[Any]) -> Tensor:
    return torch.tensor([float("nan") if value is None else float(value) for value in values])


def _tensor(rows: list[list[float | None]]) -> Tensor:
    return torch.tensor([[float("nan") if value is None else value for value in row] for row in rows])
