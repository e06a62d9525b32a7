"""Policies and baselines on the same problems."""

from .baselines import evaluate, self_consistency, votes_at_equal_cost
from .comparison import best_on, oracle, paired_difference, summarize_system
from .evaluator import Evaluator, sample_policy, share_of
from .pipeline import run_evaluation
from .report import markdown_evaluation, plot_evaluation, print_evaluation
from .results import Evaluation, Result, Results

__all__ = [
    "Evaluation",
    "Evaluator",
    "Result",
    "Results",
    "best_on",
    "evaluate",
    "markdown_evaluation",
    "oracle",
    "paired_difference",
    "plot_evaluation",
    "print_evaluation",
    "run_evaluation",
    "sample_policy",
    "self_consistency",
    "share_of",
    "summarize_system",
    "votes_at_equal_cost",
]
