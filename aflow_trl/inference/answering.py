"""Answers of workflows to questions: fixed workflows, or those that a policy composes."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..answers import vote_key
from ..data import load_questions
from ..engine import Engine, Outcome, RolloutRequest, Trace
from ..operators import Problem

CHUNK_QUESTIONS = 32
"""Number of questions of a file that are answered at once."""


@dataclass(frozen=True, slots=True)
class Question:
    """A problem without a gold answer."""

    id: str
    problem: Problem


@dataclass(frozen=True, slots=True)
class Answered:
    """Result of one question."""

    question: Question
    traces: Sequence[Trace]
    """One for each workflow that was run."""
    best: Trace
    """The first trace with the majority answer."""

    @property
    def answer(self) -> str:
        """The final answer; empty if every workflow failed."""
        return self.best.answer

    def _repr_markdown_(self) -> str:
        """What a notebook shows."""
        usd = "unknown" if self.usd is None else f"{self.usd:.4f}"
        answer = self.answer if self.best.outcome is Outcome.OK else f"({self.best.outcome.value}: {self.best.detail})"
        return f"**{answer}**\n\n`{self.best.workflow}` · {self.model_calls} model calls · {usd} USD"

    @property
    def agreeing(self) -> int:
        """Number of successful workflows with the majority answer."""
        domain = self.question.problem.domain
        key = vote_key(self.best.answer, domain)
        return sum(vote_key(trace.answer, domain) == key for trace in self.traces if trace.outcome is Outcome.OK)

    @property
    def model_calls(self) -> int:
        """Model calls of all workflows."""
        return sum(trace.model_calls for trace in self.traces)

    @property
    def tokens(self) -> int:
        """Tokens of all workflows."""
        return sum(trace.tokens for trace in self.traces)

    @property
    def usd(self) -> float | None:
        """USD of all workflows; `None` if a price is unknown."""
        costs = [trace.usd for trace in self.traces]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    def to_json(self) -> dict[str, Any]:
        """Plain data: the answer, the workflow that gave it, and the cost of all workflows."""
        return {
            "id": self.question.id,
            "question": self.question.problem.question,
            "answer": self.best.answer,
            "outcome": self.best.outcome.value,
            "detail": self.best.detail,
            "workflow": self.best.workflow,
            "workflows": [trace.workflow for trace in self.traces],
            "model_calls": self.model_calls,
            "tokens": self.tokens,
            "usd": self.usd,
        }


def read_questions(path: Path) -> list[Question]:
    """Questions of a JSONL file in the row schema; no gold answer is needed."""
    return [
        Question(row.id, Problem(row.question, row.domain, row.context, row.entry_point or None, row.public_tests))
        for row in load_questions(path)
    ]


async def answer_questions(
    engine: Engine, questions: Sequence[Question], workflows: Sequence[Sequence[str]], *, salt: str
) -> AsyncIterator[Answered]:
    """
    Run the workflows of each question, a chunk of questions at a time.

    Args:
        engine ([`~aflow_trl.engine.Engine`]):
            Engine.
        questions (`Sequence[Question]`):
            Questions.
        workflows (`Sequence[Sequence[str]]`):
            Completions or bare workflows for each of them.
        salt (`str`):
            Sets the executor's randomness.

    Yields:
        [`Answered`]: In order.

    Raises:
        [`FatalEndpointError`]: The executor can serve no further call.
    """
    for start in range(0, len(questions), CHUNK_QUESTIONS):
        chunk = list(zip(questions, workflows, strict=True))[start : start + CHUNK_QUESTIONS]
        requests = [RolloutRequest(text, question.problem) for question, texts in chunk for text in texts]
        traces = iter(await engine.run(requests, salt=salt))
        if engine.fatal is not None:
            raise engine.fatal
        for question, texts in chunk:
            of_question = [next(traces) for _ in texts]
            yield Answered(question, of_question, majority(of_question, question.problem.domain))


def majority(traces: Sequence[Trace], domain: str) -> Trace:
    """The first trace whose answer most of the successful ones agree on; the first of all if none succeeded."""
    successful = [trace for trace in traces if trace.outcome is Outcome.OK] or list(traces)
    keys = [vote_key(trace.answer, domain) for trace in successful]
    counts = Counter(keys)
    return max(zip(successful, keys, strict=True), key=lambda pair: counts[pair[1]])[0]
