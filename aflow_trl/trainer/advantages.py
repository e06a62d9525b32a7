"""
Advantages of a batch of completions, as pure functions of reward tensors.

Shapes: B prompts with G completions each, flattened to (B*G,); the completions of one prompt are neighbours. R is the
number of reward functions. A reward that is NaN is unscored: the completion gets advantage 0 and does not change the
advantage of any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from trl.trainer.utils import nanstd

SCALES = ("none", "batch", "group", "task")
DEFAULT_TOLERANCE = 1e-4
"""Primary rewards that differ by no more than this are tied."""
SCALE_FLOOR = 0.1
"""Minimum of the scale, so that a batch or a group with little spread is not blown up."""
TIE_UNIT = 0.05
"""Unit of the tie-break in secondary reward: about two model calls at the default weights."""
TRL_EPSILON = 1e-4
"""TRL adds this to a standard deviation before it divides by it."""
MAX_CHARGED = 0.75
"""Share of the smallest decisive gap of a group that charges for its costs may use; of 1 where nothing decides."""
TIE_MARGIN = 0.499
"""Share of the smallest decisive gap that a tie-break may use: just under a half, so that order survives rounding."""


@dataclass(frozen=True, slots=True)
class AdvantageConfig:
    """Settings of the advantage; see [`WorkflowGRPOConfig`] for their meaning."""

    num_generations: int
    """Completions per prompt, G."""
    primary: int = 0
    """Index of the primary reward function."""
    scale: str = "batch"
    alpha: float = 0.1
    tolerance: float = DEFAULT_TOLERANCE
    clip: float | None = None
    """Maximum absolute advantage; `None` for no limit."""
    correct_from: float = 1.0
    """Primary reward from which the secondary ones break ties."""
    primary_may_abstain: bool = True
    """Whether the next reward decides a group that the primary one leaves unscored. Not where the primary reward
    executes workflows: there it means that the infrastructure failed."""


@dataclass(frozen=True, slots=True)
class RewardBatch:
    """Rewards of all processes for one generation step, with the columns that the advantage reads."""

    rewards: Tensor
    """Shape (B*G, R); NaN where unscored."""
    weights: Tensor
    """Shape (R,)."""
    progress: Tensor | None = None
    """Shape (B*G,): breaks ties among completions that are not right; `None` if no reward function logs it."""
    tasks: Tensor | None = None
    """Shape (B*G,): number of the task of each completion; `None` if no reward function logs it."""
    charges: Tensor | None = None
    """Shape (B*G,): what each completion is charged for its cost, in units of the primary reward; `None` without a
    target."""


def compute_advantages(batch: RewardBatch, config: AdvantageConfig) -> Tensor:
    """
    WA-GRPO advantages of a batch. Training and replay both call it.

    Args:
        batch ([`RewardBatch`]):
            Rewards of all processes.
        config ([`AdvantageConfig`]):
            Settings.

    Returns:
        `torch.Tensor` of shape `(B*G,)`: Advantages, in float32.

    Raises:
        `ValueError`: A reward is infinite, a shape does not fit, or the scale is unknown.
    """
    primary, secondary, correct_from = split_rewards(batch, config)
    advantages = wa_grpo(
        primary,
        secondary,
        config.num_generations,
        scale=config.scale,
        alpha=config.alpha,
        tol=config.tolerance,
        progress=batch.progress,
        correct_from=correct_from,
        tasks=batch.tasks,
        charges=batch.charges,
    )
    return clip_advantages(advantages, config.clip)


def split_rewards(batch: RewardBatch, config: AdvantageConfig) -> tuple[Tensor, Tensor, Tensor]:
    """
    The reward that decides each group, and the one that breaks ties in it.

    The primary reward decides. Where it scores no member of a group, as a reward for another task does, the first
    other one with a weight that scores some member decides instead. The rest, weighted, breaks ties.

    The sign of a weight is kept: a reward of negative weight is a cost, whether it decides or breaks ties. The size of
    the weight of a reward that decides does not matter, because it decides by order.

    Args:
        batch ([`RewardBatch`]):
            Rewards of all processes.
        config ([`AdvantageConfig`]):
            Settings.

    Returns:
        `tuple[torch.Tensor, torch.Tensor, torch.Tensor]`: Primary rewards (NaN where unscored), secondary rewards, and
            the primary reward from which a completion counts as right, each of shape (B*G,).
    """
    rewards, weights = batch.rewards, batch.weights
    functions = range(rewards.shape[1])
    candidates = [config.primary]
    if config.primary_may_abstain:
        candidates += [index for index in functions if index != config.primary and weights[index] != 0]
    groups = rewards[:, candidates].view(-1, config.num_generations, len(candidates))
    unscored = torch.isnan(groups).all(dim=1)
    # Number of candidates before the first that scored a member; a group that none scored stays with the primary.
    first = unscored.long().cumprod(dim=1).sum(dim=1) % len(candidates)
    deciding = torch.tensor(candidates, device=rewards.device)[first].repeat_interleave(config.num_generations)
    is_secondary = torch.arange(rewards.shape[1], device=rewards.device) != deciding.unsqueeze(1)
    shares = weights * is_secondary
    shares = shares / shares.abs().sum(dim=1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    sign = torch.where(weights < 0, -1.0, 1.0).to(rewards.dtype)[deciding]
    primary = sign * rewards.gather(1, deciding.unsqueeze(1)).squeeze(1)
    secondary = torch.where(is_secondary, rewards * shares, 0.0).nansum(dim=1)
    return primary, secondary, sign * config.correct_from


def clip_advantages(advantages: Tensor, limit: float | None) -> Tensor:
    """Advantages within ± `limit`; unchanged if that is `None`."""
    return advantages if limit is None else advantages.clamp(-limit, limit)


def task_numbers(tasks: Sequence[object], device: torch.device) -> Tensor:
    """Numbers for the names of tasks, shape (N,): equal names get equal numbers."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(tasks))}
    return torch.tensor([numbers[name] for name in tasks], device=device)


def wa_grpo(
    primary: Tensor,
    secondary: Tensor,
    num_generations: int,
    *,
    scale: str = "batch",
    alpha: float = 0.1,
    tol: float = DEFAULT_TOLERANCE,
    progress: Tensor | None = None,
    correct_from: float | Tensor = 1.0,
    tasks: Tensor | None = None,
    charges: Tensor | None = None,
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

    With `charges` \\( p_i \\) for costs (see [`~aflow_trl.trainer.cost_dial.CostDial`]), \\( c_i \\) in the first term
    becomes \\( c_i - s_g p_i \\), where \\( s_g \le 1 \\) limits the spread of the charges of a group to
    [`MAX_CHARGED`] of its smallest decisive gap, and the tie-break to what is left of that gap. Right still beats
    wrong, whatever the price. In a group without a decisive gap the limit is [`MAX_CHARGED`], and being cheap is a
    merit of wrong answers as well: that is what the constraint asks for.

    Args:
        primary (`torch.Tensor` of shape `(B*G,)`):
            Primary rewards; NaN means unscored.
        secondary (`torch.Tensor` of shape `(B*G,)`):
            Secondary rewards; they break ties among members with `primary >= correct_from`.
        num_generations (`int`):
            Completions per prompt, G.
        scale (`str`, *optional*, defaults to `"batch"`):
            Divisor of the differences: `"none"` (1), or the standard deviation, floored, over the `"batch"`, the
            `"group"`, or all groups of the same `"task"`.
        alpha (`float`, *optional*, defaults to `0.1`):
            Maximum advantage that a tie-break may give.
        tol (`float`, *optional*, defaults to `1e-4`):
            Primary rewards that differ by no more than this are tied.
        progress (`torch.Tensor` of shape `(B*G,)`, *optional*):
            Breaks ties among members that are not right. Without it they stay tied: being cheap is no merit of a wrong
            answer.
        correct_from (`float` or `torch.Tensor` of shape `(B*G,)`, *optional*, defaults to `1.0`):
            Primary reward from which a completion counts as right.
        tasks (`torch.Tensor` of shape `(B*G,)`, *optional*):
            Number of the task of each completion; required by `scale="task"`.
        charges (`torch.Tensor` of shape `(B*G,)`, *optional*):
            What each completion is charged for its cost, in units of the primary reward.

    Returns:
        `torch.Tensor` of shape `(B*G,)`: Advantages, in float32, with mean zero over every group.

    Raises:
        `ValueError`: A reward is infinite, a shape does not fit, or `scale` is unknown.
    """
    _check(primary, num_generations, scale, secondary=secondary, progress=progress, tasks=tasks, charges=charges)
    scored = ~torch.isnan(primary)
    c = primary.float()
    groups = c.view(-1, num_generations)
    divisor = _divisor(groups, scale, tasks)
    first = _centred(groups, tol) / divisor
    right = (c >= correct_from - tol).view(groups.shape)
    t, gaps = _tie_breaks(groups, secondary, progress, right, tol)
    if charges is not None:
        charged, spread = _limited_charges(charges.float().view(groups.shape), torch.isnan(groups), gaps)
        first, gaps = first - charged / divisor, gaps - spread
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


def _limited_charges(charges: Tensor, unscored: Tensor, gaps: Tensor) -> tuple[Tensor, Tensor]:
    """
    Charges minus their group's mean, limited to a share of its smallest decisive gap, shape (B, G), and their spread,
    shape (B, 1). Unscored members are charged nothing, and do not count.
    """
    scored = torch.where(unscored, torch.nan, charges)
    highest = scored.nan_to_num(nan=-torch.inf).amax(dim=1, keepdim=True)
    lowest = scored.nan_to_num(nan=torch.inf).amin(dim=1, keepdim=True)
    spread = (highest - lowest).clamp(min=0.0).nan_to_num(posinf=0.0)
    limit = MAX_CHARGED * torch.where(gaps.isinf(), 1.0, gaps)
    factor = torch.where(spread > limit, limit / spread.clamp(min=torch.finfo(spread.dtype).tiny), 1.0)
    centred = torch.nan_to_num(factor * (scored - torch.nanmean(scored, dim=1, keepdim=True)))
    return torch.where(spread > 0, centred, 0.0), factor * spread


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
    """Divisor of the differences; shape (B, 1)."""
    if scale == "none":
        return torch.ones_like(groups[:, :1])
    if scale == "task" and tasks is not None:
        group_tasks = tasks.view(groups.shape)[:, 0]
        divisor = torch.ones_like(groups[:, :1])
        for task in group_tasks.unique():
            divisor[group_tasks == task] = _divisor(groups[group_tasks == task], "batch", None)
        return divisor
    std = nanstd(groups, dim=1, keepdim=True) if scale == "group" else nanstd(groups).expand(groups.shape[0], 1)
    return torch.nan_to_num(std + TRL_EPSILON, nan=SCALE_FLOOR).clamp(min=SCALE_FLOOR)


def _tie_breaks(
    groups: Tensor, secondary: Tensor, progress: Tensor | None, right: Tensor, tol: float
) -> tuple[Tensor, Tensor]:
    """Tie-breaks t in [-1, 1] of shape (B, G), and the smallest decisive gap of each group, shape (B, 1)."""
    size = groups.shape[1]
    s = secondary.double().view(-1, size)
    p = torch.zeros_like(s) if progress is None else progress.double().view(-1, size)
    merit = torch.nan_to_num(torch.where(right, s, p))
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
        """Mean over the tie class of each member."""
        return (member * ((member * values.unsqueeze(2)).sum(dim=1) / count).unsqueeze(1)).sum(dim=2)

    centred = merit - mean(merit)
    std = mean(centred.square()).sqrt()
    t = (centred / (std + TIE_UNIT)).clamp(-1.0, 1.0)
    t = t - mean(t)
    largest = (member * t.abs().unsqueeze(2)).amax(dim=1)
    class_largest = (member * largest.unsqueeze(1)).sum(dim=2)
    t = t / class_largest.clamp(min=1.0)
    # A class that ties in merit too is exactly 0, whatever rounding leaves of its mean.
    low = torch.where(member > 0, merit.unsqueeze(2), torch.inf).amin(dim=1)
    high = torch.where(member > 0, merit.unsqueeze(2), -torch.inf).amax(dim=1)
    spread = torch.nan_to_num((high - low), neginf=0.0, posinf=0.0)
    return torch.where((member * spread.unsqueeze(1)).sum(dim=2) > 1e-9, t, 0.0)
