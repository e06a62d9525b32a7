"""Files that a training run leaves of its rollouts, and how they are read back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..storage import read_rows, trace_parts
from .types import ScoredRollout, read_rollout

REWARDS_FILE = "rewards.jsonl.gz"
"""Rewards and advantages of every training step, gathered from all processes."""


class RecordedRollout(NamedTuple):
    """A rollout as its trace recorded it."""

    phase: str
    step: int
    batch: int
    """Number of the training batch in its process: a step that was repeated after a kill has several."""
    rollout: ScoredRollout


def trace_name(process_index: int) -> str:
    """Name of the trace file of one process."""
    return f"traces.rank{process_index}.jsonl.gz" if process_index else "traces.jsonl.gz"


def read_traces(path: Path) -> Iterator[RecordedRollout]:
    """Rollouts of a trace file and its parts, in the order they were written."""
    for row in read_rows(path):
        yield RecordedRollout(row["phase"], row["step"], row["batch"], read_rollout(row))


def run_files(output_dir: Path) -> list[Path]:
    """Trace and reward files of all processes of a run, all parts included."""
    return [*sorted(output_dir.glob("traces*.jsonl*")), *trace_parts(output_dir / REWARDS_FILE)]
