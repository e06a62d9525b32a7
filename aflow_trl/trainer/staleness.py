"""How far the policy has moved from the one that wrote its rollouts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..rollouts import TRAIN

logger = logging.getLogger(__name__)

MAX_STALE_KL = 0.1
"""KL divergence of the trained policy from the generating one, in nats per token, beyond which a batch is stale."""
MAX_STALE_CLIP = 0.2
"""Share of clipped tokens beyond which a batch is stale."""


class Staleness:
    """
    Compares the policy with the one that generated a batch, logs the difference and warns.

    Args:
        accelerator ([`~accelerate.Accelerator`]):
            Gathers over the processes.
        metrics (`dict[str, dict[str, list[float]]]`):
            Metrics of the trainer, to whose training `rollout/kl` (nats per token), `rollout/ratio_mean` and
            `rollout/ratio_max` are added.
    """

    def __init__(self, accelerator: Any, metrics: dict[str, dict[str, list[float]]]) -> None:
        self.kl: float | None = None
        """KL divergence of the policy from the one that generated the latest batch, in nats per token."""
        self._accelerator, self._metrics = accelerator, metrics
        self._is_stale = False

    def measure(self, logps: Tensor, inputs: Mapping[str, Tensor], step: int) -> None:
        """
        Compare the two policies on the tokens of the loss.

        Args:
            logps (`torch.Tensor`):
                Log-probabilities under the policy, shape (B, T).
            inputs (`Mapping[str, torch.Tensor]`):
                Inputs of the loss.
            step (`int`):
                Optimiser step, for the warning.
        """
        mask = (inputs["completion_mask"] * inputs.get("tool_mask", 1)).bool()
        log_ratio = (logps - inputs["old_per_token_logps"])[mask].double()
        # Estimates KL(generating ‖ trained) without bias, and is never negative (Schulman, 2020, k3).
        kl = torch.expm1(log_ratio) - log_ratio
        ratio = log_ratio.exp()
        sums = torch.stack([kl.sum(), ratio.sum(), mask.sum().double()])
        kl_sum, ratio_sum, count = self._accelerator.reduce(sums, reduction="sum").tolist()
        largest = self._accelerator.gather(ratio.max() if ratio.numel() else ratio.new_zeros(())).max().item()
        self.kl = kl_sum / max(1.0, count)
        metrics = self._metrics[TRAIN]
        metrics["rollout/kl"].append(self.kl)
        metrics["rollout/ratio_mean"].append(ratio_sum / max(1.0, count))
        metrics["rollout/ratio_max"].append(largest)
        clipped = (metrics.get("clip_ratio/region_mean") or [0.0])[-1]
        was_stale, self._is_stale = self._is_stale, self.kl > MAX_STALE_KL or clipped > MAX_STALE_CLIP
        if self._is_stale and not was_stale:
            logger.warning(
                "step %d: the rollouts are stale: the policy is %.3f nats per token from the one that wrote them "
                "(safe: %g), and %.0f%% of the tokens are clipped (safe: %.0f%%). Lower rollout_lag or learning_rate.",
                *(step, self.kl, MAX_STALE_KL, 100 * clipped, 100 * MAX_STALE_CLIP),
            )
