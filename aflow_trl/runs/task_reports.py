"""Console tables and learning curves of improve and reason runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .plots import COLOURS, draw_curve, new_figure, save_figure
from .summary import TOP_WORKFLOWS


def print_gains(summary: Mapping[str, Any], console: Console) -> None:
    """Print the gain of the untrained and the trained policy, and the workflows of the trained one."""
    table = Table(title=f"Gain on held-out workflows ({summary['executor']})", title_justify="left")
    gains = summary["gain"]
    domains = sorted(gains["trained"]["by_domain"])
    for heading in ("policy", "gain", "95 % interval", "valid", *domains):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for name in ("untrained", "trained"):
        gain = gains[name]
        cells = [f"{gain['mean']:+.3f}", f"{gain['low']:+.3f} to {gain['high']:+.3f}"]
        by_domain = (f"{gain['by_domain'].get(domain, float('nan')):+.2f}" for domain in domains)
        table.add_row(
            name,
            *cells,
            f"{summary['valid_share'][name]:.1%}",
            *by_domain,
            style="bold green" if name == "trained" else "",
        )
    console.print(table)
    workflows = Table(title="Workflows of the trained policy", title_justify="left")
    for heading in ("domain", "share", "workflow"):
        workflows.add_column(heading, justify="right" if heading == "share" else "left", overflow="fold")
    for domain, counts in summary["top_workflows"]["trained"].items():
        total = sum(counts.values())
        for text, count in list(counts.items())[:TOP_WORKFLOWS]:
            workflows.add_row(domain, f"{count / total:.0%}", text)
    console.print(workflows)
    last = gains["last_steps"]
    in_training = ""
    if last["n"]:
        in_training = f"mean gain in training over the last {last['n']} logged steps: {last['mean']:+.3f} · "
    usd = "unknown" if summary["usd"] is None else f"{summary['usd']:.2f}"
    console.print(
        f"{in_training}{summary['model_calls']} model calls · {usd} USD · {summary['wall_s']:.0f} s",
        highlight=False,
    )


def print_reasoning(summary: Mapping[str, Any], console: Console) -> None:
    """Print accuracy and rewards of the untrained and the trained policy."""
    names = list(summary["trained"]["rewards"])
    table = Table(title="Held-out problems", title_justify="left")
    for heading in ("policy", "accuracy", "95 % interval", *(name.removesuffix("_reward") for name in names)):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for name in ("untrained", "trained"):
        stage = summary[name]
        figures = stage["accuracy"]
        unscored = f" ({stage['unscored']} unscored)" if stage["unscored"] else ""
        table.add_row(
            name,
            f"{figures['mean']:.3f}{unscored}",
            f"{figures['low']:.3f}–{figures['high']:.3f}",
            *(f"{stage['rewards'][reward]:.2f}" for reward in names),
            style="bold green" if name == "trained" else "",
        )
    console.print(table)
    console.print(f"{summary['wall_s']:.0f} s", highlight=False)


def plot_gains(history: Sequence[dict[str, Any]], summary: Mapping[str, Any], path: Path) -> None:
    """Plot the gain by step, with the held-out results as horizontal lines."""
    gains = summary["gain"]
    lines = {f"{name}, held out: {gains[name]['mean']:+.2f}": gains[name]["mean"] for name in ("untrained", "trained")}
    _plot(history, {"gain/mean": "gain in training"}, lines, "gain in the share of problems solved", path)


def plot_reasoning(history: Sequence[dict[str, Any]], summary: Mapping[str, Any], path: Path) -> None:
    """Plot accuracy and format by step, with the held-out results as horizontal lines."""
    lines = {
        f"{name}, held out: {summary[name]['accuracy']['mean']:.2f}": summary[name]["accuracy"]["mean"]
        for name in ("untrained", "trained")
    }
    curves = {"accuracy/all": "accuracy in training", "rewards/hard_format_reward/mean": "replies in the exact form"}
    _plot(history, curves, lines, "share", path)


def _plot(
    history: Sequence[dict[str, Any]],
    curves: Mapping[str, str],
    lines: Mapping[str, float],
    unit: str,
    path: Path,
) -> None:
    figure, axis = new_figure(figsize=(8, 4.2))
    for (key, label), colour in zip(curves.items(), ("accuracy", "valid"), strict=False):
        # A metric may be missing from a step, as the gain is where no problem was scored.
        logs = [entry for entry in history if key in entry]
        draw_curve(axis, [entry["step"] for entry in logs], [entry[key] for entry in logs], COLOURS[colour], label)
    for (label, value), (colour, style) in zip(lines.items(), (("baseline", ":"), ("trained", "-")), strict=True):
        axis.axhline(value, color=COLOURS[colour], linestyle=style, linewidth=1.2, label=label)
    axis.set(xlabel="optimiser step", ylabel=unit, title="Learning curve")
    axis.legend(loc="lower right", fontsize=8, framealpha=0.9)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)
