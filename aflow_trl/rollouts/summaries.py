"""Summary statistics of scored rollouts: accuracy with its interval, cost, workflow counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..scoring.statistics import wilson_interval
from .types import ScoredRollout


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Task accuracy with its 95 % Wilson interval, and the mean cost."""

    mean: float
    low: float
    high: float
    n: int
    """Number of problems that were scored."""
    unscored: int
    calls_per_problem: float
    usd_per_problem: float | None
    by_domain: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def accuracy(rollouts: Sequence[ScoredRollout]) -> Accuracy:
    """Accuracy of scored rollouts; unscored ones are counted apart, never as wrong."""
    scored = [rollout for rollout in rollouts if rollout.correctness is not None]
    right = sum(rollout.correct for rollout in scored)
    low, high = wilson_interval(right, len(scored))
    domains = sorted({rollout.domain for rollout in scored})
    by_domain = {domain: [rollout.correct for rollout in scored if rollout.domain == domain] for domain in domains}
    costs = [rollout.trace.usd for rollout in scored]
    priced = [cost for cost in costs if cost is not None]
    return Accuracy(
        mean=right / len(scored) if scored else float("nan"),
        low=low,
        high=high,
        n=len(scored),
        unscored=len(rollouts) - len(scored),
        calls_per_problem=sum(r.trace.model_calls for r in scored) / max(1, len(scored)),
        usd_per_problem=sum(priced) / len(priced) if priced and len(priced) == len(costs) else None,
        by_domain={domain: sum(values) / len(values) for domain, values in by_domain.items()},
    )


def valid_share(rollouts: Sequence[ScoredRollout]) -> float:
    """Proportion of completions that are valid workflows."""
    return sum(rollout.trace.workflow is not None for rollout in rollouts) / len(rollouts)


def workflow_counts(rollouts: Sequence[ScoredRollout]) -> dict[str, dict[str, int]]:
    """Number of rollouts by domain and workflow, most frequent first; an invalid one counts under its label."""
    counts: dict[str, Counter[str]] = {}
    for rollout in rollouts:
        name = rollout.trace.workflow or f"({rollout.trace.label})"
        counts.setdefault(rollout.domain, Counter())[name] += 1
    return {domain: dict(counter.most_common()) for domain, counter in sorted(counts.items())}
