"""Evaluation: of the policy inside a training run, and of policies and baselines on a data file."""

from .baselines import evaluate, self_consistency, votes_at_equal_cost
from .comparison import best_on, oracle_choice, paired_difference, pass_at_k, summarize_system
from .held_out import HeldOutEvaluator
from .pipeline import PolicyChoice, run_evaluation
from .report import markdown_evaluation, plot_evaluation, print_evaluation
from .systems import Result, Results, SystemEvaluator

__all__ = [
    "HeldOutEvaluator",
    "PolicyChoice",
    "Result",
    "Results",
    "SystemEvaluator",
    "best_on",
    "evaluate",
    "markdown_evaluation",
    "oracle_choice",
    "paired_difference",
    "pass_at_k",
    "plot_evaluation",
    "print_evaluation",
    "run_evaluation",
    "self_consistency",
    "summarize_system",
    "votes_at_equal_cost",
]
