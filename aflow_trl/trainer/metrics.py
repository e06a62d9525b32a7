"""Metrics of the advantages of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from .advantages import tied_groups

DEAD_ADVANTAGE = 1e-3
"""A group whose advantages are all below this teaches nothing; float rounding alone leaves less."""


def advantage_metrics(primary: Tensor, advantages: Tensor, num_generations: int, tol: float) -> dict[str, float]:
    """
    Number of groups by what decides them, and the share of the advantage that comes from ties.

    Args:
        primary (`torch.Tensor` of shape `(B*G,)`):
            Primary rewards, NaN where unscored.
        advantages (`torch.Tensor` of shape `(B*G,)`):
            Advantages that the loss uses.
        num_generations (`int`):
            Completions per prompt, G.
        tol (`float`):
            Tolerance of a tie.

    Returns:
        `dict[str, float]`: `groups/total`, `/decisive`, `/tie_broken`, `/dead` (counts) and `advantage/tie_mass`, the
        share of the absolute advantage in groups that the primary reward leaves tied.
    """
    tied = tied_groups(primary.float().view(-1, num_generations), tol)
    size = advantages.abs().view(-1, num_generations)
    dead = size.amax(dim=1) < DEAD_ADVANTAGE
    mass = size.sum()
    return {
        "groups/total": float(tied.numel()),
        "groups/decisive": float((~tied).sum()),
        "groups/tie_broken": float((tied & ~dead).sum()),
        "groups/dead": float(dead.sum()),
        "advantage/tie_mass": float(torch.where(mass > 0, size[tied].sum() / mass.clamp(min=1e-12), 0.0)),
    }
