"""Results of systems on problems, kept on disk as they come: an evaluation that was ended goes on."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import Row
from ..errors import FatalEndpointError, ScorerError
from ..rollouts import Rollouts, ScoredRollout
from ..scoring import AFLOW_BENCHMARKS, score_aflow

AT_ONCE = 64
"""Problems of one system that are executed at once, and kept on disk together."""
AFLOW_BENCHMARK = {"math": "gsm8k", "code": "humaneval", "qa": "hotpotqa"}
"""AFlow's metric for rows of other sources, by domain."""


@dataclass(frozen=True, slots=True)
class Result:
    """One problem with one system and one seed."""

    correct: float | None
    """Strict scorer: 1 or 0; `None` if infrastructure failed."""
    aflow: float | None
    """AFlow's metric."""
    valid: bool
    calls: int
    tokens: int
    usd: float | None
    seconds: float
    workflow: str
    answer: str
    outcome: str

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {name: getattr(self, name) for name in self.__slots__}


Results = list[list[Result]]
"""By problem, by seed."""


class Evaluation:
    """
    Runs systems on rows. What was run before is read from disk.

    Args:
        rollouts ([`~aflow_trl.rewards.Rollouts`]):
            Engine and scoring.
        rows (`Sequence[Row]`):
            Problems.
        folder (`Path`):
            Where results are kept, a file a system.
        seeds (`Sequence[int]`):
            Repetitions; each has its own executor randomness.
        progress (`Callable[[str, int, int], None]`):
            Told of name, problems done, and all of them.
    """

    def __init__(
        self,
        rollouts: Rollouts,
        rows: Sequence[Row],
        folder: Path,
        seeds: Sequence[int],
        progress: Callable[[str, int, int], None],
    ) -> None:
        self.rollouts, self.rows, self.folder, self.seeds, self.progress = rollouts, rows, folder, seeds, progress

    async def run(self, name: str, workflows: Callable[[int], Sequence[str]]) -> Results:
        """
        Results of one system.

        Args:
            name (`str`):
                System; names its file.
            workflows (`Callable[[int], Sequence[str]]`):
                Workflow or completion for each problem, by seed.

        Returns:
            `list[list[Result]]`: By problem, by seed.

        Raises:
            [`FatalEndpointError`]: The executor can serve no further call; what was done is kept.
        """
        by_seed = [await self._one_seed(name, seed, workflows) for seed in self.seeds]
        return [list(own) for own in zip(*by_seed, strict=True)]

    async def _one_seed(self, name: str, seed: int, workflows: Callable[[int], Sequence[str]]) -> list[Result]:
        path = self.folder / f"{_file_name(name)}-seed{seed}.jsonl"
        texts: Sequence[str] | None = None
        known = _read(path)
        missing = [index for index, row in enumerate(self.rows) if problem_key(row) not in known]
        self.progress(f"{name}, seed {seed}", len(self.rows) - len(missing), len(self.rows))
        for start in range(0, len(missing), AT_ONCE):
            texts = workflows(seed) if texts is None else texts
            part = missing[start : start + AT_ONCE]
            scored = await self.rollouts.execute(
                [texts[index] for index in part],
                [self.rows[index].columns() for index in part],
                salt=f"{seed} evaluation",
                phase=name,
                step=0,
            )
            if self.rollouts.engine.fatal is not None:
                raise FatalEndpointError(f"{self.rollouts.engine.fatal} What was done is kept; start again to go on.")
            results = await asyncio.gather(
                *(_result(one, self.rows[index]) for one, index in zip(scored, part, strict=True))
            )
            # An unscored problem is tried again when the command is given again.
            done = {problem_key(self.rows[index]): one for index, one in zip(part, results, strict=True)}
            _append(path, [{"key": key, **one.to_json()} for key, one in done.items()])
            known |= done
            self.progress(f"{name}, seed {seed}", len(self.rows) - len(missing) + start + len(part), len(self.rows))
        return [known[problem_key(row)] for row in self.rows]


async def _result(one: ScoredRollout, row: Row) -> Result:
    trace = one.trace
    aflow: float | None = 0.0 if one.correctness is not None else None
    if one.score is not None and one.correctness is not None:
        try:
            benchmark = row.source if row.source in AFLOW_BENCHMARKS else AFLOW_BENCHMARK[row.domain]
            score = await score_aflow(
                trace.answer,
                benchmark=benchmark,
                golds=row.answer,
                hidden_tests=row.hidden_tests,
                entry_point=row.entry_point or None,
            )
            aflow = score.value
        except ScorerError:
            aflow = None
    return Result(
        correct=None if one.correctness is None else float(one.correct),
        aflow=aflow,
        valid=trace.workflow is not None,
        calls=trace.model_calls,
        tokens=trace.tokens,
        usd=trace.usd,
        seconds=trace.wall_s,
        workflow=trace.workflow or "",
        answer=trace.answer,
        outcome=trace.outcome.value,
    )


def problem_key(row: Row) -> str:
    """What names a problem on disk: all of it, for ids may repeat and one question may come with different tests."""
    text = json.dumps(row.columns(), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _file_name(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=6).hexdigest()


def _append(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))


def _read(path: Path) -> dict[str, Result]:
    """Results of an earlier run by problem; a line that was cut off and what was unscored are left out."""
    known: dict[str, Result] = {}
    if not path.is_file():
        return known
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        key = fields.pop("key")
        if fields["correct"] is not None:
            known[key] = Result(**fields)
    return known
