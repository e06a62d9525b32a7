"""Answers of workflows to questions, one or a file of them: from a policy or from a fixed workflow."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..data import load_questions
from ..dsl import Vocabulary
from ..engine import Engine, Outcome, RolloutRequest, Trace
from ..errors import RecipeError
from ..operators import Problem, vote_key

AT_ONCE = 32
"""Questions of a file that are answered at once."""
SHOWN_CHARS = 300


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of one question."""

    problem: Problem
    id: str
    traces: Sequence[Trace]
    """One for each workflow that was tried."""
    best: Trace
    """The one whose answer most of them agree on; the first wins ties."""

    def to_json(self) -> dict[str, Any]:
        """Plain data: the answer, the workflow that gave it, and what all of them cost."""
        costs = [trace.usd for trace in self.traces]
        return {
            "id": self.id,
            "question": self.problem.question,
            "answer": self.best.answer,
            "outcome": self.best.outcome.value,
            "detail": self.best.detail,
            "workflow": self.best.workflow,
            "workflows": [trace.workflow for trace in self.traces],
            "model_calls": sum(trace.model_calls for trace in self.traces),
            "tokens": sum(trace.tokens for trace in self.traces),
            "usd": None if None in costs else sum(cost for cost in costs if cost is not None),
        }


def read_questions(path: Path) -> list[tuple[str, Problem]]:
    """Ids and problems of a JSONL file; a gold answer is not needed."""
    return [
        (row.id, Problem(row.question, row.domain, row.context, row.entry_point or None, row.public_tests))
        for row in load_questions(path)
    ]


async def answer(
    engine: Engine, questions: Sequence[tuple[str, Problem]], workflows: Sequence[Sequence[str]], *, salt: str
) -> list[Answered]:
    """
    Run the workflows of each question.

    Args:
        engine ([`~aflow_trl.engine.Engine`]):
            Engine.
        questions (`Sequence[tuple[str, Problem]]`):
            Ids and problems.
        workflows (`Sequence[Sequence[str]]`):
            Completions or bare workflows for each of them.
        salt (`str`):
            Sets the executor's randomness.

    Returns:
        `list[Answered]`: In order.

    Raises:
        [`FatalEndpointError`]: The executor can serve no further call.
    """
    requests = [
        RolloutRequest(text, problem) for (_, problem), own in zip(questions, workflows, strict=True) for text in own
    ]
    traces = iter(await engine.run(requests, salt=salt))
    if engine.fatal is not None:
        raise engine.fatal
    answered = []
    for (own_id, problem), own in zip(questions, workflows, strict=True):
        tried = [next(traces) for _ in own]
        answered.append(Answered(problem, own_id, tried, vote(tried, problem.domain)))
    return answered


def vote(traces: Sequence[Trace], domain: str) -> Trace:
    """The trace whose answer most of those that ended well agree on; the first wins ties."""
    good = [trace for trace in traces if trace.outcome is Outcome.OK] or list(traces)
    keys = [vote_key(trace.answer, domain) for trace in good]
    counts = Counter(keys)
    return max(zip(good, keys, strict=True), key=lambda pair: counts[pair[1]])[0]


def answer_file(
    engine: Engine,
    questions: Sequence[tuple[str, Problem]],
    workflows: Sequence[Sequence[str]],
    out: Path,
    *,
    salt: str,
    console: Console,
) -> list[Answered]:
    """Answer a file of questions with a progress bar; answers are written as they come."""
    answered: list[Answered] = []
    columns = (TextColumn("answering"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    out.parent.mkdir(parents=True, exist_ok=True)

    async def work(progress: Progress) -> None:
        task = progress.add_task("", total=len(questions))
        try:
            with out.open("w", encoding="utf-8") as file:
                for start in range(0, len(questions), AT_ONCE):
                    part = slice(start, start + AT_ONCE)
                    for one in await answer(engine, questions[part], workflows[part], salt=salt):
                        file.write(json.dumps(one.to_json(), ensure_ascii=False) + "\n")
                        answered.append(one)
                        progress.advance(task)
                    file.flush()
        finally:
            await engine.client.aclose()

    with Progress(*columns, console=console) as progress:
        asyncio.run(work(progress))
    return answered


def print_answer(one: Answered, console: Console, *, trace: bool) -> None:
    """The answer, the workflow and what it cost; with `trace` every operator's run."""
    best = one.best
    if trace:
        for own in one.traces:
            _print_trace(own, console)
    console.print(f"[bold]workflow[/bold]  {escape(best.workflow or '(no valid workflow)')}")
    if best.outcome is not Outcome.OK:
        console.print(f"[bold red]{best.outcome.value}[/bold red]  {escape(best.detail)}")
        return
    if len(one.traces) > 1:
        key = vote_key(best.answer, one.problem.domain)
        agree = sum(vote_key(own.answer, one.problem.domain) == key for own in one.traces if own.outcome is Outcome.OK)
        console.print(f"[bold]votes[/bold]  {agree} of {len(one.traces)}")
    console.print(f"[bold]answer[/bold]  {escape(best.answer)}")
    cost = one.to_json()
    usd = "unknown" if cost["usd"] is None else f"{cost['usd']:.4f}"
    wall_s = max(own.wall_s for own in one.traces)
    console.print(f"{cost['model_calls']} model calls, {cost['tokens']} tokens, {usd} USD, {wall_s:.2f} s")


def workflows_of(
    questions: Sequence[tuple[str, Problem]],
    *,
    fixed: str | None,
    model: str | None,
    checkpoint: int | None,
    prompt: str | None,
    best_of: int | None,
    seed: int,
    vocabulary: Vocabulary,
) -> list[list[str]]:
    """Workflows for each question: a fixed one, or what a policy composes."""
    if model is None:
        if checkpoint is not None or best_of is not None:
            raise RecipeError("--checkpoint and --best-of need a policy. Name one with --model.")
        return [[fixed or "Custom"] for _ in questions]
    from ..policies import Policy

    policy = Policy(model, vocabulary, checkpoint=checkpoint, prompt=prompt)
    return policy.compose([problem for _, problem in questions], samples=best_of, seed=seed)


def _print_trace(trace: Trace, console: Console) -> None:
    table = Table(title=escape(trace.workflow or "(no valid workflow)"), title_justify="left")
    for heading in ("operator", "calls", "seconds", "result"):
        table.add_column(heading, justify="right" if heading in ("calls", "seconds") else "left", overflow="fold")
    for node in trace.nodes:
        verdict = {True: "[green]positive[/green] ", False: "[red]negative[/red] ", None: ""}[node.verdict]
        said = node.failure or (node.feedback if node.operator == "Review" else node.answer or node.text)
        shown = said if len(said) <= SHOWN_CHARS else said[:SHOWN_CHARS] + " …"
        table.add_row(node.operator, str(node.model_calls), f"{node.wall_s:.2f}", verdict + escape(shown))
    console.print(table)
