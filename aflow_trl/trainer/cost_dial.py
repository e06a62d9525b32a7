"""The price of a rollout, which holds the mean cost of the policy at a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

PRICE_RATE = 0.03
"""Lasting change of the price per step and relative deviation of the mean cost from its target."""
PRICE_GAIN = 0.4
"""Passing change of the price per relative deviation of the latest batch: it damps oscillations."""
MAX_DEVIATION = 0.5
"""Maximum absolute deviation that moves the price: a start far from the target must not build up a price that
overshoots."""
MAX_PRICE = 2.0
"""Maximum price of the target cost, in units of the primary reward."""


class CostDial:
    r"""
    Dual variable of the constraint "the mean cost is at most the target", one for each budget.

    The policy maximises \\( E[c] \\) subject to \\( E[k] \\le \kappa \\), for a primary reward \\( c \\), a cost
    \\( k \\) (model calls or USD) and a target \\( \kappa \\). A completion is charged \\( \lambda k / \kappa \\), in
    units of the primary reward, and after each batch (2602.14468, for tokens; the proportional term: 2007.03964)

    $$ e = \mathrm{clip}(\bar k / \kappa - 1,\; -e_{max},\; e_{max}), \qquad
       \mu \leftarrow \mathrm{clip}(\mu + \eta\, e,\; 0,\; \lambda_{max}), \qquad
       \lambda = \mathrm{clip}(\mu + \gamma\, e,\; 0,\; \lambda_{max}) $$

    with \\( \bar k \\) the mean cost of the batch, \\( \eta \\) = [`PRICE_RATE`], \\( \gamma \\) = [`PRICE_GAIN`],
    \\( e_{max} \\) = [`MAX_DEVIATION`] and \\( \lambda_{max} \\) = [`MAX_PRICE`]. A policy that spends too much sees
    the price rise, one that spends less than its target sees it fall to 0. How much of a charge a group feels is
    limited, so that right still beats wrong: see [`~aflow_trl.trainer.advantages.wa_grpo`].

    Args:
        unit (`str`):
            Cost of a completion: `"model_calls"` or `"usd"`.
        targets (`Mapping[str, float]`):
            Its mean by budget. A single target has the budget `""`, and holds for all problems.
    """

    def __init__(self, unit: str, targets: Mapping[str, float]) -> None:
        self.unit, self.targets = unit, dict(targets)
        self.lasting_prices = dict.fromkeys(targets, 0.0)
        self.prices = dict.fromkeys(targets, 0.0)
        """Price of the target cost of each budget, in units of the primary reward."""

    def update(self, costs: Tensor, budgets: Sequence[str]) -> dict[str, float]:
        """
        Move the prices by the costs of a batch of all processes.

        Args:
            costs (`torch.Tensor` of shape `(B*G,)`):
                Cost of each completion; NaN where it is unscored.
            budgets (`Sequence[str]`):
                Budget of each completion.

        Returns:
            `dict[str, float]`: Metrics: the mean cost, and the price that the batch was charged at, by budget.
        """
        metrics: dict[str, float] = {}
        for budget, target in self.targets.items():
            here = torch.tensor([not budget or item == budget for item in budgets], dtype=torch.bool)
            scored = costs[here.to(costs.device) & ~torch.isnan(costs)]
            if not scored.numel():
                continue
            mean = scored.double().mean().item()
            suffix = f"/{budget}" if budget else ""
            metrics |= {f"cost/mean{suffix}": mean, f"cost/price{suffix}": self.prices[budget]}
            deviation = min(MAX_DEVIATION, max(-MAX_DEVIATION, mean / target - 1))
            self.lasting_prices[budget] = _clipped(self.lasting_prices[budget] + PRICE_RATE * deviation)
            self.prices[budget] = _clipped(self.lasting_prices[budget] + PRICE_GAIN * deviation)
        return metrics

    def state_dict(self) -> dict[str, dict[str, float]]:
        """State that a checkpoint holds."""
        return {"lasting_prices": dict(self.lasting_prices), "prices": dict(self.prices)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Restore the state of [`state_dict`], for the budgets that it has."""
        for mine, theirs in ((self.lasting_prices, state["lasting_prices"]), (self.prices, state["prices"])):
            mine.update({budget: price for budget, price in theirs.items() if budget in mine})


def _clipped(price: float) -> float:
    return min(MAX_PRICE, max(0.0, price))
