"""Sharing changes what is paid, never what comes out; it leaves means alone and makes differences sharper."""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aflow_trl.data import synthetic_rows
from aflow_trl.dsl import sample_workflow
from aflow_trl.engine import Engine, RolloutRequest, Trace
from aflow_trl.llm import ExecutorConfig, LLMClient
from aflow_trl.operators import Problem
from aflow_trl.rollouts import Rollouts
from aflow_trl.simulator import SimulatedApp, in_process

ROWS = list(itertools.islice(synthetic_rows(0, "test"), 40))


def problem(row: Any) -> Problem:
    return Problem(row.question, row.domain, row.context, row.entry_point or None, row.public_tests)


def engine(share: str = "step") -> Engine:
    client = LLMClient(ExecutorConfig(executor_base_url="simulated"), http_client=lambda: in_process(SimulatedApp()))
    return Engine(client, share=share)


async def run(requests: list[RolloutRequest], share: str, salt: str) -> list[Trace]:
    own = engine(share)
    try:
        return await own.run(requests, salt=salt)
    finally:
        await own.client.aclose()


def outcome(trace: Trace) -> Any:
    """Everything of a trace but who paid and how long it took."""
    nodes = sorted(
        (n.operator, n.sample, n.text, str(n.answer), n.feedback, n.verdict, n.model_calls, n.failure)
        for n in trace.nodes
    )
    return trace.outcome, trace.workflow, trace.answer, trace.first_answer, trace.model_calls, trace.tokens, nodes


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_results_with_sharing_are_the_results_without(seed: int) -> None:
    dice = random.Random(seed)
    requests = [RolloutRequest(sample_workflow(dice), problem(dice.choice(ROWS[:4]))) for _ in range(12)]

    async def both() -> list[list[Trace]]:
        return [await run(requests, share, str(seed)) for share in ("step", "off")]

    shared, alone = asyncio.run(both())
    assert [outcome(trace) for trace in shared] == [outcome(trace) for trace in alone]
    assert sum(t.paid_calls for t in alone) == sum(t.model_calls for t in alone)
    assert sum(t.paid_calls for t in shared) <= sum(t.paid_calls for t in alone)


async def test_group_mode_shares_inside_a_group_only() -> None:
    requests = [RolloutRequest("Custom", problem(ROWS[0]), group) for group in ("a", "a", "b")]
    paid = {share: [t.paid_calls for t in await run(requests, share, "s")] for share in ("step", "group", "off")}
    assert paid == {"step": [1, 0, 0], "group": [1, 0, 1], "off": [1, 1, 1]}


def test_unknown_mode_is_named() -> None:
    with pytest.raises(ValueError, match=r"'batch'.*step, group, off"):
        engine("batch")


@pytest.mark.slow
async def test_sharing_biases_no_mean_and_sharpens_differences() -> None:
    """Two workflows with a common prefix, on 40 problems in 12 steps: shared randomness against independent."""
    texts = ("Custom", "Custom -> Review ? Revise : done")
    scores: dict[str, list[list[float]]] = {"shared": [], "independent": []}
    for kind, values in scores.items():
        rollouts = Rollouts(engine())
        for step in range(12):
            rows = [row.columns() for row in ROWS]
            columns = []
            for index, text in enumerate(texts):
                # Independent: each of the two meets randomness of its own.
                salt = f"{kind} {step}" if kind == "shared" else f"{kind} {step} {index}"
                batch = await rollouts.execute([text] * len(rows), rows, salt=salt, phase="test", step=step)
                columns.append([rollout.correctness for rollout in batch])
            values += [list(pair) for pair in zip(*columns, strict=True)]
        await rollouts.engine.client.aclose()
    means = {
        kind: [statistics.mean(column) for column in zip(*values, strict=True)] for kind, values in scores.items()
    }
    noise = 4 * (0.25 / len(scores["shared"])) ** 0.5  # four standard errors of a share
    assert all(abs(one - other) < noise for one, other in zip(means["shared"], means["independent"], strict=True))
    spread = {kind: statistics.variance([right - left for left, right in values]) for kind, values in scores.items()}
    assert spread["shared"] < 0.8 * spread["independent"], spread
