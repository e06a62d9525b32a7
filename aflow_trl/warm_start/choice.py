"""How often each survivor of a search is taught: by its accuracy and, with a target, by its cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from .types import Candidate, Group

WEIGHT_SCALE = 0.02
"""Difference in accuracy over which the weight of a winner falls by a factor of e."""
TARGET_WEIGHT_SCALE = 0.08
"""The same with a target: a wider choice, so that the policy can move calls from one problem to another."""
MIN_WEIGHT = 0.01
"""Winners of a smaller weight are left out."""
SEARCH_PRICES = (0.03, 0.1, 0.3)
"""Prices of the target cost, in accuracy, that a search keeps the best workflows at."""
_BISECTIONS = 60


def search_prices(targets: Sequence[float]) -> list[float]:
    """Prices of a unit of cost at which a search for targets keeps the best workflows, ascending."""
    return sorted({0.0} | {price / target for target in targets for price in SEARCH_PRICES})


def winners_at(
    survivors: Mapping[Group, Sequence[Candidate]],
    shares: Mapping[Group, float],
    unit: str,
    target: float | None,
) -> dict[Group, list[Candidate]]:
    r"""
    Survivors with their weights, which sum to 1 in each group, the largest first.

    The weight of a workflow with accuracy \\( a \\) and cost \\( k \\) is proportional to
    \\( e^{(a - \lambda k) / \tau} \\). Without a target \\( \lambda = 0 \\); with one it is the smallest
    \\( \lambda \ge 0 \\) at which the mean cost over all groups does not exceed the target.

    Args:
        survivors (`Mapping[Group, Sequence[Candidate]]`):
            What the search of each group has left.
        shares (`Mapping[Group, float]`):
            Share of the problems in each group.
        unit (`str`):
            Cost: `"model_calls"` or `"usd"`.
        target (`float`, *optional*):
            Mean cost of a problem.

    Returns:
        `dict[Group, list[Candidate]]`: Winners of each group.
    """
    scale = WEIGHT_SCALE if target is None else TARGET_WEIGHT_SCALE

    def weigh(price: float) -> dict[Group, list[Candidate]]:
        return {group: _weighted(candidates, price, unit, scale) for group, candidates in survivors.items()}

    def mean_cost(price: float) -> float:
        return sum(
            shares[group] * sum(winner.weight * winner.cost(unit) for winner in winners)
            for group, winners in weigh(price).items()
        )

    if target is None or mean_cost(0.0) <= target:
        return weigh(0.0)
    low, high = 0.0, 1.0 / target
    while mean_cost(high) > target and high < 1e3 / target:
        high *= 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_cost(middle) > target else (low, middle)
    return weigh(high)


def _weighted(candidates: Sequence[Candidate], price: float, unit: str, scale: float) -> list[Candidate]:
    merits = [candidate.accuracy - price * candidate.cost(unit) for candidate in candidates]
    weights = [math.exp((merit - max(merits)) / scale) for merit in merits]
    kept = [weight if weight >= MIN_WEIGHT * sum(weights) else 0.0 for weight in weights]
    winners = [
        replace(candidate, weight=weight / sum(kept))
        for candidate, weight in zip(candidates, kept, strict=True)
        if weight
    ]
    return sorted(winners, key=lambda winner: -winner.weight)
