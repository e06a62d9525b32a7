"""Executes and scores a batch of completions once, for all reward functions together."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from ..engine import Engine, Outcome, RolloutRequest, Trace
from ..operators import Problem
from ..scoring import LLMJudge, Score, quantize, score_answer
from ..storage import TraceFile
from .ledger import Ledger
from .metrics import batch_columns, batch_metrics
from .types import ScoredRollout

logger = logging.getLogger(__name__)

COLUMNS = (
    *("question", "answer", "domain", "entry_point", "public_tests", "hidden_tests", "weak_verdict", "context"),
    *("id", "source", "difficulty"),
)
"""Dataset columns that are read; all but the first two may be missing."""


class Rollouts:
    """
    The execution that all reward functions of a trainer share.

    Args:
        engine ([`~aflow_trl.engine.Engine`]):
            Engine that runs the workflows.
        seed (`int`, *optional*, defaults to `0`):
            Part of the salt: sets one run's executor randomness apart from another's.
        quantize_correctness (`bool`, *optional*, defaults to `False`):
            Whether correctness takes one of the five levels 0, 0.2, 0.4, 0.7, 1.0.
        gate_secondary (`bool`, *optional*, defaults to `True`):
            Whether the secondary rewards count only where the answer is right.
        judge ([`~aflow_trl.scoring.LLMJudge`], *optional*):
            Model that scores answers instead of the rules.
        judge_domains (`Collection[str]`, *optional*, defaults to `()`):
            Domains it scores.
        trace_path (`str` or `Path`, *optional*):
            JSON-lines file every trace is appended to, compressed if it ends in `.gz`.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        seed: int = 0,
        quantize_correctness: bool = False,
        gate_secondary: bool = True,
        judge: LLMJudge | None = None,
        judge_domains: Collection[str] = (),
        trace_path: str | Path | None = None,
    ) -> None:
        self.engine = engine
        self.seed = seed
        self.quantize_correctness = quantize_correctness
        self.gate_secondary = gate_secondary
        self.judge, self.judge_domains = judge, judge_domains
        self.trace_path = Path(trace_path) if trace_path else None
        self.totals = {"model_calls": 0, "rollouts": 0, "unscored": 0}
        self.ledger = Ledger()
        """What this process paid for."""
        self.last_batch = (0, 0)
        """Unscored rollouts of the latest training batch, and all of it, in this process."""
        self.batches = 0
        """Training batches so far."""
        self._batch: tuple[object, asyncio.Task[list[ScoredRollout]]] | None = None

    async def get(self, completions: Sequence[Any], columns: dict[str, Any]) -> list[ScoredRollout]:
        """
        Scored rollouts of a batch, executed at the first call and shared by the others.

        Args:
            completions (`Sequence`):
                Completions as TRL hands them to reward functions: one and the same object for all of them.
            columns (`dict[str, Any]`):
                The other keyword arguments of a TRL reward function.

        Returns:
            `list[ScoredRollout]`: One for each completion, in order.
        """
        if self._batch is None or self._batch[0] is not completions:
            self._batch = (completions, asyncio.ensure_future(self._execute(completions, columns)))
        return await self._batch[1]

    async def _execute(self, completions: Sequence[Any], columns: dict[str, Any]) -> list[ScoredRollout]:
        state = columns.get("trainer_state")
        step = state.global_step if state is not None else self.batches
        rows = _rows(columns, len(completions))
        loop = asyncio.get_running_loop()
        started = loop.time()
        texts = [completion_text(completion) for completion in completions]
        rollouts = await self.execute(texts, rows, salt=f"{self.seed} {step}", phase="train", step=step)
        self.last_batch = (sum(rollout.correctness is None for rollout in rollouts), len(rollouts))
        self.batches += 1
        self._report(rollouts, columns, loop.time() - started)
        return rollouts

    async def execute(
        self, texts: Sequence[str], rows: Sequence[dict[str, Any]], *, salt: str, phase: str, step: int
    ) -> list[ScoredRollout]:
        """
        Run one completion a row, score it and account for it.

        Args:
            texts (`Sequence[str]`):
                Completions, or bare workflows.
            rows (`Sequence[dict[str, Any]]`):
                Rows of the schema, as columns.
            salt (`str`):
                Sets the executor's randomness apart from other batches'.
            phase (`str`):
                What the batch is for; stands in its traces.
            step (`int`):
                Optimiser step; stands in its traces.

        Returns:
            `list[ScoredRollout]`: In order.
        """
        requests = [
            RolloutRequest(text, _problem(row), group)
            for text, row, group in zip(texts, rows, _groups(rows), strict=True)
        ]
        # Equal answers to one problem are scored once; a rollout is scored as soon as it has ended.
        scores: dict[tuple[str, str], asyncio.Task[Score]] = {}
        scoring: dict[int, asyncio.Task[ScoredRollout]] = {}

        def score(index: int, trace: Trace) -> None:
            scoring[index] = asyncio.ensure_future(self._score(trace, rows[index], scores))

        await self.engine.run(requests, salt=salt, on_trace=score)
        rollouts = list(await asyncio.gather(*(scoring[index] for index in range(len(requests)))))
        self._account(rollouts, phase, step)
        return rollouts

    async def _score(
        self, trace: Trace, row: dict[str, Any], scores: dict[tuple[str, str], asyncio.Task[Score]]
    ) -> ScoredRollout:
        def score(answer: str) -> asyncio.Task[Score]:
            key = (_gold_key(row), answer)
            if key not in scores:
                scores[key] = asyncio.ensure_future(self._grade(answer, row))
            return scores[key]

        final = first = None
        correctness: float | None = 0.0
        if trace.outcome is Outcome.OK:
            try:
                final = await score(trace.answer)
                correctness = quantize(final) if self.quantize_correctness else final.value
            except Exception as error:  # whatever breaks in a scorer, the rollout is unscored and the batch goes on
                logger.error("an answer could not be scored: %s: %s", type(error).__name__, error)
                self.engine.note_fatal(error)
                trace.outcome, trace.label, trace.detail = Outcome.UNAVAILABLE, type(error).__name__, str(error)
            try:
                first = await score(trace.first_answer)
            except Exception as error:  # only tells how much later steps improved
                logger.warning("a first answer could not be scored: %s: %s", type(error).__name__, error)
        if trace.outcome is Outcome.UNAVAILABLE:
            final = first = correctness = None
        metadata = {key: row.get(key) for key in ("id", "source", "difficulty")}
        return ScoredRollout(trace, row["domain"], final, first, correctness, _problem_key(row), metadata)

    async def _grade(self, answer: str, row: dict[str, Any]) -> Score:
        if self.judge is not None and row["domain"] in self.judge_domains:
            asked = "\n\n".join(filter(None, (row.get("context"), row["question"])))
            source = row.get("source") or ""
            return await self.judge.score(answer, question=asked, golds=row["answer"], source=source)
        return await score_answer(
            answer,
            domain=row["domain"],
            golds=row["answer"],
            hidden_tests=row.get("hidden_tests") or (),
            entry_point=row.get("entry_point"),
            weak_verdict=bool(row.get("weak_verdict")),
        )

    def count(self, rollouts: Sequence[ScoredRollout]) -> None:
        """Add rollouts to the accounts: those just made, or those of an earlier launch."""
        self.ledger.record(rollouts)
        self.totals["model_calls"] += sum(rollout.trace.paid_calls for rollout in rollouts)
        self.totals["rollouts"] += len(rollouts)
        self.totals["unscored"] += sum(rollout.correctness is None for rollout in rollouts)

    def _account(self, rollouts: Sequence[ScoredRollout], phase: str, step: int) -> None:
        self.count(rollouts)
        if self.trace_path is not None:
            place = {"phase": phase, "step": step, "batch": self.batches}
            TraceFile(self.trace_path).append([place | rollout.to_json() for rollout in rollouts])

    def _report(self, rollouts: Sequence[ScoredRollout], columns: dict[str, Any], wall_s: float) -> None:
        if (log_extra := columns.get("log_extra")) is not None:
            for name, values in batch_columns(rollouts).items():
                log_extra(name, values)
        if (log_metric := columns.get("log_metric")) is not None:
            for name, value in batch_metrics(rollouts, wall_s).items():
                log_metric(name, value)


def _rows(columns: dict[str, Any], count: int) -> list[dict[str, Any]]:
    for name in ("question", "answer"):
        if name not in columns:
            raise KeyError(f"the dataset has no column {name!r}; workflow rewards need 'question' and 'answer'.")
    rows = [{name: columns[name][index] for name in COLUMNS if name in columns} for index in range(count)]
    for row in rows:
        answer = row["answer"] if isinstance(row["answer"], list | tuple) else [row["answer"]]
        row["answer"] = [str(alias) for alias in answer if alias is not None]
        row.setdefault("domain", "code" if row.get("hidden_tests") else "math")
    return rows


def _problem(row: dict[str, Any]) -> Problem:
    """What the executor may know: never the answer, never a hidden test."""
    return Problem(
        question=row["question"],
        domain=row["domain"],
        context=row.get("context") or "",
        entry_point=row.get("entry_point") or None,
        public_tests=tuple(row.get("public_tests") or ()),
    )


def _groups(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A name for each run of rows of one problem: TRL puts the completions of a prompt side by side."""
    keys = [_problem_key(row) for row in rows]
    changes = itertools.accumulate(int(index > 0 and keys[index - 1] != key) for index, key in enumerate(keys))
    return [str(number) for number in changes]


def _problem_key(row: dict[str, Any]) -> str:
    return f"{row.get('context') or ''}\n{row['question']}"


def _gold_key(row: dict[str, Any]) -> str:
    """What an answer is scored with: two rows may ask the same and want different things."""
    return repr([row.get(name) for name in COLUMNS if name not in ("id", "difficulty", "public_tests")])


def completion_text(completion: Any) -> str:
    """Text of a completion, plain or conversational."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])
