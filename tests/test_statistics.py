"""Confidence intervals agree with scipy's, and say "unknown" where there is too little data."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from aflow_trl.scoring.statistics import (
    BOOTSTRAP_DRAWS,
    CONFIDENCE,
    MIN_PAIRS,
    mean_interval,
    paired_bootstrap,
    wilson_interval,
)

# -- proportions -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 2_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_agrees_with_scipy_for_whole_successes(counts: tuple[int, int]) -> None:
    successes, n = counts
    expected = stats.binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    assert wilson_interval(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_interval_of_fractional_successes_contains_the_proportion(n: int, proportion: float) -> None:
    low, high = wilson_interval(proportion * n, n)
    assert 0.0 <= low <= proportion * n / n <= high <= 1.0


def test_wilson_interval_of_fractional_successes_lies_between_its_neighbours() -> None:
    bounds = [wilson_interval(successes, 20) for successes in (7, 7.5, 8)]
    assert bounds == sorted(bounds) and [high for _, high in bounds] == sorted(high for _, high in bounds)


def test_wilson_interval_without_trials_is_unknown() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


# -- means -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30).filter(lambda values: max(values) - min(values) > 1e-3))
def test_mean_interval_agrees_with_the_t_interval_of_scipy(values: list[float]) -> None:
    result = mean_interval(values)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(CONFIDENCE)
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-9)
    assert result.mean == pytest.approx(sum(values) / len(values)) and result.n == len(values)


def test_mean_interval_of_equal_values_has_no_width() -> None:
    result = mean_interval([0.5, 0.5, 0.5])
    assert (result.low, result.mean, result.high) == (0.5, 0.5, 0.5)


def test_mean_interval_of_a_single_value_is_infinitely_wide() -> None:
    result = mean_interval([0.25])
    assert (result.mean, result.low, result.high, result.n) == (0.25, -math.inf, math.inf, 1)


def test_mean_interval_of_no_values_has_no_mean() -> None:
    result = mean_interval([])
    assert math.isnan(result.mean) and (result.low, result.high, result.n) == (-math.inf, math.inf, 0)


# -- paired differences ----------------------------------------------------------------------------------------------


def noisy(mean: float, n: int = 400) -> list[float]:
    """Differences with the given mean exactly and standard deviation 0.3."""
    rng = random.Random(0)
    noise = [rng.choice([-0.3, 0.3]) for _ in range(n)]
    return [mean + value - sum(noise) / n for value in noise]


def test_bootstrap_interval_agrees_with_the_normal_approximation() -> None:
    result = paired_bootstrap(noisy(0.2))
    half_width = stats.norm.ppf((1 + CONFIDENCE) / 2) * 0.3 / math.sqrt(400)
    assert result.mean == pytest.approx(0.2) and result.n == 400
    assert (result.low, result.high) == pytest.approx((0.2 - half_width, 0.2 + half_width), abs=0.003)


def test_clear_difference_has_the_smallest_p_that_the_draws_can_show() -> None:
    result = paired_bootstrap(noisy(0.2))
    assert result.low > 0 and result.p == 2 / BOOTSTRAP_DRAWS


def test_no_difference_has_a_p_near_one() -> None:
    result = paired_bootstrap(noisy(0.0))
    assert result.low < 0 < result.high and result.p > 0.9


def test_p_agrees_with_the_normal_approximation() -> None:
    mean = 0.03
    expected = 2 * stats.norm.sf(mean / (0.3 / math.sqrt(400)))
    assert paired_bootstrap(noisy(mean)).p == pytest.approx(expected, abs=0.01)


def test_swapping_the_sides_mirrors_the_difference() -> None:
    differences = noisy(0.05)
    forward, backward = paired_bootstrap(differences), paired_bootstrap([-value for value in differences])
    assert (backward.low, backward.high) == pytest.approx((-forward.high, -forward.low), abs=1e-9)
    assert backward.p == forward.p


def test_equal_seeds_give_equal_intervals() -> None:
    assert paired_bootstrap(noisy(0.1), seed=3) == paired_bootstrap(noisy(0.1), seed=3)
    assert paired_bootstrap(noisy(0.1), seed=3) != paired_bootstrap(noisy(0.1), seed=4)


def test_equal_differences_have_no_width() -> None:
    result = paired_bootstrap([0.5] * MIN_PAIRS)
    assert (result.low, result.mean, result.high) == (0.5, 0.5, 0.5)


def test_no_difference_in_any_pair_has_p_one() -> None:
    result = paired_bootstrap([0.0] * MIN_PAIRS)
    assert (result.low, result.high, result.p) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("n", [1, 2, MIN_PAIRS - 1])
def test_too_few_pairs_show_nothing(n: int) -> None:
    result = paired_bootstrap([0.5] * n)
    assert (result.mean, result.low, result.high, result.n, result.p) == (0.5, -1.0, 1.0, n, 1.0)


def test_no_pairs_have_no_mean() -> None:
    result = paired_bootstrap([])
    assert math.isnan(result.mean) and (result.low, result.high, result.n, result.p) == (-1.0, 1.0, 0, 1.0)
