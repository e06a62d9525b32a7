"""
A batch of rollouts on its way to the trainer: typed once, then columns that TRL gathers over the processes.

[`RolloutBatch`] holds the rollouts of one process with their traces. [`RolloutRow`] is the part of a rollout that the
advantage step and the metrics need from *all* processes; it travels as columns named `rollout/…`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from ..engine import Outcome
from .types import ScoredRollout

PREFIX = "rollout/"
"""Namespace of our columns: a dataset or another reward function may well have a column `answer` or `progress`."""
PROGRESS_COLUMN = f"{PREFIX}progress"
"""Column that breaks ties among completions that are not right; any reward function may log it."""
DOMAIN_COLUMN = f"{PREFIX}domain"
"""Column that groups completions into tasks, for `advantage_scale: task`."""


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """What the completions table and the metrics show of one rollout."""

    workflow: str
    """Canonical workflow; empty if the completion holds none."""
    outcome: str
    invalid_label: str
    """Label of the DSL error of an invalid workflow; empty otherwise."""
    answer: str
    score: float | None
    """Correctness in [0, 1]; `None` if unscored."""
    model_calls: int
    usd: float | None
    progress: float
    executed: float
    """Share of operator runs that did not fail."""
    revise_gain: float
    """Score of the final answer minus score of the first candidate."""
    domain: str
    repaired: bool
    operators: list[str]
    """Distinct operators of the workflow, sorted."""
    budget: str = ""
    """Budget of the problem; empty where there are none."""


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """Scored rollouts of one training step in one process."""

    rollouts: tuple[ScoredRollout, ...]
    step: int
    """Optimiser step the batch belongs to."""
    wall_s: float
    """Seconds that execution and scoring took."""
    concurrency: int
    """Model calls that could be in flight at once."""

    @property
    def rows(self) -> list[RolloutRow]:
        """One row for each rollout, in order."""
        return [rollout_row(rollout) for rollout in self.rollouts]

    @property
    def unscored(self) -> int:
        """Number of rollouts that could not be scored."""
        return sum(rollout.correctness is None for rollout in self.rollouts)

    @property
    def lost(self) -> int:
        """Number of rollouts that say nothing about their workflows."""
        return sum(rollout.lost for rollout in self.rollouts)


def rollout_row(rollout: ScoredRollout) -> RolloutRow:
    """Row of one rollout."""
    trace = rollout.trace
    return RolloutRow(
        workflow=trace.workflow or "",
        outcome=trace.outcome.value,
        invalid_label=trace.label if trace.outcome is Outcome.INVALID else "",
        answer=trace.answer,
        score=rollout.correctness,
        model_calls=trace.model_calls,
        usd=trace.usd,
        progress=rollout.progress,
        executed=rollout.executed,
        revise_gain=rollout.revise_gain,
        domain=rollout.domain,
        repaired=bool(trace.workflow and trace.repairs),
        operators=sorted(set(trace.operators)),
        budget=rollout.metadata.get("budget") or "",
    )


def to_columns(rows: Sequence[RolloutRow]) -> dict[str, list[object]]:
    """Rows as columns for TRL's `log_extra`, which gathers them from all processes."""
    return {f"{PREFIX}{field.name}": [getattr(row, field.name) for row in rows] for field in fields(RolloutRow)}


def from_columns(columns: Mapping[str, Sequence[object]]) -> list[RolloutRow] | None:
    """
    Rows of gathered columns.

    Args:
        columns (`Mapping[str, Sequence]`):
            Columns of all processes, by name; others than ours are ignored.

    Returns:
        `list[RolloutRow]`, *optional*: One for each completion; `None` if one of our columns is missing, as it is
        where the reward functions execute no workflows.
    """
    names = [field.name for field in fields(RolloutRow)]
    if not all(f"{PREFIX}{name}" in columns for name in names):
        return None
    by_row = zip(*(columns[f"{PREFIX}{name}"] for name in names), strict=True)
    return [RolloutRow(**dict(zip(names, cells, strict=True))) for cells in by_row]
