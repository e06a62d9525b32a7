"""
Share of malformed first replies by operator on a real endpoint: tags alone, tags read tolerantly, JSON by schema.

    python benchmarks/reply_forms.py http://localhost:8000/v1 MODEL [API_KEY_VARIABLE]
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from aflow_trl.llm import ExecutorConfig, LLMClient
from aflow_trl.operators import DEFAULT_OPERATORS, Candidate, Problem, ReplyError, ReplyForm, State, preflight
from aflow_trl.operators.base import OperatorCall, OperatorFailureError

FACTS = [
    ("Ann", "Lima", "baker"),
    ("Ben", "Oslo", "pilot"),
    ("Cleo", "Cairo", "nurse"),
    ("Dan", "Quito", "judge"),
    ("Eve", "Turin", "cook"),
]
QUESTIONS = [
    f"{name} lives in {city} and works as a {job}. {question}"
    for name, city, job in FACTS
    for question in (
        f"Where does {name} live?",
        f"What is the job of {name}?",
        f"Who lives in {city}?",
        f"Who is a {job}?",
        f"Does {name} live in {city}?",
    )
]


def states(operator: str) -> list[State]:
    answers = ("The answer is Oslo.", "The answer is Lima.")
    candidates = {"AnswerGenerate": (), "ScEnsemble": tuple(map(Candidate, answers))}
    return [State(Problem(text, "qa"), candidates.get(operator, (Candidate(answers[0]),))) for text in QUESTIONS]


@contextmanager
def elements_only() -> Iterator[None]:
    """Read replies as before: `<name>…</name>` or nothing."""
    tolerant = ReplyForm.__call__

    def strict(form: ReplyForm, text: str) -> dict[str, str]:
        if form._elements(text) is None:
            raise ReplyError("no elements")
        return tolerant(form, text)

    ReplyForm.__call__ = strict  # type: ignore[method-assign]
    try:
        yield
    finally:
        ReplyForm.__call__ = tolerant  # type: ignore[method-assign]


async def shares(client: LLMClient, operator: str) -> tuple[float, float]:
    """Share of malformed first replies, and of operator runs that failed."""

    async def run(number: int, state: State) -> tuple[bool, bool]:
        call, failed = OperatorCall(client, seed=number), False
        try:
            await DEFAULT_OPERATORS[operator]().run(state, {}, call)
        except OperatorFailureError:
            failed = True
        return call.parse_errors > 0, failed

    results = await asyncio.gather(*(run(*item) for item in enumerate(states(operator))))
    return tuple(sum(column) / len(results) for column in zip(*results, strict=True))  # type: ignore[return-value]


async def main(base_url: str, model: str, variable: str = "OPENAI_API_KEY") -> None:
    config = ExecutorConfig(
        executor_base_url=base_url,
        executor_model=model,
        executor_api_key_env=variable,
        executor_max_tokens=128,
        executor_concurrency=8,
        executor_call_timeout_s=600.0,
    )
    client = LLMClient(config)
    profile = await preflight(client)
    schema = client.config
    tags = replace(schema, executor_structured="tags")
    print(f"{model}, {len(QUESTIONS)} questions; malformed first replies / failed runs; schema: {profile.structured}")
    for operator in ("AnswerGenerate", "Review", "Revise", "Format", "ScEnsemble"):
        client.config = tags
        with elements_only():
            strict = await shares(client, operator)
        tolerant = await shares(client, operator)
        client.config = schema
        structured = await shares(client, operator)
        columns = "   ".join(f"{first:.2f} / {failed:.2f}" for first, failed in (strict, tolerant, structured))
        print(f"{operator:16} {columns}", flush=True)
    await client.aclose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
