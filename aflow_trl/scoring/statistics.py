"""Confidence intervals of proportions, means and paired differences, computed with `scipy.stats`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
BOOTSTRAP_DRAWS = 10_000
BOOTSTRAP_BATCH = 1_000
"""Number of draws in memory at once; all of them would take 160 KB per pair."""
MIN_PAIRS = 10
"""Minimum number of pairs for a bootstrap; with fewer, resampling underestimates the variance."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int
    """Number of values."""


@dataclass(frozen=True, slots=True)
class Difference(Mean):
    """A mean paired difference and its 95 % bootstrap interval."""

    p: float
    """Two-sided p-value of the hypothesis that the mean difference is 0."""


def wilson_interval(successes: float, n: int) -> tuple[float, float]:
    """
    Wilson score interval of a proportion, at 95 % confidence.

    Args:
        successes (`float`):
            Number of successes. May be fractional, as a mean over seeds.
        n (`int`):
            Number of trials.

    Returns:
        `tuple[float, float]`: Lower and upper bound; (0, 1) without trials.
    """
    if n == 0:
        return 0.0, 1.0
    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    p = successes / n
    # Not `scipy.stats.binomtest(...).proportion_ci`, which accepts whole numbers of successes only.
    centre = p + z**2 / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = (centre - spread) / (1 + z**2 / n), (centre + spread) / (1 + z**2 / n)
    # Rounding errors may put a bound beyond 0, 1 or the proportion itself.
    return min(p, max(0.0, low)), max(p, min(1.0, high))


def mean_interval(values: Sequence[float]) -> Mean:
    """
    Mean of independent values and its 95 % t interval.

    Args:
        values (`Sequence[float]`):
            Values.

    Returns:
        [`Mean`]: With fewer than two values the interval is infinitely wide; without any the mean is NaN.
    """
    count = len(values)
    mean = sum(values) / count if count else math.nan
    if count < 2:
        return Mean(mean, -math.inf, math.inf, count)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * stats.sem(values))
    return Mean(mean, mean - half, mean + half, count)


def paired_bootstrap(differences: Sequence[float], *, seed: int = 0) -> Difference:
    """
    Mean of paired differences, with a percentile bootstrap over the pairs.

    Args:
        differences (`Sequence[float]`):
            Difference of each pair, in [-1, 1].
        seed (`int`, *optional*, defaults to `0`):
            Seed of the resampling; equal seeds give equal intervals.

    Returns:
        [`Difference`]: With fewer than [`MIN_PAIRS`] pairs the interval is (-1, 1) and p is 1; without any the mean is
        NaN.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) < MIN_PAIRS:
        return Difference(float(values.mean()) if len(values) else math.nan, -1.0, 1.0, len(values), 1.0)
    result = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=BOOTSTRAP_DRAWS,
        batch=BOOTSTRAP_BATCH,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=seed,
    )
    means = result.bootstrap_distribution
    tail = min(float((means <= 0).mean()), float((means >= 0).mean()))
    low, high = result.confidence_interval
    # A finite number of draws cannot show a p-value of 0.
    p = min(1.0, 2 * max(tail, 1 / BOOTSTRAP_DRAWS))
    return Difference(float(values.mean()), float(low), float(high), len(values), p)
