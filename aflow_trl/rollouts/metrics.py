"""Scalar metrics of a batch of rollouts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from .. import errors
from ..engine import Outcome
from ..scoring import WEAK_VERDICT
from .batch import RolloutBatch, RolloutRow
from .types import ScoredRollout

_INFRASTRUCTURE = {
    "deadline",
    *(name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.AflowError)),
}
"""Labels of rollouts that are unscored because something outside the model's reach failed."""


def workflow_metrics(rows: Sequence[RolloutRow]) -> dict[str, float]:
    """
    Metrics of the workflows and answers of a batch.

    Args:
        rows (`Sequence[RolloutRow]`):
            Rows of all processes (or of one): the metrics do not depend on how a batch was split.

    Returns:
        `dict[str, float]`: Metrics by name; one that is undefined is left out.
    """
    count = len(rows)
    outcomes = Counter(row.outcome for row in rows)
    workflows = Counter(row.workflow for row in rows if row.workflow)
    metrics = {
        "workflows/valid": 1 - outcomes[Outcome.INVALID.value] / count,
        "workflows/repaired": sum(row.repaired for row in rows) / count,
        "workflows/invalid": outcomes[Outcome.INVALID.value] / count,
        "workflows/over_budget": outcomes[Outcome.OVER_BUDGET.value] / count,
        "workflows/unscored": outcomes[Outcome.UNAVAILABLE.value] / count,
        "workflows/unique": len(workflows) / max(1, sum(workflows.values())),
        "workflows/entropy": entropy(workflows),
        "executor/calls_per_workflow": sum(row.model_calls for row in rows) / count,
    }
    labels = Counter(row.invalid_label for row in rows if row.invalid_label)
    metrics |= {f"invalid/{label}": number / count for label, number in labels.items()}
    operators = Counter(name for row in rows for name in row.operators)
    metrics |= {f"operators/{name}": number / count for name, number in operators.items()}
    scored = [row for row in rows if row.score is not None]
    if scored:
        metrics["accuracy/all"] = sum(row.score == 1.0 for row in scored) / len(scored)
    for domain in sorted({row.domain for row in scored}):
        in_domain = [row.score == 1.0 for row in scored if row.domain == domain]
        metrics[f"accuracy/{domain}"] = sum(in_domain) / len(in_domain)
    return metrics


def execution_metrics(batch: RolloutBatch) -> dict[str, float]:
    """
    What the execution of a batch cost, in the process that executed it.

    Args:
        batch ([`RolloutBatch`]):
            The batch.

    Returns:
        `dict[str, float]`: Metrics by name; one that is undefined is left out.
    """
    rollouts = batch.rollouts
    nodes = [node for rollout in rollouts for node in rollout.trace.nodes]
    used_calls = sum(rollout.trace.model_calls for rollout in rollouts)
    paid_calls = sum(rollout.trace.paid_calls for rollout in rollouts)
    critical_path_s = max((rollout.trace.critical_path_s for rollout in rollouts), default=0.0)
    # Neither the longest workflow nor the calls of all of them, as many at once as allowed, can take less.
    bound_s = max(critical_path_s, sum(node.calls_s for node in nodes if not node.shared) / batch.concurrency)
    costs = [rollout.trace.paid_usd for rollout in rollouts]
    metrics = {
        "workflows/weak_verdict": sum(_is_weak(rollout) for rollout in rollouts) / len(rollouts),
        "rewards/escaped": sum(_escaped(rollout) for rollout in rollouts) / len(rollouts),
        "executor/calls": float(paid_calls),
        "executor/tokens": float(sum(rollout.trace.tokens for rollout in rollouts)),
        "executor/shared": 1 - paid_calls / used_calls if used_calls else 0.0,
        "executor/parse_errors": float(sum(node.parse_errors for node in nodes)),
        "executor/truncated": float(sum(node.truncated for node in nodes)),
        "executor/thought_out": float(sum(node.thought_out for node in nodes)),
        "executor/refused": float(sum(node.refused for node in nodes)),
        "executor/rejected": float(sum(node.rejected for node in nodes)),
        "execution/wall_s": batch.wall_s,
        "execution/scoring_s": max((rollout.scoring_s for rollout in rollouts), default=0.0),
    }
    calls_by_operator, malformed = Counter[str](), Counter[str]()
    for node in nodes:
        calls_by_operator[node.operator] += node.model_calls
        malformed[node.operator] += node.parse_errors
    metrics |= {f"malformed/{name}": malformed[name] / calls for name, calls in calls_by_operator.items() if calls}
    if bound_s > 0:
        metrics["execution/critical_path_s"] = critical_path_s
        metrics["execution/bound_s"] = bound_s
        metrics["execution/wall_over_bound"] = batch.wall_s / bound_s
    if None not in costs:
        metrics["executor/usd"] = sum(cost for cost in costs if cost is not None)
    return metrics


def batch_metrics(batch: RolloutBatch) -> dict[str, float]:
    """All metrics of a batch, as one process sees it."""
    return workflow_metrics(batch.rows) | execution_metrics(batch)


def entropy(counts: Counter[Any]) -> float:
    """Entropy of an empirical distribution, in nats."""
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values()) if total else 0.0


def _escaped(rollout: ScoredRollout) -> bool:
    """Whether an error nobody foresaw left a rollout unscored: a text of the model may have caused it, to no loss."""
    return rollout.trace.outcome is Outcome.UNAVAILABLE and rollout.trace.label not in _INFRASTRUCTURE


def _is_weak(rollout: ScoredRollout) -> bool:
    return rollout.score is not None and rollout.score.label == WEAK_VERDICT
