"""
Accuracy, cost and workflows of a policy by domain and difficulty, next to those of fixed workflows.

The overall accuracy of a run hides which problems it came from: a policy may gain on one domain and lose on another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table

from ..rollouts import ScoredRollout, accuracy
from .plots import COLOURS, new_figure, save_figure

ALL = "all"
"""Name of all domains together, and heading of all difficulties together."""
TOP_WORKFLOWS = 3
"""Number of most frequent workflows that a report lists for each domain."""
STAGES = {
    "untrained": ("o", COLOURS["valid"]),
    "warm start": ("D", COLOURS["calls"]),
    "trained": ("*", COLOURS["trained"]),
}
"""Marker and colour of the policy at each stage."""


class _Measured(TypedDict):
    accuracy: float
    low: float
    """Lower bound of the 95 % Wilson interval."""
    high: float
    calls: float
    """Model calls per problem."""
    n: int
    """Number of problems that were scored."""


class Cell(_Measured, total=False):
    """Accuracy and cost on the problems of a domain or difficulty."""

    workflows: dict[str, int]
    """Most frequent workflows and their counts; for policies only."""


class Breakdown(TypedDict):
    """One policy or fixed workflow, on all problems and on parts of them."""

    domains: dict[str, Cell]
    difficulties: dict[str, dict[str, Cell]]
    """By domain, then by difficulty."""


class LearningReport(TypedDict):
    """`learning` of `summary.json`."""

    policies: dict[str, Breakdown]
    """By stage of the policy."""
    fixed: dict[str, Breakdown]
    """By workflow, or by name of a choice of workflows."""
    frontier: dict[str, list[str]]
    """By domain, the fixed workflows that no other beats at the same or a lower cost."""


def learning_report(
    policies: Mapping[str, Sequence[ScoredRollout]], fixed: Mapping[str, Sequence[ScoredRollout]]
) -> LearningReport:
    """
    The policy at each stage and fixed workflows, by domain and by difficulty.

    Args:
        policies (`Mapping[str, Sequence[ScoredRollout]]`):
            Held-out rollouts of the policy, by stage.
        fixed (`Mapping[str, Sequence[ScoredRollout]]`):
            Held-out rollouts of fixed workflows, or of a choice among them that does not involve the policy.

    Returns:
        [`LearningReport`]: Plain data. All problems together are the domain `all`.
    """
    by_stage = {name: _breakdown(batch, workflows=True) for name, batch in policies.items()}
    by_workflow = {name: _breakdown(batch, workflows=False) for name, batch in fixed.items()}
    domains = next(iter(by_stage.values()))["domains"]
    return {
        "policies": by_stage,
        "fixed": by_workflow,
        "frontier": {domain: frontier(by_workflow, domain) for domain in domains},
    }


def frontier(fixed: Mapping[str, Breakdown], domain: str) -> list[str]:
    """
    Pareto frontier of the fixed workflows in a domain.

    Args:
        fixed (`Mapping[str, Breakdown]`):
            `fixed` of [`learning_report`].
        domain (`str`):
            Domain, or `all`.

    Returns:
        `list[str]`: Names of the workflows that no other beats at the same or a lower cost, cheapest first.
    """
    cells = {name: breakdown["domains"][domain] for name, breakdown in fixed.items()}
    best, names = 0.0, []
    for name in sorted(cells, key=lambda name: (cells[name]["calls"], -cells[name]["accuracy"])):
        if cells[name]["accuracy"] > best:
            best = cells[name]["accuracy"]
            names.append(name)
    return names


def _breakdown(batch: Sequence[ScoredRollout], *, workflows: bool) -> Breakdown:
    domains = sorted({rollout.domain for rollout in batch})
    # Rows of a user's data file may have no difficulty.
    levels = sorted({level for rollout in batch if (level := rollout.metadata.get("difficulty")) is not None})
    by_domain = {ALL: list(batch)} | {
        domain: [rollout for rollout in batch if rollout.domain == domain] for domain in domains
    }
    difficulties: dict[str, dict[str, Cell]] = {}
    for domain, rollouts in by_domain.items():
        by_level = {
            level: [rollout for rollout in rollouts if rollout.metadata.get("difficulty") == level] for level in levels
        }
        # Keys are text, as they come back from JSON.
        difficulties[domain] = {str(level): _cell(same, workflows) for level, same in by_level.items() if same}
    return {
        "domains": {domain: _cell(rollouts, workflows) for domain, rollouts in by_domain.items()},
        "difficulties": difficulties,
    }


def _cell(batch: Sequence[ScoredRollout], workflows: bool) -> Cell:
    statistics = accuracy(batch)
    cell: Cell = {
        "accuracy": statistics.mean,
        "low": statistics.low,
        "high": statistics.high,
        "calls": statistics.calls_per_problem,
        "n": statistics.n,
    }
    if workflows:
        names = Counter(rollout.trace.workflow or f"({rollout.trace.label})" for rollout in batch)
        cell["workflows"] = dict(names.most_common(TOP_WORKFLOWS))
    return cell


def print_learning(report: LearningReport, console: Console) -> None:
    """Print the accuracy by domain and difficulty at each stage of the policy, unless there is only one difficulty."""
    stages = report["policies"]
    levels = list(stages["trained"]["difficulties"][ALL])
    if len(levels) < 2:
        return
    table = Table(title="Accuracy by difficulty", title_justify="left")
    for heading in ("domain", "policy", *levels, ALL, "calls"):
        table.add_column(heading, justify="left" if heading in ("domain", "policy") else "right")
    for domain in stages["trained"]["domains"]:
        for index, (name, breakdown) in enumerate(stages.items()):
            by_level, overall = breakdown["difficulties"][domain], breakdown["domains"][domain]
            table.add_row(
                domain if index == 0 else "",
                name,
                # A domain need not have problems of every difficulty.
                *(f"{by_level[level]['accuracy']:.2f}" if level in by_level else "" for level in levels),
                f"{overall['accuracy']:.2f}",
                f"{overall['calls']:.1f}",
            )
        table.add_section()
    console.print(table)


def plot_frontier(report: LearningReport, path: Path, executor: str) -> None:
    """
    Plot accuracy against model calls per problem, overall and by domain: the fixed workflows with their frontier, and
    the path of the policy over its stages.

    Args:
        report ([`LearningReport`]):
            Return value of [`learning_report`].
        path (`Path`):
            PNG to write.
        executor (`str`):
            Name of the executor, for the title.
    """
    domains = list(report["frontier"])
    figure, axes = new_figure(columns=len(domains), figsize=(4.2 * len(domains), 4.4), sharey=True)
    for axis, domain in zip(axes, domains, strict=True):
        fixed = {name: breakdown["domains"][domain] for name, breakdown in report["fixed"].items()}
        _draw_fixed(axis, list(fixed.values()), [fixed[name] for name in report["frontier"][domain]])
        _draw_stages(axis, {name: breakdown["domains"][domain] for name, breakdown in report["policies"].items()})
        axis.set(title=domain if domain != ALL else "all problems", xlabel="model calls per problem")
        axis.margins(x=0.12)
        axis.set_xlim(left=0)
        # Above 1, so that the marker of a policy that is always right is not cut off.
        axis.set_ylim(0, 1.02)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("held-out accuracy")
    axes[0].legend(loc="lower right", fontsize=8)
    figure.suptitle(f"Accuracy and cost ({executor})", fontsize=11)
    save_figure(figure, path)


def _draw_fixed(axis: Axes, cells: Sequence[Cell], frontier_cells: Sequence[Cell]) -> None:
    x, y = _points(cells)
    axis.scatter(x, y, s=18, color=COLOURS["baseline"], alpha=0.6, label="fixed workflows")
    x, y = _points(frontier_cells)
    axis.step(x, y, where="post", color=COLOURS["baseline"], linewidth=1, label="their frontier")


def _draw_stages(axis: Axes, cells: Mapping[str, Cell]) -> None:
    stages = [cell for name, cell in cells.items() if "," not in name]
    axis.plot(*_points(stages), color=COLOURS["trained"], linewidth=1, linestyle=":")
    for stage, (_, colour) in STAGES.items():
        # The same policy at its budgets.
        points = [cell for name, cell in cells.items() if name.partition(", ")[0] == stage]
        axis.plot(*_points(sorted(points, key=lambda cell: cell["calls"])), color=colour, linewidth=1)
    for name, cell in cells.items():
        stage, _, budget = name.partition(", ")
        marker, colour = STAGES[stage]
        mean, calls = cell["accuracy"], cell["calls"]
        error = [[mean - cell["low"]], [cell["high"] - mean]]
        axis.errorbar(calls, mean, yerr=error, fmt="none", ecolor=colour, alpha=0.5, capsize=3)
        size = 150 if marker == "*" else 45
        axis.scatter(calls, mean, marker=marker, s=size, color=colour, zorder=3, label=None if budget else name)
        if budget:
            axis.annotate(budget.removesuffix(" budget"), (calls, mean), (4, -11), textcoords="offset points", size=7)


def _points(cells: Sequence[Cell]) -> tuple[list[float], list[float]]:
    return [cell["calls"] for cell in cells], [cell["accuracy"] for cell in cells]
