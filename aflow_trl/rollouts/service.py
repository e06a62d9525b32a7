"""Executes and scores completions: once for a batch, whatever number of reward functions read it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeAlias

from ..data import holds_tests
from ..engine import Engine, Outcome, RolloutRequest, Trace
from ..errors import DataError
from ..operators import Problem
from ..scoring import LLMJudge, Score, domain_remedy, known_domains, quantize, score_answer
from ..storage import PROGRESS, TraceFile
from .batch import RolloutBatch, to_columns
from .ledger import Ledger
from .metrics import execution_metrics, workflow_metrics
from .types import ScoredRollout

logger = logging.getLogger(__name__)

RowColumns: TypeAlias = Mapping[str, Any]
"""A row of the schema as TRL hands it over: column name → value."""
COLUMNS = (
    *("question", "answer", "domain", "entry_point", "public_tests", "hidden_tests", "weak_verdict", "context"),
    *("id", "source", "difficulty", "budget"),
)
"""Dataset columns that are read; all but the first two may be missing."""
TRAIN, EVAL, PROBE = "train", "eval", "probe"
"""Phases of a training run, as traces name them."""
_PHASE: ContextVar[str] = ContextVar("phase", default=TRAIN)


@contextmanager
def in_phase(name: str) -> Iterator[None]:
    """
    The phase of the batches whose reward functions are called in this block.

    Their tasks keep it: a training batch may still be at work when an evaluation begins.
    """
    token = _PHASE.set(name)
    try:
        yield
    finally:
        _PHASE.reset(token)


class Rollouts:
    """
    The execution that all reward functions of a trainer share.

    Args:
        engine ([`~aflow_trl.engine.Engine`]):
            Engine that runs the workflows.
        seed (`int`, *optional*, defaults to `0`):
            Part of the salt: sets the executor's randomness of one run apart from another's.
        quantize_correctness (`bool`, *optional*, defaults to `False`):
            Whether correctness takes one of the five levels 0, 0.2, 0.4, 0.7, 1.0.
        gate_secondary (`bool`, *optional*, defaults to `True`):
            Whether the secondary rewards count only where the answer is right.
        judge ([`~aflow_trl.scoring.LLMJudge`], *optional*):
            Model that scores answers instead of the rules.
        judge_domains (`Collection[str]`, *optional*, defaults to `()`):
            Domains that the judge scores.
        trace_path (`str` or `Path`, *optional*):
            JSON Lines file that every trace is appended to, compressed if it ends in `.gz`. If `None`,
            [`~aflow_trl.WorkflowGRPOTrainer`] sets it to a file in its `output_dir`.
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
        self.logs_workflow_metrics = True
        """
        Whether a batch logs its own workflow metrics, which TRL averages over the processes. `WorkflowGRPOTrainer`
        turns this off and computes them over the gathered batch.
        """
        self.totals = {"model_calls": 0, "rollouts": 0, "unscored": 0}
        self.ledger = Ledger()
        """What this process has paid for."""
        self.counts: dict[int, tuple[int, int]] = {}
        """Unscored rollouts of the training batch of a step, and its size, in this process."""
        self.batches = 0
        """Number of training batches that were begun."""
        self._at_work: dict[int, tuple[int, int]] = {}
        """Workflows done of each batch that is executed now, and their number."""
        self._pending: tuple[object, asyncio.Task[RolloutBatch]] | None = None
        self._traces: TraceFile | None = None

    @property
    def has_recorded(self) -> bool:
        """Whether traces of this service are in the trace file."""
        return self._traces is not None and self._traces.path == self.trace_path

    async def batch(self, completions: Sequence[Any], columns: Mapping[str, Any]) -> RolloutBatch:
        """
        The scored batch of some completions, executed at the first call and shared by all reward functions.

        Args:
            completions (`Sequence`):
                Completions as TRL hands them to reward functions: the same object for all of them.
            columns (`Mapping[str, Any]`):
                The other keyword arguments of a TRL reward function.

        Returns:
            [`RolloutBatch`]: One rollout for each completion, in order.
        """
        if self._pending is None or self._pending[0] is not completions:
            self._pending = (completions, asyncio.ensure_future(self._execute_batch(completions, columns)))
        return await self._pending[1]

    async def _execute_batch(self, completions: Sequence[Any], columns: Mapping[str, Any]) -> RolloutBatch:
        state = columns.get("trainer_state")
        step = state.global_step if state is not None else self.batches
        rows = _rows(columns, len(completions))
        loop = asyncio.get_running_loop()
        started = loop.time()
        texts = [completion_text(completion) for completion in completions]
        # An evaluation draws executor randomness that no training step has seen.
        name = _PHASE.get()
        salt = f"{self.seed} {step}" if name == TRAIN else f"{self.seed} {name} {step}"
        rollouts = await self.execute(texts, rows, salt=salt, phase=name, step=step, batch=self.begin_batch())
        batch = RolloutBatch(tuple(rollouts), step, loop.time() - started, self.engine.concurrency)
        self.count_batch(step, batch.lost, len(rollouts))
        self._log(batch, columns)
        return batch

    def begin_batch(self) -> int:
        """The number of a batch in the traces. Evaluations do not count, for they say nothing about training steps."""
        number = self.batches
        self.batches += _PHASE.get() == TRAIN
        return number

    def count_batch(self, step: int, lost: int, total: int) -> None:
        """Note the size of the training batch of a step."""
        if _PHASE.get() == TRAIN:
            self.counts[step] = (lost, total)

    async def execute(
        self,
        texts: Sequence[str],
        rows: Sequence[RowColumns],
        *,
        salt: str,
        phase: str,
        step: int,
        batch: int | None = None,
    ) -> list[ScoredRollout]:
        """
        Run one completion for each row, score it and account for it.

        Args:
            texts (`Sequence[str]`):
                Completions, or bare workflows.
            rows (`Sequence[Mapping[str, Any]]`):
                Rows of the schema, as columns.
            salt (`str`):
                Sets the executor's randomness apart from that of other batches.
            phase (`str`):
                What the batch is for; part of its traces.
            step (`int`):
                Optimiser step; part of its traces.
            batch (`int`, *optional*):
                Number of the batch; part of its traces. Defaults to that of the next training batch.

        Returns:
            `list[ScoredRollout]`: In order.
        """
        requests = [
            RolloutRequest(text, _problem(row), group)
            for text, row, group in zip(texts, rows, _groups(rows), strict=True)
        ]
        # Equal answers to one problem are scored once; a rollout is scored as soon as it has finished.
        scores: dict[tuple[str, str], asyncio.Task[Score]] = {}
        scoring: dict[int, asyncio.Task[ScoredRollout]] = {}

        def score(index: int, trace: Trace) -> None:
            scoring[index] = asyncio.ensure_future(self._score(trace, rows[index], scores))
            self._at_work[id(scoring)] = (len(scoring), len(requests))
            done, total = map(sum, zip(*self._at_work.values(), strict=True))
            PROGRESS.count("workflows", done, total)

        try:
            await self.engine.run(requests, salt=salt, on_trace=score)
            rollouts = list(await asyncio.gather(*(scoring[index] for index in range(len(requests)))))
        finally:
            self._at_work.pop(id(scoring), None)
        self.count(rollouts)
        if self.trace_path is not None:
            header = {"phase": phase, "step": step, "batch": self.batches if batch is None else batch}
            if self._traces is None or self._traces.path != self.trace_path:
                self._traces = TraceFile(self.trace_path)
            self._traces.append([header | rollout.to_json() for rollout in rollouts])
        return rollouts

    async def score_probe(
        self, texts: Sequence[str], rows: Sequence[RowColumns], *, seed: int, step: int
    ) -> dict[str, list[bool]]:
        """
        Whether completions of a fixed probe are valid workflows and lead to right answers.

        Args:
            texts (`Sequence[str]`):
                Completions, one for each row.
            rows (`Sequence[Mapping[str, Any]]`):
                Rows of the schema, as columns.
            seed (`int`):
                Sets the executor's randomness, which is the same for every probe.
            step (`int`):
                Optimiser step; part of the traces.

        Returns:
            `dict[str, list[bool]]`: `valid` for every completion, `accuracy` for those that were scored.

        Raises:
            [`FatalEndpointError`]: No later call can succeed.
        """
        rollouts = await self.execute(
            texts,
            _rows({name: [row.get(name) for row in rows] for name in COLUMNS}, len(rows)),
            salt=f"{seed} evaluation",
            phase=PROBE,
            step=step,
        )
        return {
            "valid": [rollout.trace.workflow is not None for rollout in rollouts],
            "accuracy": [rollout.correct for rollout in rollouts if rollout.correctness is not None],
        }

    async def _score(
        self, trace: Trace, row: RowColumns, scores: dict[tuple[str, str], asyncio.Task[Score]]
    ) -> ScoredRollout:
        def score(answer: str) -> asyncio.Task[Score]:
            key = (_gold_key(row), answer)
            if key not in scores:
                scores[key] = asyncio.ensure_future(self._grade(answer, row))
            return scores[key]

        started = time.monotonic()
        final = first = None
        correctness: float | None = 0.0
        if trace.outcome is Outcome.OK:
            try:
                final = await score(trace.answer)
                correctness = quantize(final) if self.quantize_correctness else final.value
            except Exception as error:  # whatever breaks in a scorer: the rollout is unscored and the batch continues
                logger.error("an answer could not be scored: %s: %s", type(error).__name__, error)
                self.engine.note_fatal(error)
                trace.outcome, trace.label, trace.detail = Outcome.UNAVAILABLE, type(error).__name__, str(error)
            try:
                first = await score(trace.first_answer)
            except Exception as error:  # it only measures how much later steps improved
                logger.warning("a first answer could not be scored: %s: %s", type(error).__name__, error)
        if trace.outcome is Outcome.UNAVAILABLE:
            final = first = correctness = None
        metadata = {key: row.get(key) for key in ("id", "source", "difficulty", "budget")}
        scoring_s = time.monotonic() - started
        return ScoredRollout(trace, row["domain"], final, first, correctness, _problem_key(row), metadata, scoring_s)

    async def _grade(self, answer: str, row: RowColumns) -> Score:
        if self.judge is not None and row["domain"] in self.judge_domains:
            question = "\n\n".join(filter(None, (row.get("context"), row["question"])))
            source = row.get("source") or ""
            return await self.judge.score(answer, question=question, golds=row["answer"], source=source)
        return await score_answer(
            answer,
            domain=row["domain"],
            golds=row["answer"],
            hidden_tests=row.get("hidden_tests") or (),
            entry_point=row.get("entry_point"),
            question=row.get("question") or "",
            weak_verdict=bool(row.get("weak_verdict")),
        )

    def count(self, rollouts: Sequence[ScoredRollout]) -> None:
        """Add rollouts to the accounts: those just executed, or those of an earlier launch of the run."""
        self.ledger.record(rollouts)
        self.totals["model_calls"] += sum(rollout.trace.paid_calls for rollout in rollouts)
        self.totals["rollouts"] += len(rollouts)
        self.totals["unscored"] += sum(rollout.correctness is None for rollout in rollouts)

    def _log(self, batch: RolloutBatch, columns: Mapping[str, Any]) -> None:
        """Hand columns and metrics to TRL, where it offers the hooks."""
        rows = batch.rows
        if (log_extra := columns.get("log_extra")) is not None:
            for name, values in to_columns(rows).items():
                log_extra(name, values)
        if (log_metric := columns.get("log_metric")) is not None:
            metrics = execution_metrics(batch)
            for name, value in (metrics | (workflow_metrics(rows) if self.logs_workflow_metrics else {})).items():
                log_metric(name, value)


def _rows(columns: Mapping[str, Any], count: int) -> list[RowColumns]:
    for name in ("question", "answer"):
        if name not in columns:
            raise DataError(f"the dataset has no column {name!r}. Rewards that execute workflows need it.")
    rows: list[RowColumns] = []
    for index in range(count):
        row = {name: columns[name][index] for name in COLUMNS if name in columns}
        answer = row["answer"] if isinstance(row["answer"], list | tuple) else [row["answer"]]
        row["answer"] = [str(alias) for alias in answer if alias is not None]
        if not row.get("domain"):
            row["domain"] = "code" if row.get("hidden_tests") or row.get("entry_point") else "math"
        if row["domain"] not in known_domains():
            raise DataError(f"the dataset has a row of the domain {row['domain']!r}. {domain_remedy()}")
        if row["domain"] == "code" and not row.get("hidden_tests") and holds_tests(row["answer"]):
            row["answer"], row["hidden_tests"] = [], row["answer"]
        rows.append(row)
    return rows


def _problem(row: RowColumns) -> Problem:
    """What the executor may see: never the answer, never a hidden test."""
    return Problem(
        question=row["question"],
        domain=row["domain"],
        context=row.get("context") or "",
        entry_point=row.get("entry_point") or None,
        public_tests=tuple(row.get("public_tests") or ()),
    )


def _groups(rows: Sequence[RowColumns]) -> list[str]:
    """A name for each run of rows of one problem: TRL puts the completions of a prompt side by side."""
    keys = [_problem_key(row) for row in rows]
    changes = itertools.accumulate(int(index > 0 and keys[index - 1] != key) for index, key in enumerate(keys))
    return [str(number) for number in changes]


def _problem_key(row: RowColumns) -> str:
    return f"{row.get('context') or ''}\n{row['question']}"


def _gold_key(row: RowColumns) -> str:
    """Everything an answer is scored with: two rows may ask the same question and expect different answers."""
    return repr([row.get(name) for name in COLUMNS if name not in ("id", "difficulty", "budget", "public_tests")])


def completion_text(completion: Any) -> str:
    """Text of a completion, plain or conversational."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])
