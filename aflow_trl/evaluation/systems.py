"""
Results of systems (policies, fixed workflows) on problems.

They are written to disk as they come, so that an interrupted evaluation continues where it stopped.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..data import Row
from ..errors import FatalEndpointError, ScorerError
from ..rollouts import Rollouts, ScoredRollout
from ..scoring import AFLOW_BENCHMARKS, AflowVariant, score_aflow
from ..storage import JsonLines

CHUNK_PROBLEMS = 64
"""Number of problems that are executed and written to disk together: what an interruption can lose."""
AFLOW_BENCHMARK = {"math": "gsm8k", "code": "humaneval", "qa": "hotpotqa"}
"""Benchmark whose AFlow metric is used for a row of another source, by domain."""


@dataclass(frozen=True, slots=True)
class Result:
    """Result of one system on one problem with one seed."""

    correct: float | None
    """1 or 0 by the strict scorer; `None` if the infrastructure failed."""
    aflow: float | None
    """AFlow's metric in [0, 1] as published; `None` if it could not be computed."""
    aflow_fair: float | None
    """AFlow's metric in [0, 1], reading LaTeX; `None` if it could not be computed."""
    valid: bool
    """Whether the completion holds a valid workflow."""
    calls: int
    """Model calls used, shared ones included."""
    tokens: int
    """Prompt and completion tokens used."""
    usd: float | None
    """`None` if a price is unknown."""
    seconds: float
    """Wall time of the workflow."""
    workflow: str
    """Canonical workflow; empty if there is none."""
    answer: str
    outcome: str

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


Results = list[list[Result]]
"""Results by problem, then by seed."""


class SystemEvaluator:
    """
    Runs systems on problems. Results of an earlier evaluation are read from disk.

    Args:
        rollouts ([`~aflow_trl.rollouts.Rollouts`]):
            Engine and scoring.
        rows (`Sequence[Row]`):
            Problems.
        folder (`Path`):
            Folder of the results: one file for each system and seed.
        seeds (`Sequence[int]`):
            Seeds of the repetitions, which have different executor randomness.
        on_progress (`Callable[[str, int, int], None]`):
            Called with the name and seed of a system, its number of finished problems and the number of all.
    """

    def __init__(
        self,
        rollouts: Rollouts,
        rows: Sequence[Row],
        folder: Path,
        seeds: Sequence[int],
        on_progress: Callable[[str, int, int], None],
    ) -> None:
        self.rollouts, self.rows, self.folder, self.seeds = rollouts, rows, folder, seeds
        self.on_progress = on_progress

    async def run(self, name: str, workflows: Callable[[int], Sequence[str]]) -> Results:
        """
        Run one system on all problems and seeds.

        Args:
            name (`str`):
                Name of the system.
            workflows (`Callable[[int], Sequence[str]]`):
                Function from a seed to a workflow or completion for each problem.

        Returns:
            `list[list[Result]]`: Results by problem and seed.

        Raises:
            [`FatalEndpointError`]: The executor can serve no further call; finished results are kept.
        """
        by_seed = [await self._run_seed(name, seed, workflows) for seed in self.seeds]
        return [list(results) for results in zip(*by_seed, strict=True)]

    async def _run_seed(self, name: str, seed: int, workflows: Callable[[int], Sequence[str]]) -> list[Result]:
        file = JsonLines(self.folder / f"{_file_name(name)}-seed{seed}.jsonl")
        finished = _read_results(file)
        missing = [index for index, row in enumerate(self.rows) if problem_key(row) not in finished]
        label, total = f"{name}, seed {seed}", len(self.rows)
        self.on_progress(label, total - len(missing), total)
        # A policy is sampled only where results are missing, because sampling is expensive.
        texts = workflows(seed) if missing else []
        for start in range(0, len(missing), CHUNK_PROBLEMS):
            chunk = missing[start : start + CHUNK_PROBLEMS]
            scored = await self.rollouts.execute(
                [texts[index] for index in chunk],
                [self.rows[index].columns() for index in chunk],
                # The same for all systems, so that they meet the same executor randomness.
                salt=f"{seed} evaluation",
                phase=name,
                step=0,
            )
            if self.rollouts.engine.fatal is not None:
                raise FatalEndpointError(
                    f"{self.rollouts.engine.fatal} Finished results are kept; start the command again to continue."
                )
            results = await asyncio.gather(
                *(_result(rollout, self.rows[index]) for rollout, index in zip(scored, chunk, strict=True))
            )
            by_key = {problem_key(self.rows[index]): result for index, result in zip(chunk, results, strict=True)}
            file.append([{"key": key, **result.to_json()} for key, result in by_key.items()])
            finished |= by_key
            self.on_progress(label, total - len(missing) + start + len(chunk), total)
        return [finished[problem_key(row)] for row in self.rows]


async def _result(rollout: ScoredRollout, row: Row) -> Result:
    trace = rollout.trace
    # What was not executed for the policy's fault is wrong by any metric; what was not scored is unscored.
    published = fair = 0.0 if rollout.correctness is not None else None
    if rollout.score is not None and rollout.correctness is not None:
        published = await _aflow(trace.answer, row, "published")
        # Pass@1 is the same in both.
        fair = published if row.domain == "code" else await _aflow(trace.answer, row, "fair")
    return Result(
        correct=None if rollout.correctness is None else float(rollout.correct),
        aflow=published,
        aflow_fair=fair,
        valid=trace.workflow is not None,
        calls=trace.model_calls,
        tokens=trace.tokens,
        usd=trace.usd,
        seconds=trace.wall_s,
        workflow=trace.workflow or "",
        answer=trace.answer,
        outcome=trace.outcome.value,
    )


async def _aflow(answer: str, row: Row, variant: AflowVariant) -> float | None:
    if row.source not in AFLOW_BENCHMARKS and row.domain not in AFLOW_BENCHMARK:
        return None
    benchmark = row.source if row.source in AFLOW_BENCHMARKS else AFLOW_BENCHMARK[row.domain]
    try:
        score = await score_aflow(
            answer,
            benchmark=benchmark,
            golds=row.answer,
            hidden_tests=row.hidden_tests,
            entry_point=row.entry_point or None,
            question=row.question,
            variant=variant,
        )
    except ScorerError:
        # The metric is shown beside the strict score, which stands without it.
        return None
    return score.value


def problem_key(row: Row) -> str:
    """Digest of all fields of a problem: ids may repeat, and equal questions may have different tests."""
    text = json.dumps(row.columns(), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _file_name(name: str) -> str:
    """A digest: the name of a system is a workflow, with characters that a file name cannot have."""
    return hashlib.blake2b(name.encode(), digest_size=6).hexdigest()


def _read_results(file: JsonLines) -> dict[str, Result]:
    """Results of an earlier evaluation by problem, without the unscored ones, which are run again."""
    finished: dict[str, Result] = {}
    for fields in file.repair():
        key = fields.pop("key")
        if fields["correct"] is not None:
            finished[key] = Result(**fields)
    return finished
