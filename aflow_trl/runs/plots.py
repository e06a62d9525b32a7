"""The learning curve of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

SMOOTHING_STEPS = 9
COLOURS = {"accuracy": "#1b6ca8", "valid": "#2e8b57", "calls": "#b5651d", "baseline": "#777777", "trained": "#c0392b"}


def new_figure(
    *,
    columns: int = 1,
    figsize: tuple[float, float],
    width_ratios: Sequence[float] | None = None,
    sharey: bool = False,
) -> tuple[Figure, Any]:
    """
    A figure and its axes, one row of `columns` of them.

    Not by `pyplot`, which keeps figures alive and whose import would choose a backend for the whole process.
    """
    figure = Figure(figsize=figsize, layout="constrained")
    axes = figure.subplots(1, columns, width_ratios=width_ratios, sharey=sharey)
    return figure, axes


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def plot_learning_curve(history: Sequence[dict[str, Any]], summary: dict[str, Any], path: Path) -> None:
    """
    Accuracy, valid share and model calls by step, with the held-out results beside them.

    Args:
        history (`Sequence[dict[str, Any]]`):
            `log_history` of the trainer.
        summary (`dict[str, Any]`):
            Summary of the run.
        path (`Path`):
            PNG to write.
    """
    logs = [entry for entry in history if "workflows/valid" in entry]
    steps = [entry["step"] for entry in logs]
    figure, (left, right) = new_figure(columns=2, figsize=(11, 4.2), width_ratios=(2, 1))
    for key, name, label in (
        ("accuracy/all", "accuracy", "accuracy of rollouts"),
        ("workflows/valid", "valid", "valid workflows"),
    ):
        values = [entry.get(key) for entry in logs]
        draw_curve(left, steps, values, COLOURS[name], label)
    accuracy = summary["accuracy"]
    for name, style in (("untrained", ":"), ("best_fixed", "--"), ("trained", "-")):
        colour = COLOURS["trained"] if name == "trained" else COLOURS["baseline"]
        label = f"{name.replace('_', ' ')}, held out: {accuracy[name]['mean']:.2f}"
        left.axhline(accuracy[name]["mean"], color=colour, linestyle=style, linewidth=1.2, label=label)
    left.set(xlabel="optimiser step", ylabel="share", ylim=(0, 1.02), title="Learning curve")
    left.legend(loc="lower right", fontsize=8, framealpha=0.9)
    calls = [entry.get("executor/calls_per_workflow") for entry in logs]
    draw_curve(right, steps, calls, COLOURS["calls"], "calls a workflow")
    right.set(xlabel="optimiser step", ylabel="model calls", title="Cost of a workflow")
    right.set_ylim(bottom=0)
    for axis in (left, right):
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def draw_curve(axis: Any, steps: Sequence[int], values: Sequence[float | None], colour: str, label: str) -> None:
    """Values that are known, faint, and their moving average."""
    known = [(step, value) for step, value in zip(steps, values, strict=True) if value is not None]
    if not known:
        return
    x, y = zip(*known, strict=True)
    axis.plot(x, y, color=colour, alpha=0.25, linewidth=1)
    axis.plot(x, smooth(y), color=colour, linewidth=2, label=label)


def smooth(values: Sequence[float]) -> list[float]:
    """Centred moving average over [`SMOOTHING_STEPS`] values, fewer at the ends."""
    half = SMOOTHING_STEPS // 2
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]
