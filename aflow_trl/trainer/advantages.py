"""
Advantages of a batch of completions, as pure functions of reward tensors.

Shapes: B prompts, G completions each, flattened to (B*G,); completions of one prompt are neighbours. A reward that is
NaN is unscored: the completion gets advantage 0 and changes nobody else's.
"""

from __future__ import annotations

import torch
from torch import Tensor
from trl.trainer.utils import nanstd

SCALES = ("none", "batch", "group", "task")
DEFAULT_TOLERANCE = 1e-4
"""Primary rewards that differ by no more than this are tied."""
SCALE_FLOOR = 0.1
"""Least value of the scale: a batch or a group with little spread is not blown up."""
TIE_UNIT = 0.05
"""Fixed unit of the tie-break in secondary reward: about two model calls at the default weights."""
TRL_EPSILON = 1e-4
"""What TRL adds to a standard deviation before it divides by it."""
TIE_MARGIN = 0.499
"""Share of the smallest decisive gap the tie-break may use; just under one half, so that order survives rounding."""


def wa_grpo(
    primary: Tensor,
    secondary: Tensor,
    num_generations: int,
    *,
    scale: str = "batch",
    alpha: float = 0.1,
    tol: float = DEFAULT_TOLERANCE,
    progress: Tensor | None = None,
    correct_from: float = 1.0,
    tasks: Tensor | None = None,
) -> Tensor:
    r"""
    Workflow-Aware GRPO: the primary reward decides, the secondary one only breaks ties.

    For a group \\( g \\) with primary rewards \\( c_i \\):

    $$ A_i = \frac{c_i - \mathrm{mean}_g c}{\mathrm{scale}} + \alpha_g t_i, \qquad
       \alpha_g = \min\left(\alpha,\; \tfrac12 \cdot \frac{\text{smallest decisive gap}}{\mathrm{scale}}\right) $$

    where \\( t_i \in [-1, 1] \\) is the secondary reward (or, among members that are not right, `progress`), centred
    in the tie class of \\( i \\) and divided by its standard deviation plus [`TIE_UNIT`]. Hence
    \\( c_i > c_j + tol \\) implies \\( A_i > A_j \\) for every \\( \alpha \\). With \\( \alpha = 0 \\) and
    `scale="none"`, `"batch"` or `"group"` these are the advantages of Dr. GRPO (2503.20783), of batch-level scaling
    (2508.08221) and of GRPO (2402.03300), the last two as long as the standard deviation exceeds [`SCALE_FLOOR`].

    Args:
        primary (`torch.Tensor` of shape `(B*G,)`):
            Primary rewards; NaN means unscored.
        secondary (`torch.Tensor` of shape `(B*G,)`):
            Secondary rewards; they break ties among members with `primary >= correct_from`.
        num_generations (`int`):
            Completions a prompt, G.
        scale (`str`, *optional*, defaults to `"batch"`):
            What differences are divided by: `"none"` (1), or the standard deviation, floored, over the `"batch"`, the
            `"group"`, or all groups of the same `"task"`.
        alpha (`float`, *optional*, defaults to `0.1`):
            Largest advantage a tie-break may give.
        tol (`float`, *optional*, defaults to `1e-4`):
            Primary rewards that differ by no more are tied.
        progress (`torch.Tensor` of shape `(B*G,)`, *optional*):
            Breaks ties among members that are not right. Without it they stay tied: being cheap is no merit there.
        correct_from (`float`, *optional*, defaults to `1.0`):
            Primary reward from which an answer counts as right.
        tasks (`torch.Tensor` of shape `(B*G,)`, *optional*):
            Number of the task each completion belongs to; needed for `scale="task"`.

    Returns:
        `torch.Tensor` of shape `(B*G,)`: Advantages, in float32, with mean zero over every group.

    Raises:
        `ValueError`: A reward is infinite, a shape does not fit, or `scale` is unknown.
    """
    _check(primary, num_generations, scale, secondary=secondary, progress=progress, tasks=tasks)
    scored = ~torch.isnan(primary)
    c = primary.float()
    groups = c.view(-1, num_generations)
    divisor = _divisor(groups, scale, tasks)
    first = _centred(groups, tol) / divisor
    t, gaps = _tie_breaks(groups, secondary, progress, tol, correct_from)
    step = torch.minimum(torch.tensor(float(alpha), device=c.device), TIE_MARGIN * gaps / divisor)
    advantages = first + step * t
    return torch.where(scored, advantages.flatten(), 0.0)


def _check(primary: Tensor, num_generations: int, scale: str, **others: Tensor | None) -> None:
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}.")
    if primary.dim() != 1 or primary.numel() % num_generations:
        raise ValueError(f"{tuple(primary.shape)} rewards do not form groups of {num_generations}.")
    if torch.isinf(primary).any():
        raise ValueError("a primary reward is infinite; rewards must be finite, or None where there is none.")
    if scale == "task" and others.get("tasks") is None:
        raise ValueError('scale="task" needs the task of each completion.')
    for name, tensor in others.items():
        if tensor is not None and tensor.shape != primary.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(primary.shape)}.")
        if tensor is not None and torch.isinf(tensor).any():
            raise ValueError(f"{name} holds an infinite value; rewards must be finite.")


def _centred(groups: Tensor, tol: float) -> Tensor:
    """Rewards minus their group's mean, exactly 0 where the whole group is tied; shape (B, G)."""
    centred = groups - torch.nanmean(groups, dim=1, keepdim=True)
    return torch.where(tied_groups(groups, tol).unsqueeze(1), 0.0, centred)


def tied_groups(groups: Tensor, tol: float) -> Tensor:
    """
    Which groups hold one tie class only, decided by max − min.

    Args:
        groups (`torch.Tensor` of shape `(B, G)`):
            Primary rewards, NaN where unscored.
        tol (`float`):
            Tolerance.

    Returns:
        `torch.Tensor` of shape `(B,)`: True also where fewer than two members are scored.
    """
    unscored = torch.isnan(groups)
    highest = groups.masked_fill(unscored, -torch.inf).amax(dim=1)
    lowest = groups.masked_fill(unscored, torch.inf).amin(dim=1)
    return ~(highest - lowest > tol)


def _divisor(groups: Tensor, scale: str, tasks: Tensor | None) -> Tensor:
    """What differences are divided by; shape (B, 1)."""
    if scale == "none":
        return torch.ones_like(groups[:, :1])
    if scale == "task" and tasks is not None:
        own = tasks.view(groups.shape)[:, 0]
        divisor = torch.ones_like(groups[:, :1])
        for task in own.unique():
            divisor[own == task] = _divisor(groups[own == task], "batch", None)
        return divisor
    std = nanstd(groups, dim=1, keepdim=True) if scale == "group" else nanstd(groups).expand(groups.shape[0], 1)
    return torch.nan_to_num(std + TRL_EPSILON, nan=SCALE_FLOOR).clamp(min=SCALE_FLOOR)


def _tie_breaks(
    groups: Tensor, secondary: Tensor, progress: Tensor | None, tol: float, correct_from: float
) -> tuple[Tensor, Tensor]:
    """Tie-breaks t in [-1, 1] of shape (B, G), and the smallest decisive gap of each group, shape (B, 1)."""
    size = groups.shape[1]
    s = secondary.double().view(-1, size)
    p = torch.zeros_like(s) if progress is None else progress.double().view(-1, size)
    merit = torch.nan_to_num(torch.where(groups >= correct_from - tol, s, p))
    # Sorting makes tie classes neighbours; a class ends where the next reward is more than `tol` away.
    order = groups.masked_fill(torch.isnan(groups), torch.inf).argsort(dim=1, stable=True)
    ranked = groups.gather(1, order).double()
    steps = ranked[:, 1:] - ranked[:, :-1]
    starts = torch.cat([torch.zeros_like(order[:, :1]), (~(steps <= tol)).long()], dim=1)
    classes = torch.zeros_like(order).scatter(1, order, starts.cumsum(dim=1))
    differences = (groups.unsqueeze(2) - groups.unsqueeze(1)).double()
    decisive = torch.where(differences > tol, differences, torch.inf)
    gaps = decisive.flatten(1).amin(dim=1, keepdim=True)
    member = torch.nn.functional.one_hot(classes, size).double() * (~torch.isnan(groups)).unsqueeze(2)
    return _squash(merit, member).float(), gaps.float()


def _squash(merit: Tensor, member: Tensor) -> Tensor:
    """Merit centred in each class, over its std plus the unit, clipped to [-1, 1], centred again; shape (B, G)."""
    count = member.sum(dim=1).clamp(min=1.0)

    def mean(values: Tensor) -> Tensor:
        """Mean of each member's own class."""
        return (member * ((member * values.unsqueeze(2)).sum(dim=1) / count).unsqueeze(1)).sum(dim=2)

    centred = merit - mean(merit)
    std = mean(centred.square()).sqrt()
    t = (centred / (std + TIE_UNIT)).clamp(-1.0, 1.0)
    t = t - mean(t)
    largest = (member * t.abs().unsqueeze(2)).amax(dim=1)
    own_largest = (member * largest.unsqueeze(1)).sum(dim=2)
    t = t / own_largest.clamp(min=1.0)
    # A class that ties in merit too is exactly 0, whatever rounding leaves of its mean.
    low = torch.where(member > 0, merit.unsqueeze(2), torch.inf).amin(dim=1)
    high = torch.where(member > 0, merit.unsqueeze(2), -torch.inf).amax(dim=1)
    spread = torch.nan_to_num((high - low), neginf=0.0, posinf=0.0)
    return torch.where((member * spread.unsqueeze(1)).sum(dim=2) > 1e-9, t, 0.0)


# The earlier published form, kept for comparison.
CLASSIC_TIE_STD = 1e-6
CLASSIC_TIE_WEIGHT = 0.12
CLASSIC_NOISE_STD = 0.10
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
"""Parts of the classic tie-break and their weights."""


def wa_grpo_classic(rewards: Tensor, features: dict[str, Tensor], num_generations: int, *, seed: int = 0) -> Tensor:
    r"""
    The earlier published form of WA-GRPO, for comparison only: it divides by the group's standard deviation and adds
    noise (seeded here), which is what makes it collapse.

    In a group whose std is below 1e-6, \\( r_i \mathrel{+}= 0.12\, T_i \\) with \\( T \\) the weighted sum of
    [`CLASSIC_WEIGHTS`], each min-max scaled over the group; if the std is then below 0.10, sorted Gaussian noise of
    scale 0.05 is added in the order of the rewards;
    \\( A_i = \mathrm{clip}((r_i - \mu) / (\sigma + 10^{-8}), \pm 2) \\).

    Args:
        rewards (`torch.Tensor` of shape `(B*G,)`):
            Total rewards; NaN means unscored.
        features (`dict[str, torch.Tensor]`):
            A tensor of shape `(B*G,)` for each name in [`CLASSIC_WEIGHTS`].
        num_generations (`int`):
            Completions a prompt, G.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the noise.

    Returns:
        `torch.Tensor` of shape `(B*G,)`: Advantages in [-2, 2].
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
            r = r + CLASSIC_TIE_WEIGHT * _classic_tie_break(features, members)
        if r.std(correction=0) < CLASSIC_NOISE_STD:
            noise = torch.randn(r.numel(), generator=generator).sort().values * CLASSIC_NOISE_SCALE
            r = r.scatter_add(0, r.argsort(), noise.to(r))
        scaled = (r - r.mean()) / (r.std(correction=0) + CLASSIC_EPSILON)
        advantages[members] = scaled.clamp(-CLASSIC_CLIP, CLASSIC_CLIP)
    return advantages


def _classic_tie_break(features: dict[str, Tensor], members: Tensor) -> Tensor:
    total = torch.zeros(members.numel(), device=members.device)
    for name, weight in CLASSIC_WEIGHTS.items():
        values = torch.nan_to_num(features[name][members].float())
        spread = values.max() - values.min()
        if spread > 0:
            total = total + weight * (values - values.min()) / spread
    return total
