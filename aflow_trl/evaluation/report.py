"""Presentation of an evaluation: console table, Markdown, and a plot of accuracy against cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..runs import COLOURS, new_figure, save_figure

MAX_LABEL_CHARS = 44
"""Maximum length of a system's name in the legend of the plot."""


def print_evaluation(report: Mapping[str, Any], console: Console) -> None:
    """Print a table of all systems, and the differences between policies and the best baseline."""
    domains = _domains(report)
    table = Table(title=_title(report), title_justify="left")
    for heading in _headings(domains):
        table.add_column(heading, justify="left" if heading == "system" else "right", overflow="fold")
    for name, system in report["systems"].items():
        style = "bold green" if name in report["differences"] else "bold" if name == report["best_baseline"] else ""
        table.add_row(name, *_cells(system, domains), style=style)
    console.print(table)
    for line in _conclusions(report):
        console.print(line, highlight=False, markup=False)


def markdown_evaluation(report: Mapping[str, Any]) -> str:
    """Table and differences of [`print_evaluation`] as Markdown."""
    domains = _domains(report)
    headings = _headings(domains)
    lines = [f"### {_title(report)}", "", "| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    for name, system in report["systems"].items():
        label = f"`{name}`" if "->" in name and not name.startswith("best") else name
        # A workflow may hold a bar in a string, which would end the cell.
        lines.append("| " + " | ".join([label.replace("|", "\\|"), *_cells(system, domains)]) + " |")
    return "\n".join([*lines, "", *(f"{line}  " for line in _conclusions(report)), ""])


def plot_evaluation(report: Mapping[str, Any], path: Path) -> None:
    """Plot accuracy with its interval against model calls per problem; the legend names the numbers of the systems."""
    figure, axis = new_figure(figsize=(11, 5.4))
    drawn: list[tuple[float, float]] = []
    handles = []
    ordered = sorted(report["systems"].items(), key=lambda item: -item[1]["strict"]["mean"])
    for number, (name, system) in enumerate(ordered, start=1):
        is_policy = name in report["differences"]
        role = "trained" if is_policy else "calls" if name in report["bounds"] else "accuracy"
        colour, size = COLOURS[role], 8 if is_policy else 5
        x, strict = system["calls_per_problem"], system["strict"]
        y = strict["mean"]
        error = [[y - strict["low"]], [strict["high"] - y]]
        line = axis.errorbar(x, y, yerr=error, fmt="o", color=colour, capsize=3, markersize=size, alpha=0.8)
        label = name if len(name) <= MAX_LABEL_CHARS else name[: MAX_LABEL_CHARS - 1] + "…"
        line.set_label(f"{number}  {label}")
        handles.append(line)
        # The numbers of neighbouring points are drawn next to each other, not on top of each other.
        neighbours = sum(abs(x - a) < 0.25 and abs(y - b) < 0.03 for a, b in drawn)
        drawn.append((x, y))
        offset = (6 + 14 * neighbours, 4)
        axis.annotate(str(number), (x, y), xytext=offset, textcoords="offset points", fontsize=9, color=colour)
    axis.set(xlabel="model calls per problem", ylabel="accuracy", title=_title(report), xlim=(0, None))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(handles=handles, loc="outside right center", fontsize=8, frameon=False)
    save_figure(figure, path)


def _title(report: Mapping[str, Any]) -> str:
    seeds = len(report["seeds"])
    runs = f", mean of {seeds} seeds" if seeds > 1 else ""
    return f"{report['problems']} problems{runs} ({report['executor']})"


def _domains(report: Mapping[str, Any]) -> list[str]:
    return sorted({domain for system in report["systems"].values() for domain in system["by_domain"]})


def _p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _headings(domains: list[str]) -> list[str]:
    return [
        "system",
        "accuracy",
        "95 % interval",
        *domains,
        "AFlow, published",
        "AFlow, fair",
        "calls",
        "tokens",
        "USD",
        "s",
        "unscored",
    ]


def _cells(system: Mapping[str, Any], domains: list[str]) -> list[str]:
    strict, usd = system["strict"], system["usd_per_problem"]
    return [
        f"{strict['mean']:.3f}",
        f"{strict['low']:.3f}–{strict['high']:.3f}",
        *(f"{system['by_domain'][domain]['mean']:.2f}" for domain in domains),
        *("?" if system[name] is None else f"{system[name]:.3f}" for name in ("aflow", "aflow_fair")),
        f"{system['calls_per_problem']:.2f}",
        f"{system['tokens_per_problem']:.0f}",
        "?" if usd is None else f"{usd:.4f}",
        f"{system['seconds_per_problem']:.2f}",
        f"{system['unscored_share']:.1%}",
    ]


def _conclusions(report: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{name} minus {report['best_baseline']}: {difference['mean']:+.3f} "
        f"({difference['low']:+.3f} to {difference['high']:+.3f}, {_p_value(difference['p'])}, "
        f"{difference['n']} problems, paired bootstrap)"
        for name, difference in report["differences"].items()
    ]
    if report["best_fixed"]:
        lines.append(f"best fixed workflow on validation: {report['best_fixed']}")
    return [
        *lines,
        "accuracy and its Wilson interval by the strict scorers; AFlow's metric as published, and reading LaTeX",
    ]
