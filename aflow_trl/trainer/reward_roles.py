"""Which reward decides and which ones break ties: settled when the trainer is built, and read in every step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..engine import Outcome
from ..rollouts import DOMAIN_COLUMN, PROGRESS_COLUMN, RolloutRow
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
    held = ""
    if args.cost_targets is not None:
        unit, targets = args.cost_targets
        at = ", ".join(f"{target:g} ({budget})" if budget else f"{target:g}" for budget, target in targets.items())
        held = f"; a price holds the mean number of {unit.replace('_', ' ')} at {at}"
    decides = f"{names[primary]} decides" + (" (less is better)" if weights[primary] < 0 else "")
    if not others or args.tie_break_alpha == 0:
        return f"{decides}; ties stay ties{held}"
    bound = "at most" if weights[primary] < 0 else "at least"
    return f"{decides}; where it is {bound} {args.correct_from:g}, ties are broken by {' + '.join(others)}{held}"


def reward_batch(
    rewards: Tensor,
    weights: Tensor,
    columns: Mapping[str, Sequence[Any]],
    charges: Tensor | None = None,
) -> RewardBatch:
    """
    What the advantage of a step is computed from.

    Args:
        rewards (`torch.Tensor` of shape `(B*G, R)`):
            Rewards of all processes, NaN where unscored.
        weights (`torch.Tensor` of shape `(R,)`):
            Weights of the reward functions.
        columns (`Mapping[str, Sequence]`):
            Columns that the reward functions logged, gathered from all processes.
        charges (`torch.Tensor` of shape `(B*G,)`, *optional*):
            What each completion is charged for its cost.
    """
    progress, tasks = columns.get(PROGRESS_COLUMN), columns.get(DOMAIN_COLUMN)
    values = None if progress is None else [float("nan") if value is None else float(value) for value in progress]
    return RewardBatch(
        rewards,
        weights.to(rewards.device),
        None if values is None else torch.tensor(values, device=rewards.device),
        None if tasks is None else task_numbers(tasks, rewards.device),
        charges,
    )


def rollout_costs(rows: Sequence[RolloutRow], unit: str) -> Tensor:
    """
    Cost of each completion, shape (B*G,), NaN where it is unscored: the infrastructure failed.

    Args:
        rows (`Sequence[RolloutRow]`):
            Rollouts of all processes.
        unit (`str`):
            `"model_calls"` or `"usd"`.

    Raises:
        `ValueError`: A price is unknown.
    """
    costs = [math.nan if row.score is None else getattr(row, unit) for row in rows]
    if None in costs:
        raise ValueError(
            "target_usd_per_problem needs the price of every executor. Give executor_input_usd_per_mtok and "
            "executor_output_usd_per_mtok, or use target_calls_per_problem."
        )
    return torch.tensor(costs)


def charges_of(
    rows: Sequence[RolloutRow], unit: str, targets: Mapping[str, float], prices: Mapping[str, float], size: int
) -> Tensor:
    """
    What each completion is charged, shape (B*G,), in units of the primary reward.

    An invalid workflow costs nothing, which is no merit: it is charged the most of its group.

    Args:
        rows (`Sequence[RolloutRow]`):
            Rollouts of all processes.
        unit (`str`):
            As for [`rollout_costs`].
        targets (`Mapping[str, float]`):
            Mean cost of each budget; a single one has the budget `""`, and holds for all problems.
        prices (`Mapping[str, float]`):
            Price of that cost.
        size (`int`):
            Completions per prompt, G.

    Raises:
        `ValueError`: A problem has a budget without a target.
    """
    budgets = ["" if "" in targets else row.budget for row in rows]
    if unknown := sorted(set(budgets) - set(targets)):
        raise ValueError(
            f"a problem has the budget {unknown[0]!r}, which has no target. Give each row a column budget with one of "
            f"{', '.join(targets)} (with_budgets draws them), or a target for it."
        )
    price = torch.tensor([prices[budget] / targets[budget] for budget in budgets], dtype=torch.float64)
    groups = (price * torch.nan_to_num(rollout_costs(rows, unit))).view(-1, size)
    invalid = torch.tensor([row.outcome == Outcome.INVALID.value for row in rows]).view(groups.shape)
    return torch.where(invalid, groups.amax(dim=1, keepdim=True), groups).flatten()
