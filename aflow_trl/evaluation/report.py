"""An evaluation on one page: console table, Markdown, plot of accuracy against cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..runs import COLOURS, new_figure, save_figure

LABEL_CHARS = 44


def print_evaluation(report: Mapping[str, Any], console: Console) -> None:
    """All systems in a table, and how far the policies are from the best baseline."""
    domains = _domains(report)
    table = Table(title=_title(report), title_justify="left")
    for heading in (
        "system",
        "accuracy",
        "95 % interval",
        *domains,
        "AFlow's",
        "calls",
        "tokens",
        "USD",
        "s",
        "unscored",
    ):
        table.add_column(heading, justify="left" if heading == "system" else "right", overflow="fold")
    for name, own in report["systems"].items():
        style = "bold green" if name in report["differences"] else "bold" if name == report["best_baseline"] else ""
        table.add_row(escape(name), *_cells(own, domains), style=style)
    console.print(table)
    for line in _conclusions(report):
        console.print(line, highlight=False, markup=False)


def markdown_evaluation(report: Mapping[str, Any]) -> str:
    """The same as Markdown."""
    domains = _domains(report)
    heads = _heads(domains)
    lines = [f"### {_title(report)}", "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, own in report["systems"].items():
        shown = f"`{name}`" if "->" in name and not name.startswith("best") else name
        lines.append("| " + " | ".join([shown.replace("|", "\\|"), *_cells(own, domains)]) + " |")
    return "\n".join([*lines, "", *(f"{line}  " for line in _conclusions(report)), ""])


def plot_evaluation(report: Mapping[str, Any], path: Path) -> None:
    """Accuracy against model calls a problem, with intervals; systems are numbered as in the legend."""
    figure, axis = new_figure(figsize=(11, 5.4))
    placed: list[tuple[float, float]] = []
    handles = []
    ordered = sorted(report["systems"].items(), key=lambda item: -item[1]["strict"]["mean"])
    for number, (name, own) in enumerate(ordered, start=1):
        policy = name in report["differences"]
        colour = (
            COLOURS["trained"] if policy else COLOURS["calls"] if name in report["bounds"] else COLOURS["accuracy"]
        )
        x, strict = own["calls_per_problem"], own["strict"]
        error = [[strict["mean"] - strict["low"]], [strict["high"] - strict["mean"]]]
        size = 8 if policy else 5
        line = axis.errorbar(
            x, strict["mean"], yerr=error, fmt="o", color=colour, capsize=3, markersize=size, alpha=0.8
        )
        label = name if len(name) <= LABEL_CHARS else name[: LABEL_CHARS - 1] + "…"
        line.set_label(f"{number}  {label}")
        handles.append(line)
        # Numbers of points that lie together stand side by side.
        together = sum(abs(x - a) < 0.25 and abs(strict["mean"] - b) < 0.03 for a, b in placed)
        placed.append((x, strict["mean"]))
        spot = (6 + 14 * together, 4)
        axis.annotate(
            str(number), (x, strict["mean"]), xytext=spot, textcoords="offset points", fontsize=9, color=colour
        )
    axis.set(xlabel="model calls a problem", ylabel="accuracy", title=_title(report), xlim=(0, None))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(handles=handles, loc="outside right center", fontsize=8, frameon=False)
    save_figure(figure, path)


def _title(report: Mapping[str, Any]) -> str:
    seeds = len(report["seeds"])
    runs = f", mean of {seeds} seeds" if seeds > 1 else ""
    return f"{report['problems']} problems{runs} ({report['executor']})"


def _domains(report: Mapping[str, Any]) -> list[str]:
    return sorted({domain for own in report["systems"].values() for domain in own["by_domain"]})


def _chance(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _heads(domains: list[str]) -> list[str]:
    return ["system", "accuracy", "95 % interval", *domains, "AFlow's", "calls", "tokens", "USD", "s", "unscored"]


def _cells(own: Mapping[str, Any], domains: list[str]) -> list[str]:
    strict, aflow, usd = own["strict"], own["aflow"], own["usd_per_problem"]
    return [
        f"{strict['mean']:.3f}",
        f"{strict['low']:.3f}–{strict['high']:.3f}",
        *(f"{own['by_domain'][domain]['mean']:.2f}" for domain in domains),
        "?" if aflow is None else f"{aflow:.3f}",
        f"{own['calls_per_problem']:.2f}",
        f"{own['tokens_per_problem']:.0f}",
        "?" if usd is None else f"{usd:.4f}",
        f"{own['seconds_per_problem']:.2f}",
        f"{own['unscored_share']:.1%}",
    ]


def _conclusions(report: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{name} minus {report['best_baseline']}: {own['mean']:+.3f} ({own['low']:+.3f} to {own['high']:+.3f}, "
        f"{_chance(own['p'])}, {own['n']} problems, paired bootstrap)"
        for name, own in report["differences"].items()
    ]
    if report["best_fixed"]:
        lines.append(f"best fixed workflow on validation: {report['best_fixed']}")
    return [*lines, "accuracy and its Wilson interval by the strict scorers; AFlow's metric beside it"]
