"""Sections that a run appends to the model card that TRL writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def compose_card_sections(summary: dict[str, Any], operators: str, recipe: str) -> str:
    """
    Markdown for the model card of a compose run: language, operators, results, recipe.

    Args:
        summary (`dict[str, Any]`):
            Content of `summary.json`.
        operators (`str`):
            Operators the policy composes, one per line.
        recipe (`str`):
            YAML of the recipe.

    Returns:
        `str`: The sections.
    """
    accuracy = summary["accuracy"]
    lines = [
        "## Workflows",
        "",
        "This policy reads a problem and writes a workflow in the language of `aflow_trl`, between `<workflow>` tags: "
        "`A -> B`, `[A, B] -> Ensemble`, `X ? Y : Z`, `(S) * n`, `done`. It composes these operators:",
        "",
        operators,
        "",
        f"## Results on held-out problems ({summary['executor']})",
        "",
        "| | accuracy | 95 % interval | calls per problem |",
        "|---|---|---|---|",
    ]
    for name in ("untrained", "custom", "best_fixed", "trained"):
        row = accuracy[name]
        label = f"best fixed: `{summary['best_fixed_workflow']}`" if name == "best_fixed" else name
        lines.append(
            f"| {label} | {row['mean']:.3f} | {row['low']:.3f}–{row['high']:.3f} | {row['calls_per_problem']:.2f} |"
        )
    return "\n".join([*lines, "", "## Recipe", "", "```yaml", recipe.strip(), "```"])


def task_card_sections(about: str, figures: Mapping[str, Mapping[str, float]], operators: str, recipe: str) -> str:
    """
    Markdown for the model card of an improve or reason run.

    Args:
        about (`str`):
            What the policy does and what the results measure.
        figures (`Mapping[str, Mapping[str, float]]`):
            `mean`, `low`, `high` and `n` of each row of the table.
        operators (`str`):
            Operators the policy composes, one per line; empty if it composes none.
        recipe (`str`):
            YAML of the recipe.

    Returns:
        `str`: The sections.
    """
    lines = ["## What it does", "", about, "", *([operators, ""] if operators else [])]
    lines += ["## Results", "", "| | mean | 95 % interval | n |", "|---|---|---|---|"]
    for name, row in figures.items():
        lines.append(f"| {name} | {row['mean']:.3f} | {row['low']:.3f} to {row['high']:.3f} | {row['n']} |")
    return "\n".join([*lines, "", "## Recipe", "", "```yaml", recipe.strip(), "```"])
