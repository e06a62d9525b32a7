"""What a batch of rollouts looks like: columns for the completions table, scalars for the log."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..engine import Outcome
from ..scoring import WEAK_VERDICT
from .types import ScoredRollout

METRIC_COLUMNS = ("workflow", "outcome", "invalid_label", "score", "model_calls", "task", "repaired", "operators")
"""Columns that [`workflow_metrics`] reads."""
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
        "repaired": [bool(r.trace.workflow and r.trace.repairs) for r in rollouts],
        "operators": [sorted(set(r.trace.operators)) for r in rollouts],
    }


def workflow_metrics(columns: Mapping[str, Sequence[Any]]) -> dict[str, float]:
    """
    What the completions of a batch look like.

    Args:
        columns (`Mapping[str, Sequence]`):
            Columns as [`batch_columns`] gives them, of one process or gathered from all: the same metrics then as if
            one process had had the whole batch.

    Returns:
        `dict[str, float]`: Metrics by name; one that is unknown is left out.
    """
    count = len(columns["outcome"])
    outcomes, workflows = Counter(columns["outcome"]), Counter(filter(None, columns["workflow"]))
    metrics = {
        "workflows/valid": 1 - outcomes[Outcome.INVALID.value] / count,
        "workflows/repaired": sum(columns["repaired"]) / count,
        "workflows/invalid": outcomes[Outcome.INVALID.value] / count,
        "workflows/over_budget": outcomes[Outcome.OVER_BUDGET.value] / count,
        "workflows/unscored": outcomes[Outcome.UNAVAILABLE.value] / count,
        "workflows/unique": len(workflows) / max(1, sum(workflows.values())),
        "workflows/entropy": entropy(workflows),
        "executor/calls_per_workflow": sum(columns["model_calls"]) / count,
    }
    labels = Counter(filter(None, columns["invalid_label"]))
    metrics |= {f"invalid/{label}": number / count for label, number in labels.items()}
    used = Counter(name for own in columns["operators"] for name in own)
    metrics |= {f"operators/{name}": number / count for name, number in used.items()}
    pairs = zip(columns["task"], columns["score"], strict=True)
    scored = [(task, score == 1.0) for task, score in pairs if score is not None]
    if scored:
        metrics["accuracy/all"] = sum(right for _, right in scored) / len(scored)
    for index, domain in enumerate(TASKS):
        own = [right for task, right in scored if task == index]
        if own:
            metrics[f"accuracy/{domain}"] = sum(own) / len(own)
    return metrics


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
    weak = {"workflows/weak_verdict": sum(_is_weak(r) for r in rollouts) / len(rollouts)}
    return workflow_metrics(batch_columns(rollouts)) | weak | _execution(rollouts, wall_s)


def _is_weak(rollout: ScoredRollout) -> bool:
    return rollout.score is not None and rollout.score.label == WEAK_VERDICT


def entropy(counts: Counter[Any]) -> float:
    """Entropy of an empirical distribution, in nats."""
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values()) if total else 0.0


def _count(rollouts: Sequence[ScoredRollout], name: str) -> float:
    return float(sum(getattr(node, name) for r in rollouts for node in r.trace.nodes))


def _execution(rollouts: Sequence[ScoredRollout], wall_s: float) -> dict[str, float]:
    used = sum(r.trace.model_calls for r in rollouts)
    paid = sum(r.trace.paid_calls for r in rollouts)
    bound = max((r.trace.critical_path_s for r in rollouts), default=0.0)
    costs = [r.trace.paid_usd for r in rollouts]
    metrics = {
        "executor/calls": float(paid),
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
