"""Run report: summary, console table, model card section, plots."""

from .plots import plot_learning_curve
from .summary import model_card_sections, print_summary, versions, write_json

__all__ = ["model_card_sections", "plot_learning_curve", "print_summary", "versions", "write_json"]
