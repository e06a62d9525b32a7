"""Intervals of proportions, means and paired differences, at 95 % confidence; all by `scipy.stats`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
BOOTSTRAP_DRAWS = 10_000
MIN_PAIRS = 10
"""Fewer pairs than this give a bootstrap nothing to resample: the interval is the whole range."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int
    """Values it is the mean of."""


@dataclass(frozen=True, slots=True)
class Difference(Mean):
    """A mean paired difference, its 95 % bootstrap interval, and the two-sided p-value of no difference."""

    p: float


def wilson_interval(successes: float, n: int) -> tuple[float, float]:
    """
    Wilson score interval of a proportion.

    Args:
        successes (`float`):
            Number of successes; a fraction where a success is a mean over seeds.
        n (`int`):
            Number of trials.

    Returns:
        `tuple[float, float]`: Lower and upper end; (0, 1) if there were no trials.
    """
    if n == 0:
        return 0.0, 1.0
    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    p = successes / n
    # scipy's own interval takes whole successes only.
    centre = p + z**2 / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = (centre - spread) / (1 + z**2 / n), (centre + spread) / (1 + z**2 / n)
    # Rounding may put an end on the wrong side of 0, 1 or the proportion itself.
    return min(p, max(0.0, low)), max(p, min(1.0, high))


def mean_interval(values: Sequence[float]) -> Mean:
    """Mean of independent values with its t interval; infinitely wide with fewer than two values."""
    count = len(values)
    mean = sum(values) / count if count else math.nan
    if count < 2:
        return Mean(mean, -math.inf, math.inf, count)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * stats.sem(values))
    return Mean(mean, mean - half, mean + half, count)


def paired_bootstrap(differences: Sequence[float], *, seed: int = 0) -> Difference:
    """
    Mean of paired differences with a percentile bootstrap over the pairs.

    Args:
        differences (`Sequence[float]`):
            One difference a pair, in [-1, 1].
        seed (`int`, *optional*, defaults to `0`):
            Seed of the resampling.

    Returns:
        [`Difference`]: With fewer than [`MIN_PAIRS`] pairs the interval is (-1, 1) and p is 1.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) < MIN_PAIRS:
        return Difference(float(values.mean()) if len(values) else math.nan, -1.0, 1.0, len(values), 1.0)
    result = stats.bootstrap(
        (values,), np.mean, n_resamples=BOOTSTRAP_DRAWS, confidence_level=CONFIDENCE, method="percentile", rng=seed
    )
    means = result.bootstrap_distribution
    tail = min(float((means <= 0).mean()), float((means >= 0).mean()))
    low, high = result.confidence_interval
    p = min(1.0, 2 * max(tail, 1 / BOOTSTRAP_DRAWS))
    return Difference(float(values.mean()), float(low), float(high), len(values), p)
