"""Policies and baselines on the same problems."""

from .results import Evaluation, Result, Results, problem_key
from .statistics import best_on, oracle, paired_difference, summarize_system
from .systems import evaluate, self_consistency, votes_at_equal_cost

__all__ = [
    "Evaluation",
    "Result",
    "Results",
    "best_on",
    "evaluate",
    "oracle",
    "paired_difference",
    "problem_key",
    "self_consistency",
    "summarize_system",
    "votes_at_equal_cost",
]
