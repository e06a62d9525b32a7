"""
The earlier published form of WA-GRPO, as a baseline of the study in `learning.py`.

It is not part of the package: dividing by the standard deviation of the group and breaking ties with noise make it
collapse, which is what the study shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from aflow_trl.rollouts import RolloutRow, from_columns
from aflow_trl.trainer import WorkflowGRPOTrainer
from aflow_trl.trainer.advantages import clip_advantages

# The constants are those of the published form.
CLASSIC_TIE_STD = 1e-6
"""Standard deviation below which a group counts as tied."""
CLASSIC_TIE_WEIGHT = 0.12
CLASSIC_NOISE_STD = 0.10
"""Standard deviation below which noise is added."""
CLASSIC_NOISE_SCALE = 0.05
CLASSIC_EPSILON = 1e-8
CLASSIC_CLIP = 2.0
CLASSIC_WEIGHTS = {
    "diversity": 0.35,
    "revise_gain": 0.25,
    "execution_success": 0.20,
    "efficiency": 0.10,
    "operator_variety": 0.10,
}
"""Features of the tie-break and their weights."""


class ClassicGRPOTrainer(WorkflowGRPOTrainer):
    """
    [`~aflow_trl.WorkflowGRPOTrainer`] with the advantages of [`wa_grpo_classic`] in place of WA-GRPO's.

    `advantage_estimator` has to be `"wa_grpo"`: under the others TRL computes the advantage. `advantage_scale`,
    `tie_break_alpha` and `tie_tolerance` have no effect on it.
    """

    _name = "classic WA-GRPO"

    def group_advantages(self, columns: Mapping[str, Sequence[object]], size: int) -> Tensor:
        """Advantages of all processes' completions, shape (B*G,)."""
        rewards = self._gathered_rewards
        total = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1)
        # `nansum` counts an unscored completion as 0, which would make it the worst of its group.
        total[torch.isnan(rewards[:, self.primary])] = torch.nan
        features = classic_features(from_columns(columns), size, total)
        # Equal on all processes, which have to draw the same noise, and different in every step.
        seed = self.args.seed + self.state.global_step
        return clip_advantages(wa_grpo_classic(total, features, size, seed=seed), self.args.advantage_clip)


def classic_features(rows: Sequence[RolloutRow] | None, num_generations: int, rewards: Tensor) -> dict[str, Tensor]:
    """
    Features of the tie-break.

    Args:
        rows (`Sequence[RolloutRow]`, *optional*):
            Rollouts of all processes; `None` where the reward functions execute no workflows.
        num_generations (`int`):
            Completions per prompt, G.
        rewards (`torch.Tensor` of shape `(B*G,)`):
            Total rewards, for size and device.

    Returns:
        `dict[str, torch.Tensor]`: A tensor of shape `(B*G,)` for each name in [`CLASSIC_WEIGHTS`]; all zeros without
        rows.
    """
    if rows is None:
        return {name: torch.zeros_like(rewards) for name in CLASSIC_WEIGHTS}
    columns: dict[str, list[float]] = {
        "diversity": _diversity([row.workflow for row in rows], num_generations),
        "revise_gain": [row.revise_gain for row in rows],
        "execution_success": [row.executed for row in rows],
        "efficiency": [-row.model_calls for row in rows],
        "operator_variety": [len(row.operators) for row in rows],
    }
    return {name: torch.tensor(columns[name], dtype=rewards.dtype, device=rewards.device) for name in CLASSIC_WEIGHTS}


def _diversity(workflows: Sequence[str], num_generations: int) -> list[float]:
    """Share of the other members of the group that wrote a different workflow."""
    shares: list[float] = []
    for start in range(0, len(workflows), num_generations):
        group = workflows[start : start + num_generations]
        counts = Counter(group)
        shares += [1 - (counts[workflow] - 1) / (num_generations - 1) for workflow in group]
    return shares


def wa_grpo_classic(rewards: Tensor, features: Mapping[str, Tensor], num_generations: int, *, seed: int = 0) -> Tensor:
    r"""
    Advantages of the earlier published form of WA-GRPO.

    In a group whose standard deviation is below 1e-6, \\( r_i \mathrel{+}= 0.12\, T_i \\) where \\( T \\) is the
    weighted sum of the features in [`CLASSIC_WEIGHTS`], each min-max scaled over the group. If the standard deviation
    is then below 0.10, Gaussian noise of scale 0.05 is sorted and added in the order of the rewards. Finally

    $$ A_i = \mathrm{clip}\left(\frac{r_i - \mu}{\sigma + 10^{-8}}, -2, 2\right) $$

    Args:
        rewards (`torch.Tensor` of shape `(B*G,)`):
            Total rewards; NaN means unscored.
        features (`Mapping[str, torch.Tensor]`):
            A tensor of shape `(B*G,)` for each name in [`CLASSIC_WEIGHTS`].
        num_generations (`int`):
            Completions per prompt, G.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the noise. The published form does not seed it.

    Returns:
        `torch.Tensor` of shape `(B*G,)`: Advantages in [-2, 2], in float32; 0 where unscored.
    """
    generator = torch.Generator().manual_seed(seed)
    advantages = torch.zeros(rewards.numel(), dtype=torch.float32, device=rewards.device)
    for start in range(0, rewards.numel(), num_generations):
        members = torch.arange(start, start + num_generations, device=rewards.device)
        members = members[~torch.isnan(rewards[members])]
        if members.numel() < 2:
            continue
        r = rewards[members].float()
        if r.std(correction=0) < CLASSIC_TIE_STD:
            r = r + CLASSIC_TIE_WEIGHT * _tie_break(features, members)
        if r.std(correction=0) < CLASSIC_NOISE_STD:
            noise = torch.randn(r.numel(), generator=generator).sort().values * CLASSIC_NOISE_SCALE
            r = r.scatter_add(0, r.argsort(), noise.to(r))
        scaled = (r - r.mean()) / (r.std(correction=0) + CLASSIC_EPSILON)
        advantages[members] = scaled.clamp(-CLASSIC_CLIP, CLASSIC_CLIP)
    return advantages


def _tie_break(features: Mapping[str, Tensor], members: Tensor) -> Tensor:
    """Weighted sum of the min-max scaled features of a group's members, in [0, 1]; a constant feature adds nothing."""
    total = torch.zeros(members.numel(), device=members.device)
    for name, weight in CLASSIC_WEIGHTS.items():
        values = torch.nan_to_num(features[name][members].float())
        spread = values.max() - values.min()
        if spread > 0:
            total = total + weight * (values - values.min()) / spread
    return total
