"""What a run has to show: `summary.json`, the table on the console, the section of the model card."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from .learning import print_learning

TOP_WORKFLOWS = 3


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Accuracy table and the workflows each domain ended with."""
    if "warm_start" in summary:
        print_winners(summary["warm_start"], console)
    accuracy = summary["accuracy"]
    table = Table(title=f"Held-out accuracy ({summary['executor']})", title_justify="left")
    for heading in ("policy or workflow", "accuracy", "95 % interval", "calls", "USD", *summary["domains"]):
        table.add_column(heading, justify="left" if heading == "policy or workflow" else "right", overflow="fold")
    warm = {"after the warm start": accuracy["warm_start"]} if "warm_start" in accuracy else {}
    rows = {
        "untrained policy": accuracy["untrained"],
        **summary["fixed"],
        **warm,
        "trained policy": accuracy["trained"],
    }
    for name, row in rows.items():
        style = "bold green" if name == "trained policy" else "bold" if name == summary["best_fixed_workflow"] else ""
        table.add_row(name, *_cells(row, summary["domains"]), style=style)
    console.print(table)
    workflows = Table(title="Workflows of the trained policy", title_justify="left")
    workflows.add_column("domain")
    workflows.add_column("share", justify="right")
    workflows.add_column("workflow", overflow="fold")
    for domain, counts in summary["top_workflows"]["trained"].items():
        total = summary["problems_by_domain"][domain]
        for name, count in list(counts.items())[:TOP_WORKFLOWS]:
            workflows.add_row(domain, f"{count / total:.0%}", name)
    console.print(workflows)
    print_learning(summary["learning"], console)
    valid = summary["valid_share"]
    usd = "unknown" if summary["usd"] is None else f"{summary['usd']:.2f}"
    console.print(
        f"valid workflows {valid['untrained']:.1%} -> {valid['trained']:.1%} · {summary['model_calls']} model calls · "
        f"{usd} USD · {summary['wall_s']:.0f} s",
        highlight=False,
    )


def print_winners(facts: dict[str, Any], console: Console) -> None:
    """Table of the workflows that a warm start found for each group of problems."""
    table = Table(title="Warm start: workflows found by execution", title_justify="left")
    for heading in ("problems", "accuracy", "on", "calls", "taught", "workflow"):
        table.add_column(heading, justify="left" if heading in ("problems", "workflow") else "right", overflow="fold")
    for group, winners in facts["winners"].items():
        for place, one in enumerate(winners):
            cells = (f"{one['accuracy']:.3f}", str(one["scored"]), f"{one['calls_per_problem']:.1f}")
            table.add_row(group if place == 0 else "", *cells, f"{one['weight']:.0%}", one["workflow"])
        table.add_section()
    console.print(table)
    tried = max(facts["tried"].values())
    console.print(f"{tried} workflows tried, {facts['model_calls']} model calls", highlight=False)


def _cells(row: dict[str, Any], domains: list[str]) -> list[str]:
    usd = row["usd_per_problem"]
    unscored = f" ({row['unscored']} unscored)" if row["unscored"] else ""
    return [
        f"{row['mean']:.3f}{unscored}",
        f"{row['low']:.3f}–{row['high']:.3f}",
        f"{row['calls_per_problem']:.2f}",
        "?" if usd is None else f"{usd:.4f}",
        *(f"{row['by_domain'].get(domain, float('nan')):.2f}" for domain in domains),
    ]
