"""From rewards and logged columns to advantages: what the trainer does in a step, and a replay does again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .advantages import CLASSIC_WEIGHTS, wa_grpo, wa_grpo_classic

FEATURE_COLUMNS = ("progress", "revise_gain", "executed", "operator_variety", "model_calls", "task")
"""Columns that reward functions log with `log_extra` and advantages read."""


@dataclass(frozen=True, slots=True)
class EstimatorSettings:
    """What decides the advantages of given rewards."""

    advantage_estimator: str
    advantage_scale: str
    tie_break_alpha: float
    tie_tolerance: float
    primary: int
    """Index of the primary reward."""
    num_generations: int
    advantage_clip: float | None = None


def estimate_advantages(
    rewards: Tensor,
    weights: Tensor,
    features: Mapping[str, Tensor | None],
    workflows: Sequence[str],
    settings: EstimatorSettings,
    *,
    seed: int,
) -> Tensor:
    """
    Advantages of a batch, by `wa_grpo` or `wa_grpo_classic`.

    Args:
        rewards (`torch.Tensor` of shape `(B*G, number of reward functions)`):
            Rewards; NaN where a completion is unscored.
        weights (`torch.Tensor` of shape `(number of reward functions,)`):
            Weights of the reward functions.
        features (`Mapping[str, torch.Tensor]`):
            Columns of [`FEATURE_COLUMNS`], each of shape `(B*G,)`, or `None` where nobody logs it.
        workflows (`Sequence[str]`):
            Canonical workflows, empty if nobody logs them.
        settings ([`EstimatorSettings`]):
            Estimator and its options.
        seed (`int`):
            Seed of the noise of `wa_grpo_classic`.

    Returns:
        `torch.Tensor` of shape `(B*G,)`: Advantages.
    """
    if settings.advantage_estimator == "wa_grpo_classic":
        total = (rewards * weights).nansum(dim=1)
        total[torch.isnan(rewards).all(dim=1)] = torch.nan
        classic = _classic_features(features, workflows, settings.num_generations, rewards)
        return clip(wa_grpo_classic(total, classic, settings.num_generations, seed=seed), settings.advantage_clip)
    others = [index for index in range(rewards.shape[1]) if index != settings.primary]
    share = weights[others] / weights[others].sum().clamp(min=torch.finfo(weights.dtype).tiny)
    advantages = wa_grpo(
        rewards[:, settings.primary],
        (rewards[:, others] * share).nansum(dim=1),
        settings.num_generations,
        scale=settings.advantage_scale,
        alpha=settings.tie_break_alpha,
        tol=settings.tie_tolerance,
        progress=features.get("progress"),
        tasks=features.get("task"),
    )
    return clip(advantages, settings.advantage_clip)


def clip(advantages: Tensor, largest: float | None) -> Tensor:
    """Advantages within ± `largest`; as they are if that is `None`."""
    return advantages if largest is None else advantages.clamp(-largest, largest)


def _classic_features(
    features: Mapping[str, Tensor | None], workflows: Sequence[str], num_generations: int, rewards: Tensor
) -> dict[str, Tensor]:
    """Parts of the classic tie-break; zeros where no reward function logs them."""
    size, device = rewards.shape[0], rewards.device
    zeros = torch.zeros(size, device=device)
    logged = {name: zeros if (column := features.get(name)) is None else column for name in FEATURE_COLUMNS}
    own = list(workflows) or [""] * size
    groups = [own[i - i % num_generations : i - i % num_generations + num_generations] for i in range(size)]
    others_alike = [(group.count(one) - 1) / (num_generations - 1) for one, group in zip(own, groups, strict=True)]
    classic = {
        "diversity": 1 - torch.tensor(others_alike, device=device),
        "revise_gain": logged["revise_gain"],
        "execution_success": logged["executed"],
        "efficiency": -logged["model_calls"],
        "operator_variety": logged["operator_variety"],
    }
    assert classic.keys() == CLASSIC_WEIGHTS.keys()
    return classic
