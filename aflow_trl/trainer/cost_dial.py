"""The price of a rollout, which holds the mean cost of the policy at a target."""

from __future__ import annotations

import torch
from torch import Tensor

PRICE_RATE = 0.05
"""Lasting change of the price per step and relative deviation of the mean cost from its target."""
PRICE_GAIN = 0.5
"""Passing change of the price per relative deviation of the latest batch: it damps oscillations."""
MAX_PRICE = 2.0
"""Maximum price of the target cost, in units of the primary reward."""


class CostDial:
    r"""
    Dual variable of the constraint "the mean cost is at most the target".

    The policy maximises \\( E[c] \\) subject to \\( E[k] \\le \kappa \\), for a primary reward \\( c \\), a cost
    \\( k \\) (model calls or USD) and a target \\( \kappa \\). A completion is charged \\( \lambda k / \kappa \\), in
    units of the primary reward, and after each batch (2602.14468, for tokens; the proportional term: 2007.03964)

    $$ e = \bar k / \kappa - 1, \qquad \mu \leftarrow \mathrm{clip}(\mu + \eta\, e,\; 0,\; \lambda_{max}), \qquad
       \lambda = \mathrm{clip}(\mu + \gamma\, e,\; 0,\; \lambda_{max}) $$

    with \\( \bar k \\) the mean cost of the batch, \\( \eta \\) = [`PRICE_RATE`], \\( \gamma \\) = [`PRICE_GAIN`]
    and \\( \lambda_{max} \\) = [`MAX_PRICE`]. A policy that spends too much sees the price rise, one that spends less
    than its target sees it fall to 0. How much of a charge a group feels is limited, so that right still beats wrong:
    see [`~aflow_trl.trainer.advantages.wa_grpo`].

    Args:
        unit (`str`):
            Cost of a completion: `"model_calls"` or `"usd"`.
        target (`float`):
            Its mean.
    """

    def __init__(self, unit: str, target: float) -> None:
        self.unit, self.target = unit, target
        self.lasting_price = 0.0
        self.price = 0.0
        """Price of the target cost, in units of the primary reward."""

    def update(self, costs: Tensor) -> dict[str, float]:
        """
        Move the price by the costs of a batch of all processes, NaN where a completion is unscored.

        Returns:
            `dict[str, float]`: Metrics: the mean cost, and the price that the batch was charged at.
        """
        scored = costs[~torch.isnan(costs)]
        if not scored.numel():
            return {}
        mean = scored.double().mean().item()
        metrics = {"cost/mean": mean, "cost/price": self.price}
        deviation = mean / self.target - 1
        self.lasting_price = _clipped(self.lasting_price + PRICE_RATE * deviation)
        self.price = _clipped(self.lasting_price + PRICE_GAIN * deviation)
        return metrics

    def state_dict(self) -> dict[str, float]:
        """State that a checkpoint holds."""
        return {"lasting_price": self.lasting_price, "price": self.price}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore the state of [`state_dict`]."""
        self.lasting_price, self.price = state["lasting_price"], state["price"]


def _clipped(price: float) -> float:
    return min(MAX_PRICE, max(0.0, price))
