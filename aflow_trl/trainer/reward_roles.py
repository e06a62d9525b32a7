"""Which reward decides and which ones break ties: settled when the trainer is built, and read in every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..rollouts import DOMAIN_COLUMN, PROGRESS_COLUMN
from .advantages import RewardBatch, task_numbers
from .workflow_grpo_config import WorkflowGRPOConfig


def primary_index(args: WorkflowGRPOConfig, names: Sequence[str], weights: Sequence[float]) -> int:
    """
    Index of the primary reward function.

    Args:
        args ([`WorkflowGRPOConfig`]):
            Configuration.
        names (`Sequence[str]`):
            Names of the reward functions.
        weights (`Sequence[float]`):
            Their weights.

    Raises:
        `ValueError`: `primary_reward` names none of them, or one of weight 0.
    """
    name = args.primary_reward
    if name is not None and name not in names:
        raise ValueError(f"primary_reward is {name!r}, but the reward functions are {', '.join(names)}.")
    index = 0 if name is None else names.index(name)
    if names and not args.uses_trl_advantages and weights[index] == 0:
        raise ValueError(
            f"reward_weights gives 0 to {names[index]!r}, the primary reward, which would decide nonetheless. Give it "
            "a weight, or name another primary_reward."
        )
    return index


def reward_roles(args: WorkflowGRPOConfig, names: Sequence[str], weights: Sequence[float]) -> str:
    """One sentence: which reward decides, and where the others break ties. Arguments as in [`primary_index`]."""
    weighted = [f"{weight:g} × {name}" for name, weight in zip(names, weights, strict=True)]
    if args.uses_trl_advantages:
        return f"advantages are TRL's ({args.advantage_estimator}) of {' + '.join(weighted)}"
    primary = primary_index(args, names, weights)
    others = [text for index, text in enumerate(weighted) if index != primary and weights[index] != 0]
    decides = f"{names[primary]} decides" + (" (less is better)" if weights[primary] < 0 else "")
    if not others or args.tie_break_alpha == 0:
        return f"{decides}; ties stay ties"
    bound = "at most" if weights[primary] < 0 else "at least"
    return f"{decides}; where it is {bound} {args.correct_from:g}, ties are broken by {' + '.join(others)}"


def reward_batch(rewards: Tensor, weights: Tensor, columns: Mapping[str, Sequence[Any]]) -> RewardBatch:
    """
    What the advantage of a step is computed from.

    Args:
        rewards (`torch.Tensor` of shape `(B*G, R)`):
            Rewards of all processes, NaN where unscored.
        weights (`torch.Tensor` of shape `(R,)`):
            Weights of the reward functions.
        columns (`Mapping[str, Sequence]`):
            Columns that the reward functions logged, gathered from all processes.
    """
    progress, tasks = columns.get(PROGRESS_COLUMN), columns.get(DOMAIN_COLUMN)
    values = None if progress is None else [float("nan") if value is None else float(value) for value in progress]
    return RewardBatch(
        rewards,
        weights.to(rewards.device),
        None if values is None else torch.tensor(values, device=rewards.device),
        None if tasks is None else task_numbers(tasks, rewards.device),
    )
