"""Budgets of problems: words that a policy reads, each of which stands for a target of the mean cost."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import replace

from ..errors import DataError
from .schema import Row


def with_budgets(rows: Sequence[Row], budgets: Collection[str], *, seed: int) -> list[Row]:
    """
    Rows with a budget each, drawn at random where a row has none.

    Args:
        rows (`Sequence[Row]`):
            Problems.
        budgets (`Collection[str]`):
            Budgets, at least one.
        seed (`int`):
            Seed of the draws.

    Returns:
        `list[Row]`: In order.

    Raises:
        [`DataError`]: A row has another budget.
    """
    words, rng = sorted(budgets), random.Random(f"{seed} budgets")
    unknown = next((row.budget for row in rows if row.budget and row.budget not in budgets), None)
    if unknown is not None:
        raise DataError(f"a row has the budget {unknown!r}. Use one of the targets: {', '.join(words)}.")
    # Drawn for every row, so that the draws do not depend on which rows have one.
    return [replace(row, budget=row.budget or word) for row, word in ((row, rng.choice(words)) for row in rows)]
