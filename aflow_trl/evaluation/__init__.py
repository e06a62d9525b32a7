"""Policies and baselines on the same problems."""

from .results import Evaluation, Result, Results, claim
from .statistics import best_on, oracle, paired_difference, summarize_system
from .systems import evaluate, self_consistency, votes_at_equal_cost

__all__ = [
    "Evaluation",
    "Result",
    "Results",
    "best_on",
    "claim",
    "evaluate",
    "oracle",
    "paired_difference",
    "self_consistency",
    "summarize_system",
    "votes_at_equal_cost",
]
