"""What a batch of rollouts looks like: columns for the completions table, scalars for the log."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..engine import Outcome
from ..scoring import WEAK_VERDICT
from .types import ScoredRollout

TASKS = ("math", "code", "qa")
"""Domains by the number that stands for them in the column `task`."""


def batch_columns(rollouts: Sequence[ScoredRollout]) -> dict[str, list[Any]]:
    """One value a rollout for every column. The trainer reads `progress` and the parts of the classic tie-break."""
    return {
        "workflow": [r.trace.workflow or "" for r in rollouts],
        "outcome": [r.trace.outcome.value for r in rollouts],
        "invalid_label": [r.trace.label if r.trace.outcome is Outcome.INVALID else "" for r in rollouts],
        "answer": [r.trace.answer for r in rollouts],
        "score": [r.correctness for r in rollouts],
        "model_calls": [r.trace.model_calls for r in rollouts],
        "usd": [r.trace.usd for r in rollouts],
        "progress": [r.progress for r in rollouts],
        "revise_gain": [r.revise_gain for r in rollouts],
        "executed": [r.executed for r in rollouts],
        "operator_variety": [len(set(r.trace.operators)) for r in rollouts],
        "task": [TASKS.index(r.domain) for r in rollouts],
    }


def batch_metrics(rollouts: Sequence[ScoredRollout], wall_s: float) -> dict[str, float]:
    """
    Scalars of a batch.

    Args:
        rollouts (`Sequence[ScoredRollout]`):
            The batch.
        wall_s (`float`):
            Seconds its execution and scoring took.

    Returns:
        `dict[str, float]`: Metrics by name; one that is unknown is left out.
    """
    count = len(rollouts)
    outcomes = Counter(r.trace.outcome for r in rollouts)
    repaired = sum(bool(r.trace.repairs) for r in rollouts if r.trace.workflow)
    workflows = Counter(r.trace.workflow for r in rollouts if r.trace.workflow)
    metrics = {
        "workflows/valid": 1 - outcomes[Outcome.INVALID] / count,
        "workflows/repaired": repaired / count,
        "workflows/invalid": outcomes[Outcome.INVALID] / count,
        "workflows/over_budget": outcomes[Outcome.OVER_BUDGET] / count,
        "workflows/unscored": outcomes[Outcome.UNAVAILABLE] / count,
        "workflows/weak_verdict": sum(_is_weak(r) for r in rollouts) / count,
        "workflows/unique": len(workflows) / max(1, sum(workflows.values())),
        "workflows/entropy": entropy(workflows),
    }
    labels = Counter(r.trace.label for r in rollouts if r.trace.outcome is Outcome.INVALID)
    metrics |= {f"invalid/{label}": number / count for label, number in labels.items()}
    used = Counter(name for r in rollouts for name in set(r.trace.operators))
    metrics |= {f"operators/{name}": number / count for name, number in used.items()}
    return metrics | _accuracy(rollouts) | _execution(rollouts, wall_s)


def _is_weak(rollout: ScoredRollout) -> bool:
    return rollout.score is not None and rollout.score.label == WEAK_VERDICT


def entropy(counts: Counter[Any]) -> float:
    """Entropy of an empirical distribution, in nats."""
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values()) if total else 0.0


def _accuracy(rollouts: Sequence[ScoredRollout]) -> dict[str, float]:
    scored = [r for r in rollouts if r.correctness is not None]
    metrics = {"accuracy/all": sum(r.correct for r in scored) / len(scored)} if scored else {}
    for domain in sorted({r.domain for r in scored}):
        own = [r.correct for r in scored if r.domain == domain]
        metrics[f"accuracy/{domain}"] = sum(own) / len(own)
    return metrics


def _count(rollouts: Sequence[ScoredRollout], name: str) -> float:
    return float(sum(getattr(node, name) for r in rollouts for node in r.trace.nodes))


def _execution(rollouts: Sequence[ScoredRollout], wall_s: float) -> dict[str, float]:
    used = sum(r.trace.model_calls for r in rollouts)
    paid = sum(r.trace.paid_calls for r in rollouts)
    bound = max((r.trace.critical_path_s for r in rollouts), default=0.0)
    costs = [r.trace.paid_usd for r in rollouts]
    metrics = {
        "executor/calls": float(paid),
        "executor/calls_per_workflow": used / len(rollouts),
        "executor/tokens": float(sum(r.trace.tokens for r in rollouts)),
        "executor/shared": 1 - paid / used if used else 0.0,
        "executor/parse_errors": float(sum(r.trace.parse_errors for r in rollouts)),
        **{f"executor/{name}": _count(rollouts, name) for name in ("truncated", "refused", "rejected")},
        "execution/wall_s": wall_s,
    }
    if bound > 0:
        metrics["execution/wall_over_bound"] = wall_s / bound
    if None not in costs:
        metrics["executor/usd"] = sum(cost for cost in costs if cost is not None)
    return metrics
