"""Sharing equal calls changes what is paid, never the results; it biases no mean and reduces the variance of differences."""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aflow_trl.data import Row, synthetic_rows
from aflow_trl.dsl import sample_workflow
from aflow_trl.engine import Engine, RolloutRequest, Trace
from aflow_trl.llm import ExecutorConfig, LLMClient
from aflow_trl.operators import Problem
from aflow_trl.rollouts import Rollouts
from aflow_trl.simulator import SimulatedApp, in_process

ROWS = list(itertools.islice(synthetic_rows(0, "test"), 40))


def problem(row: Row) -> Problem:
    return Problem(row.question, row.domain, row.context, row.entry_point or None, row.public_tests)


def engine(share: str = "step") -> Engine:
    client = LLMClient(ExecutorConfig(executor_base_url="simulated"), http_client=lambda: in_process(SimulatedApp()))
    return Engine(client, share=share)


async def run(requests: list[RolloutRequest], share: str, salt: str) -> list[Trace]:
    sharing_engine = engine(share)
    try:
        return await sharing_engine.run(requests, salt=salt)
    finally:
        await sharing_engine.client.aclose()


def outcome(trace: Trace) -> tuple[object, ...]:
    """Content of a trace, without who paid and how long it took."""
    nodes = sorted(
        (n.operator, n.sample, n.text, str(n.answer), n.feedback, n.verdict, n.model_calls, n.failure)
        for n in trace.nodes
    )
    return trace.outcome, trace.workflow, trace.answer, trace.first_answer, trace.model_calls, trace.tokens, nodes


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_sharing_does_not_change_results(seed: int) -> None:
    rng = random.Random(seed)
    requests = [RolloutRequest(sample_workflow(rng), problem(rng.choice(ROWS[:4]))) for _ in range(12)]

    async def both() -> list[list[Trace]]:
        return [await run(requests, share, str(seed)) for share in ("step", "off")]

    shared, separate = asyncio.run(both())
    assert [outcome(trace) for trace in shared] == [outcome(trace) for trace in separate]
    assert sum(t.paid_calls for t in separate) == sum(t.model_calls for t in separate)
    assert sum(t.paid_calls for t in shared) <= sum(t.paid_calls for t in separate)


async def test_group_mode_shares_only_within_a_group() -> None:
    requests = [RolloutRequest("Custom", problem(ROWS[0]), group) for group in ("a", "a", "b")]
    paid = {share: [t.paid_calls for t in await run(requests, share, "s")] for share in ("step", "group", "off")}
    assert paid == {"step": [1, 0, 0], "group": [1, 0, 1], "off": [1, 1, 1]}


def test_unknown_mode_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"'batch'.*step, group, off"):
        engine("batch")


@pytest.mark.slow
async def test_sharing_biases_no_mean_and_reduces_the_variance_of_differences() -> None:
    """Two workflows with a common prefix, on 40 problems in 12 steps: shared against independent randomness."""
    texts = ("Custom", "Custom -> Review ? Revise : done")
    scores: dict[str, list[list[float]]] = {"shared": [], "independent": []}
    for kind, values in scores.items():
        rollouts = Rollouts(engine())
        for step in range(12):
            rows = [row.columns() for row in ROWS]
            columns = []
            for index, text in enumerate(texts):
                # Independent randomness: a different salt for each of the two.
                salt = f"{kind} {step}" if kind == "shared" else f"{kind} {step} {index}"
                batch = await rollouts.execute([text] * len(rows), rows, salt=salt, phase="test", step=step)
                columns.append([rollout.correctness for rollout in batch])
            values += [list(pair) for pair in zip(*columns, strict=True)]
        await rollouts.engine.client.aclose()
    means = {
        kind: [statistics.mean(column) for column in zip(*values, strict=True)] for kind, values in scores.items()
    }
    tolerance = 4 * (0.25 / len(scores["shared"])) ** 0.5  # four standard errors of a proportion
    assert means["shared"] == pytest.approx(means["independent"], abs=tolerance)
    spread = {
        kind: statistics.variance([second - first for first, second in values]) for kind, values in scores.items()
    }
    assert spread["shared"] < 0.8 * spread["independent"], spread
