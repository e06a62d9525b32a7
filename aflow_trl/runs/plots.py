"""Figures: helpers that all plots share, and the learning curve of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text

from ..trainer import EXECUTION, GENERATION, WAITING, Span

TIMELINE_STEPS = 4
"""Number of steps in a timeline: the last ones."""
PART_COLOURS = {
    GENERATION: "#1b6ca8",
    "log_probabilities": "#7fb2d6",
    "forward_backward": "#2e8b57",
    "optimizer": "#145c36",
    "guard": "#8e6bb0",
    WAITING: "#e6e6e6",
    EXECUTION: "#d98a3d",
}
SMOOTHING_STEPS = 9
"""Width of the moving average in learning curves, in logged steps."""
COLOURS = {"accuracy": "#1b6ca8", "valid": "#2e8b57", "calls": "#b5651d", "baseline": "#777777", "trained": "#c0392b"}


def new_figure(
    *,
    columns: int = 1,
    figsize: tuple[float, float],
    width_ratios: Sequence[float] | None = None,
    sharey: bool = False,
) -> tuple[Figure, Any]:
    """
    A figure with one row of axes: a single object, or an array if there are several `columns`.

    Made without `pyplot`, which keeps every figure alive and whose import chooses a backend for the whole process.
    """
    figure = Figure(figsize=figsize, layout="constrained")
    axes = figure.subplots(1, columns, width_ratios=width_ratios, sharey=sharey)
    return figure, axes


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; the folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Labels are names of models and workflows, in which `$` begins no formula.
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    figure.savefig(path, dpi=130)


def plot_learning_curve(history: Sequence[dict[str, Any]], summary: dict[str, Any], path: Path) -> None:
    """
    Plot accuracy, valid share and model calls by step, with the held-out results as horizontal lines.

    Args:
        history (`Sequence[dict[str, Any]]`):
            `log_history` of the trainer.
        summary (`dict[str, Any]`):
            Summary of the run.
        path (`Path`):
            PNG to write.
    """
    # The history also holds entries of evaluations and of the end of training.
    logs = [entry for entry in history if "workflows/valid" in entry]
    steps = [entry["step"] for entry in logs]
    figure, (shares, cost) = new_figure(columns=2, figsize=(11, 4.2), width_ratios=(2, 1))
    for key, name, label in (
        ("accuracy/all", "accuracy", "accuracy of rollouts"),
        ("workflows/valid", "valid", "valid workflows"),
    ):
        values = [entry.get(key) for entry in logs]
        draw_curve(shares, steps, values, COLOURS[name], label)
    accuracy = summary["accuracy"]
    for name, style in (("untrained", ":"), ("best_fixed", "--"), ("trained", "-")):
        colour = COLOURS["trained"] if name == "trained" else COLOURS["baseline"]
        label = f"{name.replace('_', ' ')}, held out: {accuracy[name]['mean']:.2f}"
        shares.axhline(accuracy[name]["mean"], color=colour, linestyle=style, linewidth=1.2, label=label)
    shares.set(xlabel="optimiser step", ylabel="share", ylim=(0, 1.02), title="Learning curve")
    shares.legend(loc="lower right", fontsize=8, framealpha=0.9)
    calls = [entry.get("executor/calls_per_workflow") for entry in logs]
    draw_curve(cost, steps, calls, COLOURS["calls"], "calls per workflow")
    cost.set(xlabel="optimiser step", ylabel="model calls", title="Cost of a workflow")
    cost.set_ylim(bottom=0)
    for axis in (shares, cost):
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def plot_timeline(spans: Sequence[Span], path: Path) -> None:
    """
    Plot the last steps of a training over time: the parts of the trainer, and the batches at work in the executor.

    Args:
        spans (`Sequence[Span]`):
            Spans of [`~aflow_trl.trainer.Timeline`].
        path (`Path`):
            PNG to write; nothing is written without a span.
    """
    # Rollouts that lag end before the training does.
    last = max((span.step for span in spans if span.name == GENERATION), default=0)
    steps = range(last - TIMELINE_STEPS + 1, last + 1)
    parts = [span for span in spans if span.name != EXECUTION and span.step in steps]
    if not parts:
        return
    start, end = min(span.start_s for span in parts), max(span.end_s for span in parts)
    executions = [span for span in spans if span.name == EXECUTION and start < span.end_s and span.start_s < end]
    figure, axis = new_figure(figsize=(11, 2.6))
    # An inner part lies on the one around it.
    for span in sorted(parts, key=lambda item: (item.start_s, -item.end_s)):
        axis.barh(0, span.end_s - span.start_s, left=span.start_s - start, color=PART_COLOURS[span.name], height=0.8)
    busy_until: list[float] = []
    for span in sorted(executions, key=lambda item: item.start_s):
        lane = next((i for i, until in enumerate(busy_until) if until <= span.start_s), len(busy_until))
        busy_until[lane:] = [span.end_s, *busy_until[lane + 1 :]]
        left, right = max(span.start_s, start), min(span.end_s, end)
        bar = {"color": PART_COLOURS[EXECUTION], "edgecolor": "white", "height": 0.8}
        axis.barh(lane + 1, right - left, left=left - start, **bar)
        middle = (left + right) / 2 - start
        axis.text(middle, lane + 1, str(span.step + 1), ha="center", va="center", fontsize=8, clip_on=True)
    for name, colour in PART_COLOURS.items():
        axis.barh(0, 0, color=colour, label=name.replace("_", " and " if name == "forward_backward" else "-"))
    for step in sorted({span.step for span in parts}):
        began = min(span.start_s for span in parts if span.step == step) - start
        axis.axvline(began, color="black", linewidth=0.6, linestyle=":")
        axis.text(began, -0.62, f" step {step + 1}", fontsize=8, va="bottom")
    lanes = len(busy_until)
    axis.set(
        xlim=(0, end - start),
        ylim=(lanes + 0.6, -1.1),
        xlabel="seconds",
        title="Steps of the training, and the batches executed meanwhile",
    )
    axis.set_yticks([0, (lanes + 1) / 2], ["trainer", "batches in\nthe executor"])
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.legend(ncols=1, fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save_figure(figure, path)


def draw_curve(axis: Any, steps: Sequence[int], values: Sequence[float | None], colour: str, label: str) -> None:
    """Draw the values that are not `None`, faintly, and their moving average."""
    points = [(step, value) for step, value in zip(steps, values, strict=True) if value is not None]
    if not points:
        return
    x, y = zip(*points, strict=True)
    axis.plot(x, y, color=colour, alpha=0.25, linewidth=1)
    axis.plot(x, smooth(y), color=colour, linewidth=2, label=label)


def smooth(values: Sequence[float]) -> list[float]:
    """Centred moving average over [`SMOOTHING_STEPS`] values, fewer at the ends."""
    half = SMOOTHING_STEPS // 2
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]
