"""The eight guarantees of WA-GRPO's advantages."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from trl.trainer.utils import nanstd

from aflow_trl.trainer.advantages import (
    DEFAULT_TOLERANCE,
    MAX_CHARGED,
    SCALE_FLOOR,
    AdvantageConfig,
    RewardBatch,
    compute_advantages,
    split_rewards,
    tied_groups,
    wa_grpo,
)
from aflow_trl.trainer.metrics import advantage_metrics

SCALES = st.sampled_from(["none", "batch", "group"])
unit = st.one_of(st.floats(0, 1, width=32), st.sampled_from([0.0, 0.2, 0.4, 0.7, 1.0]))


@st.composite
def batches(draw: st.DrawFn, unscored: bool = False):
    """(primary, secondary, progress, group size) of 1 to 4 groups."""
    size = draw(st.integers(2, 8))
    count = size * draw(st.integers(1, 4))
    primary = draw(st.lists(unit | st.just(math.nan) if unscored else unit, min_size=count, max_size=count))
    others = [draw(st.lists(unit, min_size=count, max_size=count)) for _ in range(2)]
    return torch.tensor(primary), torch.tensor(others[0]), torch.tensor(others[1]), size


@given(batches(unscored=True), SCALES, st.floats(0, 100))
def test_1_right_stays_above_cheap_whatever_alpha(batch, scale: str, alpha: float) -> None:
    primary, secondary, progress, size = batch
    advantages = wa_grpo(primary, secondary, size, scale=scale, alpha=alpha, progress=progress)
    for c, a in zip(primary.view(-1, size), advantages.view(-1, size), strict=True):
        above = (c.unsqueeze(1) - c.unsqueeze(0)) > DEFAULT_TOLERANCE
        assert (a.unsqueeze(1) > a.unsqueeze(0))[above].all()


@given(batches(unscored=True), SCALES, st.floats(0, 1))
def test_2_bounded(batch, scale: str, alpha: float) -> None:
    primary, secondary, progress, size = batch
    advantages = wa_grpo(primary, secondary, size, scale=scale, alpha=alpha, progress=progress)
    assert advantages.abs().max() <= 1 / SCALE_FLOOR + alpha + 1e-4


@given(st.floats(0.01, 0.5))
def test_2_at_two_generations_proportional_to_the_gap(gap: float) -> None:
    small = torch.tensor([0.4, 0.4 + gap, 1.0, 0.0])
    advantages = wa_grpo(small, torch.zeros(4), 2, scale="batch")
    assert advantages[1] - advantages[0] == pytest.approx(gap * float(advantages[2] - advantages[3]), rel=1e-3)


@given(batches(unscored=True), SCALES, st.floats(0, 10))
def test_3_mean_zero_over_every_group(batch, scale: str, alpha: float) -> None:
    primary, secondary, progress, size = batch
    advantages = wa_grpo(primary, secondary, size, scale=scale, alpha=alpha, progress=progress)
    assert advantages.view(-1, size).sum(dim=1).abs().max() < 1e-3


@given(batches(unscored=True), SCALES, st.randoms())
def test_4_equivariant_under_permutation(batch, scale: str, rng) -> None:
    primary, secondary, progress, size = batch
    order = torch.cat([torch.tensor(rng.sample(range(s, s + size), size)) for s in range(0, len(primary), size)])
    advantages = wa_grpo(primary, secondary, size, scale=scale, progress=progress)
    permuted = wa_grpo(primary[order], secondary[order], size, scale=scale, progress=progress[order])
    torch.testing.assert_close(permuted, advantages[order], atol=1e-4, rtol=1e-4)


@given(batches(), SCALES, st.integers(0, 7))
def test_5_unscored_member_has_none_and_changes_nobody_elses(batch, scale: str, member: int) -> None:
    primary, secondary, progress, size = batch
    assume(size > 2 and member < size)
    without = primary.clone()
    without[member] = math.nan
    advantages = wa_grpo(without, secondary, size, scale=scale, progress=progress)
    assert advantages[member] == 0
    other_secondary, other_progress = secondary.clone(), progress.clone()
    other_secondary[member], other_progress[member] = 0.123, 0.456
    again = wa_grpo(without, other_secondary, size, scale=scale, progress=other_progress)
    torch.testing.assert_close(again, advantages, atol=0, rtol=0)
    if len(primary) == size and scale == "none":
        keep = torch.arange(size) != member
        alone = wa_grpo(primary[keep], secondary[keep], size - 1, scale=scale, progress=progress[keep])
        torch.testing.assert_close(advantages[keep], alone, atol=1e-5, rtol=1e-5)


@given(batches(unscored=True), SCALES)
def test_6_alpha_zero_gives_trls_own_advantages(batch, scale: str) -> None:
    rewards, secondary, _, size = batch
    groups = rewards.view(-1, size)
    std = {
        "none": torch.ones_like(groups),
        "group": nanstd(groups, dim=1, keepdim=True).expand_as(groups) + 1e-4,
        "batch": nanstd(groups).expand_as(groups) + 1e-4,
    }[scale]
    expected = torch.nan_to_num((groups - torch.nanmean(groups, dim=1, keepdim=True)) / std)
    # Where ours differs on purpose: tied groups are exactly 0, a small std is floored.
    ours_too = ~tied_groups(groups, DEFAULT_TOLERANCE) & ~(std[:, 0] < SCALE_FLOOR)
    advantages = wa_grpo(rewards, secondary, size, scale=scale, alpha=0.0).view(-1, size)
    torch.testing.assert_close(advantages[ours_too], expected[ours_too], atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", range(2, 65))
def test_7_equal_rewards_are_exactly_zero(size: int, dtype: torch.dtype) -> None:
    for value in (0.1, 0.123, 0.3, 1 / 3, 0.7, 0.999):
        primary = torch.full((size,), value, dtype=dtype)
        for scale in ("none", "batch", "group"):
            assert (wa_grpo(primary, torch.rand(size), size, scale=scale, alpha=0.0) == 0).all()


def test_8_a_slice_of_the_gathered_batch_is_the_same_on_every_process() -> None:
    generator = torch.Generator().manual_seed(0)
    primary, secondary = torch.rand(32, generator=generator).round(decimals=1), torch.rand(32, generator=generator)
    whole = wa_grpo(primary, secondary, 8, progress=secondary)
    for process in range(4):
        again = wa_grpo(primary.clone(), secondary.clone(), 8, progress=secondary.clone())
        assert torch.equal(again[process * 8 : (process + 1) * 8], whole[process * 8 : (process + 1) * 8])


def test_among_right_members_the_cheaper_wins() -> None:
    advantages = wa_grpo(torch.ones(4), torch.tensor([0.9, 0.5, 0.5, 0.1]), 4)
    assert advantages[0] > advantages[1] == advantages[2] > advantages[3]
    assert advantages.abs().max() <= 0.1 + 1e-6


def test_among_wrong_members_being_cheap_never_counts() -> None:
    secondary = torch.tensor([0.9, 0.5, 0.5, 0.1])
    assert (wa_grpo(torch.zeros(4), secondary, 4) == 0).all()
    advantages = wa_grpo(torch.zeros(4), secondary, 4, progress=torch.tensor([0.0, 0.25, 0.5, 0.5]))
    assert advantages[0] < advantages[1] < advantages[2] == advantages[3]


def test_a_class_that_ties_in_merit_too_is_exactly_zero() -> None:
    advantages = wa_grpo(torch.ones(5), torch.full((5,), 0.3), 5)
    assert (advantages == 0).all()


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinite_rewards_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="infinite"):
        wa_grpo(torch.tensor([value, 0.0]), torch.zeros(2), 2)


def test_shapes_and_scales_are_checked() -> None:
    with pytest.raises(ValueError, match="groups of 2"):
        wa_grpo(torch.zeros(3), torch.zeros(3), 2)
    with pytest.raises(ValueError, match="scale"):
        wa_grpo(torch.zeros(2), torch.zeros(2), 2, scale="std")
    with pytest.raises(ValueError, match="secondary"):
        wa_grpo(torch.zeros(2), torch.zeros(4), 2)


def test_metrics_tell_groups_apart() -> None:
    primary = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    advantages = wa_grpo(primary, torch.tensor([0.5, 0.0, 0.9, 0.1, 0.0, 0.0]), 2)
    metrics = advantage_metrics(primary, advantages, 2, DEFAULT_TOLERANCE)
    assert [metrics[f"groups/{name}"] for name in ("total", "decisive", "tie_broken", "dead")] == [3, 1, 1, 1]
    assert 0 < metrics["advantage/tie_mass"] < 0.5


# -- which reward decides --------------------------------------------------------------------------------------------

weight = st.floats(-2, 2, width=32).filter(lambda value: abs(value) > 0.01)


@st.composite
def reward_batches(draw: st.DrawFn) -> RewardBatch:
    """Rewards of 1 to 4 groups of 4 from three functions, some unscored, with weights of either sign."""
    count = 4 * draw(st.integers(1, 4))
    values = draw(st.lists(unit | st.just(math.nan), min_size=3 * count, max_size=3 * count))
    return RewardBatch(torch.tensor(values).view(count, 3), torch.tensor([draw(weight) for _ in range(3)]))


@given(reward_batches(), st.integers(0, 2))
def test_the_first_reward_that_scores_a_group_decides_it(batch: RewardBatch, primary: int) -> None:
    decided = split_rewards(batch, AdvantageConfig(4, primary))[0].view(-1, 4)
    order = [primary, *(index for index in range(3) if index != primary)]
    for group, chosen in zip(batch.rewards.view(-1, 4, 3), decided, strict=True):
        scoring = [index for index in order if not group[:, index].isnan().all()]
        index = scoring[0] if scoring else primary
        expected = group[:, index] * torch.sign(batch.weights[index])
        assert torch.equal(chosen.nan_to_num(), expected.nan_to_num())


@given(reward_batches())
def test_groups_of_several_tasks_learn_each_from_their_reward(batch: RewardBatch) -> None:
    """TRL's pattern for several tasks: every reward function returns None for the samples of the other tasks."""
    groups = batch.rewards.view(-1, 4, 3).nan_to_num()
    for number, group in enumerate(groups):
        group[:, [index for index in range(3) if index != number % 3]] = torch.nan
    several = compute_advantages(RewardBatch(groups.view(-1, 3), batch.weights), AdvantageConfig(4, scale="group"))
    for number, advantages in enumerate(several.view(-1, 4)):
        task = number % 3
        alone = wa_grpo(groups[number, :, task] * torch.sign(batch.weights[task]), torch.zeros(4), 4, scale="group")
        torch.testing.assert_close(advantages, alone)


def test_an_outage_of_the_executor_is_not_learnt_from() -> None:
    rewards = torch.tensor([[math.nan, 0.1], [math.nan, 0.9]])
    batch = RewardBatch(rewards, torch.ones(2))
    assert compute_advantages(batch, AdvantageConfig(2, primary_may_abstain=False)).tolist() == [0.0, 0.0]
    assert compute_advantages(batch, AdvantageConfig(2)).tolist() != [0.0, 0.0]


@given(reward_batches())
def test_a_reward_of_negative_weight_is_a_cost(batch: RewardBatch) -> None:
    """Negating a reward and its weight, and the reward from which it counts as right, changes nothing."""
    negated = RewardBatch(-batch.rewards, -batch.weights)
    ours, theirs = (
        compute_advantages(rewards, AdvantageConfig(4, correct_from=correct_from))
        for rewards, correct_from in ((batch, 0.5), (negated, -0.5))
    )
    torch.testing.assert_close(ours, theirs)


@given(reward_batches(), st.floats(0.1, 10))
def test_weights_of_tie_breaks_are_relative(batch: RewardBatch, factor: float) -> None:
    scaled = RewardBatch(batch.rewards, batch.weights * factor)
    config = AdvantageConfig(4, primary_may_abstain=False)
    torch.testing.assert_close(
        compute_advantages(batch, config), compute_advantages(scaled, config), atol=1e-4, rtol=1e-4
    )


def test_tie_breaks_start_at_correct_from() -> None:
    """Five of ten right: with the default of 1 all count as right, with 6 only the last two do."""
    rewards = torch.tensor([[5.0, 0.0], [5.0, 1.0], [6.0, 0.0], [6.0, 1.0]])
    batch = RewardBatch(rewards, torch.ones(2))
    low, high = (compute_advantages(batch, AdvantageConfig(4, correct_from=value)) for value in (1.0, 6.0))
    assert low[0] < low[1] < low[2] < low[3]
    assert high[0] == high[1] < high[2] < high[3]


# -- charges for costs -----------------------------------------------------------------------------------------------

charged = st.lists(st.floats(0, 50, width=32), min_size=32, max_size=32)


def charged_advantages(batch, costs: list[float], scale: str = "batch", alpha: float = 0.1) -> torch.Tensor:
    primary, secondary, progress, size = batch
    charges = torch.tensor(costs[: len(primary)])
    return wa_grpo(primary, secondary, size, scale=scale, alpha=alpha, progress=progress, charges=charges)


@given(batches(), charged, SCALES, st.floats(0, 100))
def test_1_right_stays_above_wrong_whatever_the_price(batch, costs: list[float], scale: str, alpha: float) -> None:
    primary, _, _, size = batch
    advantages = charged_advantages(batch, costs, scale, alpha)
    for c, a in zip(primary.view(-1, size), advantages.view(-1, size), strict=True):
        above = (c.unsqueeze(1) - c.unsqueeze(0)) > DEFAULT_TOLERANCE
        assert (a.unsqueeze(1) > a.unsqueeze(0))[above].all()


@given(batches(unscored=True), charged, SCALES, st.floats(0, 1))
def test_2_bounded_whatever_the_price(batch, costs: list[float], scale: str, alpha: float) -> None:
    advantages = charged_advantages(batch, costs, scale, alpha)
    assert advantages.abs().max() <= (1 + MAX_CHARGED) / SCALE_FLOOR + alpha + 1e-4


@given(batches(unscored=True), charged, SCALES)
def test_3_mean_zero_over_every_group_whatever_the_price(batch, costs: list[float], scale: str) -> None:
    assert charged_advantages(batch, costs, scale).view(-1, batch[3]).sum(dim=1).abs().max() < 1e-3


@given(batches(), charged, st.integers(0, 7))
def test_5_the_cost_of_an_unscored_member_changes_nobody_elses(batch, costs: list[float], member: int) -> None:
    primary, secondary, progress, size = batch
    assume(size > 2 and member < size)
    without = (primary.clone().index_fill(0, torch.tensor(member), math.nan), secondary, progress, size)
    first = charged_advantages(without, costs)
    again = charged_advantages(without, [*costs[:member], costs[member] + 7, *costs[member + 1 :]])
    assert first[member] == 0
    torch.testing.assert_close(again, first, atol=0, rtol=0)


@given(batches(unscored=True), st.floats(0, 50, width=32), SCALES)
def test_equal_charges_change_nothing(batch, cost: float, scale: str) -> None:
    primary, secondary, progress, size = batch
    plain = wa_grpo(primary, secondary, size, scale=scale, progress=progress)
    torch.testing.assert_close(charged_advantages(batch, [cost] * 32, scale), plain, atol=0, rtol=0)


def test_where_nothing_else_decides_the_cheaper_wins() -> None:
    for value in (0.0, 1.0):
        advantages = wa_grpo(torch.full((3,), value), torch.zeros(3), 3, charges=torch.tensor([0.1, 0.2, 0.4]))
        assert advantages[0] > advantages[1] > advantages[2]
