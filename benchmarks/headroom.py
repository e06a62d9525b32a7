"""
What there is to learn in a suite: the best single workflow, the best one for each label, and for each kind of problem.

    python benchmarks/headroom.py [--suite synthetic-mixed] [--rows 24]

A label is a column, which a search can group by: here the domain. A kind is what the text of a problem says (domain,
number of steps, traits), which only a policy that reads it can know. All templates are run on a few problems of every
kind; those that are among the best of their kind or domain at some price of a call are run on more of them. Workflows
are chosen on half of these problems and reported on the other half, so that the choice flatters nobody.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from rich.table import Table

from aflow_trl.console import report_console
from aflow_trl.data import Row, load_rows, read_problem
from aflow_trl.dsl import format_workflow, workflow_templates
from aflow_trl.recipes import load_recipe
from aflow_trl.rollouts import Rollouts
from aflow_trl.tasks.session import build_engine

PRICES = (0.0, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08)
"""Accuracy that a model call is worth."""
FIRST_ROWS = 4
"""Problems of each kind in the first round."""
KEPT = 4
"""Workflows that each kind, and each domain, keeps at each price for the second round."""
MIN_ROWS = 8
"""Kinds with fewer problems in the sample are left out."""


class Kind(NamedTuple):
    """What the text of a problem says about it."""

    domain: str
    steps: str
    traits: tuple[str, ...]


@dataclass(slots=True)
class Cell:
    """Runs of one workflow on problems of one kind."""

    right: list[float] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)

    def utility(self, price: float) -> float:
        """Accuracy less the price of the calls."""
        return (sum(self.right) - price * sum(self.calls)) / len(self.right)


Matrix: TypeAlias = dict[Kind, dict[str, Cell]]


def kind_of(row: Row) -> Kind:
    """The kind of a problem."""
    solved = read_problem(f"{row.context}\n\n{row.question}")
    assert solved is not None
    steps = "1-2" if solved.difficulty <= 2 else "3-5" if solved.difficulty <= 5 else "6-9"
    return Kind(solved.domain, steps, tuple(sorted(solved.traits)))


async def run(rollouts: Rollouts, plan: Mapping[Kind, tuple[Sequence[str], Sequence[Row]]], salt: str) -> Matrix:
    """Run every workflow of a kind on every problem."""
    matrix: Matrix = {}
    for kind, (workflows, rows) in plan.items():
        pairs = list(itertools.product(workflows, rows))
        columns = [row.columns() for _, row in pairs]
        batch = await rollouts.execute([text for text, _ in pairs], columns, salt=salt, phase="headroom", step=0)
        cells = matrix[kind] = {workflow: Cell() for workflow in workflows}
        for (workflow, _), rollout in zip(pairs, batch, strict=True):
            cells[workflow].right.append(float(rollout.correct))
            cells[workflow].calls.append(rollout.trace.model_calls)
    return matrix


def pooled(matrix: Matrix, kinds: Sequence[Kind], weights: Mapping[Kind, float]) -> dict[str, Cell]:
    """Weighted means over kinds, for the workflows that were run on all of them."""
    shared = set.intersection(*(set(matrix[kind]) for kind in kinds))
    total = sum(weights[kind] for kind in kinds)
    pool = {}
    for workflow in sorted(shared):
        cells = [(weights[kind] / total, matrix[kind][workflow]) for kind in kinds]
        right = sum(share * sum(cell.right) / len(cell.right) for share, cell in cells)
        calls = sum(share * sum(cell.calls) / len(cell.calls) for share, cell in cells)
        pool[workflow] = Cell([right], [calls])  # type: ignore[list-item]
    return pool


def best(cells: Mapping[str, Cell], price: float, count: int = 1) -> list[str]:
    """The best workflows at a price."""
    return sorted(cells, key=lambda name: -cells[name].utility(price))[:count]


def halves(matrix: Matrix) -> tuple[Matrix, Matrix]:
    """The runs on the even and on the odd problems."""

    def half(start: int) -> Matrix:
        return {
            kind: {name: Cell(cell.right[start::2], cell.calls[start::2]) for name, cell in cells.items()}
            for kind, cells in matrix.items()
        }

    return half(0), half(1)


async def measure(suite: str, count: int, seed: int) -> tuple[Matrix, dict[Kind, float]]:
    """Both rounds; the runs of the second, and the share of each kind in the suite."""
    recipe = load_recipe(["quickstart.yaml"])
    engine, _ = build_engine(recipe, [])
    rollouts = Rollouts(engine, seed=seed)
    by_kind: defaultdict[Kind, list[Row]] = defaultdict(list)
    for row in load_rows(suite, split="train", count=30_000, seed=seed):
        by_kind[kind_of(row)].append(row)
    kinds = {kind: rows for kind, rows in by_kind.items() if len(rows) >= FIRST_ROWS + MIN_ROWS}
    weights = {kind: float(len(rows)) for kind, rows in kinds.items()}
    templates = [format_workflow(template) for template in workflow_templates()]
    try:
        first = await run(rollouts, {kind: (templates, rows[:FIRST_ROWS]) for kind, rows in kinds.items()}, "first")
        kept: defaultdict[str, set[str]] = defaultdict(set)
        for price in PRICES:
            everywhere = best(pooled(first, list(first), weights), price, KEPT)
            for domain in {kind.domain for kind in first}:
                own = [kind for kind in first if kind.domain == domain]
                kept[domain].update(everywhere, best(pooled(first, own, weights), price, KEPT))
        # What is good for one kind is tried on the others of its domain as well: the first round is short.
        for kind, cells in first.items():
            kept[kind.domain].update(best(cells, 0.01))
        shared = set.union(*kept.values())
        print({domain: len(names) for domain, names in kept.items()}, len(shared), "in all", flush=True)
        rest = {kind: rows[FIRST_ROWS : FIRST_ROWS + count] for kind, rows in kinds.items()}
        single = set.intersection(*kept.values())
        plan = {kind: (sorted(kept[kind.domain] | single), rows) for kind, rows in rest.items()}
        return await run(rollouts, plan, "second"), weights
    finally:
        await engine.aclose()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="synthetic-mixed")
    parser.add_argument("--rows", type=int, default=24, help="problems of each kind in the second round")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    matrix, weights = asyncio.run(measure(options.suite, options.rows, options.seed))
    chosen_on, reported_on = halves(matrix)
    domains = sorted({kind.domain for kind in matrix})
    table = Table("price of a call", "choice", "accuracy", "calls", title=f"{options.suite}: {len(matrix)} kinds")
    for price in PRICES:
        one = best(pooled(chosen_on, list(matrix), weights), price)[0]
        by_domain = {
            domain: best(pooled(chosen_on, [kind for kind in matrix if kind.domain == domain], weights), price)[0]
            for domain in domains
        }
        choices = {
            "one workflow": dict.fromkeys(matrix, one),
            "by domain": {kind: by_domain[kind.domain] for kind in matrix},
            "by kind of problem": {kind: best(chosen_on[kind], price)[0] for kind in matrix},
        }
        for name, choice in choices.items():
            accuracy, calls = mean_of(reported_on, choice, weights)
            table.add_row(f"{price:g}", name, f"{accuracy:.3f}", f"{calls:.2f}")
        print(price, one, by_domain, flush=True)
        table.add_section()
    report_console().print(table)


def mean_of(matrix: Matrix, choice: Mapping[Kind, str], weights: Mapping[Kind, float]) -> tuple[float, float]:
    """Accuracy and calls per problem of a choice of workflows."""
    total = sum(weights.values())
    cells = [(weights[kind] / total, matrix[kind][name]) for kind, name in choice.items()]
    accuracy = sum(share * sum(cell.right) / len(cell.right) for share, cell in cells)
    return accuracy, sum(share * sum(cell.calls) / len(cell.calls) for share, cell in cells)


if __name__ == "__main__":
    main()
