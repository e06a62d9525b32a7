"""Results of a run: summary tables, plots, sections of the model card, replay."""

from .learning import learning_report, plot_frontier, print_learning
from .model_card import chat_usage, compose_card, task_card
from .plots import COLOURS, new_figure, plot_learning_curve, plot_timeline, save_figure
from .replay import ReplayedStep, replay
from .summary import print_summary, print_winners
from .task_reports import plot_gains, plot_reasoning, print_gains, print_reasoning

__all__ = [
    "COLOURS",
    "ReplayedStep",
    "chat_usage",
    "compose_card",
    "learning_report",
    "new_figure",
    "plot_frontier",
    "plot_gains",
    "plot_learning_curve",
    "plot_reasoning",
    "plot_timeline",
    "print_gains",
    "print_learning",
    "print_reasoning",
    "print_summary",
    "print_winners",
    "replay",
    "save_figure",
    "task_card",
]
