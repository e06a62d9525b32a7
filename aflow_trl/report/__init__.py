"""Run report: summary, console tables, model card sections, plots."""

from .evaluation import markdown_evaluation, plot_evaluation, print_evaluation
from .learning import learning_report, plot_frontier, print_learning
from .plots import plot_learning_curve
from .summary import model_card_sections, print_summary, print_winners, versions, write_json
from .tasks import plot_gains, plot_reasoning, print_gains, print_reasoning, task_card_sections

__all__ = [
    "learning_report",
    "markdown_evaluation",
    "model_card_sections",
    "plot_evaluation",
    "plot_frontier",
    "plot_gains",
    "plot_learning_curve",
    "plot_reasoning",
    "print_evaluation",
    "print_gains",
    "print_learning",
    "print_reasoning",
    "print_summary",
    "print_winners",
    "task_card_sections",
    "versions",
    "write_json",
]
