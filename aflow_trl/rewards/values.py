"""What a rollout is worth, term by term: pure functions of one scored rollout, each in [0, 1]."""

from __future__ import annotations

from ..dsl import Chain, Limits, Vocabulary, format_workflow, parse, walk
from ..engine import Outcome
from ..rollouts import ScoredRollout

EFFICIENCY_CALLS = 16
"""Model calls at which the efficiency term reaches 0."""
EFFICIENCY_TOKENS = 32_000
"""Tokens at which the efficiency term reaches 0."""
SIMPLICITY_OPERATORS = 12
SIMPLICITY_DEPTH = 6


def correctness(rollout: ScoredRollout) -> float:
    """Score of the answer."""
    return rollout.correctness or 0.0


def efficiency(rollout: ScoredRollout) -> float:
    """1 minus what was spent, in calls or tokens, whichever is more."""
    trace = rollout.trace
    return 1.0 - min(1.0, max(trace.model_calls / EFFICIENCY_CALLS, trace.tokens / EFFICIENCY_TOKENS))


def simplicity(rollout: ScoredRollout) -> float:
    """Falls with the number of operators and the depth of nesting, half each."""
    trace = rollout.trace
    operators = min(1.0, max(0, len(trace.operators) - 1) / (SIMPLICITY_OPERATORS - 1))
    depth = min(1.0, max(0, trace.depth - 1) / (SIMPLICITY_DEPTH - 1))
    return 1.0 - (operators + depth) / 2


def format_quality(rollout: ScoredRollout) -> float:
    """1 for a workflow written as it should be, 0.5 for one that was repaired, 0 for none."""
    if rollout.trace.outcome is Outcome.INVALID:
        return 0.0
    return 0.5 if rollout.trace.repairs else 1.0


def novelty(rollout: ScoredRollout, vocabulary: Vocabulary, limits: Limits) -> float:
    """1 minus the share of steps that repeat: equal neighbours (`Format -> Format`) and pairs that come again."""
    text = rollout.trace.workflow
    return 1.0 - _repeated_share(text, vocabulary, limits) if text else 0.0


def _repeated_share(text: str, vocabulary: Vocabulary, limits: Limits) -> float:
    pairs = [
        pair
        for node, _ in walk(parse(text, vocabulary=vocabulary, limits=limits).root)
        if isinstance(node, Chain)
        for pair in zip(
            [format_workflow(s) for s in node.steps], [format_workflow(s) for s in node.steps][1:], strict=False
        )
    ]
    if not pairs:
        return 0.0
    repeated = len(pairs) - len(set(pairs)) + sum(left == right for left, right in set(pairs))
    return min(1.0, repeated / len(pairs))
