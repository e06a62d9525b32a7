"""What was learned where: accuracy, cost and workflows by domain and difficulty, beside fixed workflows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..rollouts import ScoredRollout, accuracy
from .plots import COLOURS, new_figure, save_figure

ALL = "all"
SHOWN_WORKFLOWS = 3
STAGES = {
    "untrained": ("o", COLOURS["valid"]),
    "warm start": ("D", COLOURS["calls"]),
    "trained": ("*", COLOURS["trained"]),
}
"""Marker and colour of the policy at each stage."""


def learning_report(
    policies: Mapping[str, Sequence[ScoredRollout]], fixed: Mapping[str, Sequence[ScoredRollout]]
) -> dict[str, Any]:
    """
    The policy at each stage and fixed workflows, by domain and by difficulty.

    Args:
        policies (`Mapping[str, Sequence[ScoredRollout]]`):
            Held-out rollouts of the policy, by stage.
        fixed (`Mapping[str, Sequence[ScoredRollout]]`):
            Held-out rollouts of fixed workflows, or of a choice of them that is made without the policy.

    Returns:
        `dict[str, Any]`: `policies` and `fixed` by name, each with `domains` (accuracy, calls, number and most
        frequent workflows, `all` included) and `difficulties` of each domain; and `frontier`, by domain: the fixed
        workflows that none beats at no higher cost.
    """
    report: dict[str, Any] = {
        "policies": {name: _cells(batch, workflows=True) for name, batch in policies.items()},
        "fixed": {name: _cells(batch, workflows=False) for name, batch in fixed.items()},
    }
    domains = next(iter(report["policies"].values()))["domains"]
    report["frontier"] = {domain: frontier(report["fixed"], domain) for domain in domains}
    return report


def frontier(fixed: Mapping[str, Any], domain: str) -> list[str]:
    """Names of the fixed workflows that none beats at no higher cost, cheapest first."""
    cells = {name: own["domains"][domain] for name, own in fixed.items()}
    best, found = 0.0, []
    for name in sorted(cells, key=lambda name: (cells[name]["calls"], -cells[name]["accuracy"])):
        if cells[name]["accuracy"] > best:
            best = cells[name]["accuracy"]
            found.append(name)
    return found


def _cells(batch: Sequence[ScoredRollout], *, workflows: bool) -> dict[str, Any]:
    domains = sorted({one.domain for one in batch})
    levels = sorted({level for one in batch if (level := one.metadata.get("difficulty")) is not None})
    by_domain = {ALL: list(batch)} | {name: [one for one in batch if one.domain == name] for name in domains}
    return {
        "domains": {name: _cell(own, workflows) for name, own in by_domain.items()},
        "difficulties": {
            name: {
                str(level): _cell(same, workflows)
                for level in levels
                if (same := [one for one in own if one.metadata.get("difficulty") == level])
            }
            for name, own in by_domain.items()
        },
    }


def _cell(batch: Sequence[ScoredRollout], workflows: bool) -> dict[str, Any]:
    own = accuracy(batch)
    cell: dict[str, Any] = {
        "accuracy": own.mean,
        "low": own.low,
        "high": own.high,
        "calls": own.calls_per_problem,
        "n": own.n,
    }
    if workflows:
        names = Counter(one.trace.workflow or f"({one.trace.label})" for one in batch)
        cell["workflows"] = dict(names.most_common(SHOWN_WORKFLOWS))
    return cell


def print_learning(report: Mapping[str, Any], console: Console) -> None:
    """Accuracy by domain and difficulty at each stage of the policy; nothing where there is one difficulty only."""
    stages = report["policies"]
    levels = list(stages["trained"]["difficulties"][ALL])
    if len(levels) < 2:
        return
    table = Table(title="Accuracy by difficulty", title_justify="left")
    for heading in ("domain", "policy", *levels, ALL, "calls"):
        table.add_column(heading, justify="left" if heading in ("domain", "policy") else "right")
    for domain in stages["trained"]["domains"]:
        for place, (name, own) in enumerate(stages.items()):
            known = own["difficulties"][domain]
            cells = [f"{known[level]['accuracy']:.2f}" if level in known else "" for level in levels]
            whole = own["domains"][domain]
            table.add_row(
                domain if place == 0 else "", name, *cells, f"{whole['accuracy']:.2f}", f"{whole['calls']:.1f}"
            )
        table.add_section()
    console.print(table)


def plot_frontier(report: Mapping[str, Any], path: Path, executor: str) -> None:
    """
    Accuracy against model calls a problem, overall and by domain: fixed workflows with their frontier, and the way of
    the policy.

    Args:
        report (`Mapping[str, Any]`):
            From [`learning_report`].
        path (`Path`):
            PNG to write.
        executor (`str`):
            Name of the executor, for the title.
    """
    domains = list(report["frontier"])
    figure, axes = new_figure(columns=len(domains), figsize=(4.2 * len(domains), 4.4), sharey=True)
    for axis, domain in zip(axes, domains, strict=True):
        fixed = {name: own["domains"][domain] for name, own in report["fixed"].items()}
        grey = COLOURS["baseline"]
        axis.scatter(
            [own["calls"] for own in fixed.values()],
            [own["accuracy"] for own in fixed.values()],
            s=18,
            color=grey,
            alpha=0.6,
            label="fixed workflows",
        )
        best = [fixed[name] for name in report["frontier"][domain]]
        axis.step(
            [own["calls"] for own in best],
            [own["accuracy"] for own in best],
            where="post",
            color=grey,
            linewidth=1,
            label="their frontier",
        )
        way = [(own["domains"][domain], *STAGES[name], name) for name, own in report["policies"].items()]
        axis.plot(
            [own["calls"] for own, *_ in way],
            [own["accuracy"] for own, *_ in way],
            color=COLOURS["trained"],
            linewidth=1,
            linestyle=":",
        )
        for own, marker, colour, name in way:
            error = [[own["accuracy"] - own["low"]], [own["high"] - own["accuracy"]]]
            axis.errorbar(own["calls"], own["accuracy"], yerr=error, fmt="none", ecolor=colour, alpha=0.5, capsize=3)
            size = 150 if marker == "*" else 45
            axis.scatter(own["calls"], own["accuracy"], marker=marker, s=size, color=colour, zorder=3, label=name)
        axis.set(title=domain if domain != ALL else "all problems", xlabel="model calls a problem")
        axis.margins(x=0.12)
        axis.set_xlim(left=0)
        axis.set_ylim(0, 1.02)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("held-out accuracy")
    axes[0].legend(loc="lower right", fontsize=8)
    figure.suptitle(f"Accuracy and cost ({executor})", fontsize=11)
    save_figure(figure, path)
