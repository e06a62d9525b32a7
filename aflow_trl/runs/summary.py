"""The summary of a compose run as tables on the console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from ..trainer import EXECUTION, PARTS
from .learning import print_learning

TOP_WORKFLOWS = 3
"""Number of most frequent workflows shown for each domain."""
SHORTEST_S = 0.05
"""Shortest part of a step that is shown."""
BESIDE = (EXECUTION, "critical_path", "bound", "scoring")


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """
    Print the accuracy of policies and fixed workflows, and the workflows of the trained policy.

    Args:
        summary (`dict[str, Any]`):
            Content of `summary.json`.
        console (`Console`):
            Console to print to.
    """
    if "warm_start" in summary:
        print_winners(summary["warm_start"], console)
    accuracy = summary["accuracy"]
    table = Table(title=f"Held-out accuracy ({summary['executor']})", title_justify="left")
    for heading in ("policy or workflow", "accuracy", "95 % interval", "calls", "USD", *summary["domains"]):
        table.add_column(heading, justify="left" if heading == "policy or workflow" else "right", overflow="fold")
    warm = {"after the warm start": accuracy["warm_start"]} if "warm_start" in accuracy else {}
    budgets = summary.get("budgets", {})
    trained = {f"trained policy, {budget} budget": row for budget, row in budgets.items()}
    trained = trained or {"trained policy": accuracy["trained"]}
    rows = {"untrained policy": accuracy["untrained"], **summary["fixed"], **warm, **trained}
    for name, row in rows.items():
        style = "bold green" if name in trained else "bold" if name == summary["best_fixed_workflow"] else ""
        table.add_row(name, *_cells(row, summary["domains"]), style=style)
    console.print(table)
    workflows = Table(title="Workflows of the trained policy", title_justify="left")
    workflows.add_column("domain")
    workflows.add_column("share", justify="right")
    workflows.add_column("workflow", overflow="fold")
    for domain, counts in summary["top_workflows"]["trained"].items():
        # Shares of all problems of the domain, not of the workflows that are listed.
        total = summary["problems_by_domain"][domain]
        for name, count in list(counts.items())[:TOP_WORKFLOWS]:
            workflows.add_row(domain, f"{count / total:.0%}", name)
    console.print(workflows)
    print_learning(summary["learning"], console)
    print_seconds(summary["seconds"], console)
    valid = summary["valid_share"]
    usd = "unknown" if summary["usd"] is None else f"{summary['usd']:.2f}"
    shares = [f"{valid[stage]:.1%}" for stage in ("untrained", "warm_start", "trained") if stage in valid]
    console.print(
        f"valid workflows {' -> '.join(shares)} · {summary['model_calls']} model calls · "
        f"{usd} USD · {summary['wall_s']:.0f} s",
        highlight=False,
    )


def print_seconds(seconds: Mapping[str, float], console: Console) -> None:
    """Print where the time of a step goes, from `seconds` of the summary."""
    if not seconds:
        return
    parts = [f"{name.replace('_', ' ')} {seconds[name]:.1f}" for name in PARTS if seconds.get(name, 0) >= SHORTEST_S]
    beside = [f"{name.replace('_', ' ')} {seconds[name]:.1f}" for name in BESIDE if seconds.get(name, 0) >= SHORTEST_S]
    console.print(
        f"seconds a step {seconds['step']:.1f}: {', '.join(parts)}; of a batch: {', '.join(beside)}", highlight=False
    )


def print_winners(warm_start: dict[str, Any], console: Console) -> None:
    """Print the winners of a warm start for each group of problems, from `warm_start` of the summary."""
    table = Table(title="Warm start: workflows found by execution", title_justify="left")
    for heading in ("group", "accuracy", "problems scored", "calls", "SFT share", "workflow"):
        table.add_column(heading, justify="left" if heading in ("group", "workflow") else "right", overflow="fold")
    for group, winners in warm_start["winners"].items():
        for index, winner in enumerate(winners):
            cells = (f"{winner['accuracy']:.3f}", str(winner["scored"]), f"{winner['calls_per_problem']:.1f}")
            table.add_row(group if index == 0 else "", *cells, f"{winner['weight']:.0%}", winner["workflow"])
        table.add_section()
    console.print(table)
    tried = max(warm_start["tried"].values())
    console.print(f"{tried} workflows tried, {warm_start['model_calls']} model calls", highlight=False)


def _cells(row: dict[str, Any], domains: list[str]) -> list[str]:
    usd = row["usd_per_problem"]
    unscored = f" ({row['unscored']} unscored)" if row["unscored"] else ""
    return [
        f"{row['mean']:.3f}{unscored}",
        f"{row['low']:.3f}–{row['high']:.3f}",
        f"{row['calls_per_problem']:.2f}",
        "?" if usd is None else f"{usd:.4f}",
        # A domain whose problems were all unscored has no accuracy.
        *(f"{row['by_domain'].get(domain, float('nan')):.2f}" for domain in domains),
    ]
