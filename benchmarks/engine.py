"""
A batch of 32 problems with 8 workflows each on the simulated executor at 200 ms a call: wall time over the critical
path, and calls made over calls without sharing.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time

from aflow_trl.data import synthetic_rows
from aflow_trl.engine import Engine, RolloutRequest
from aflow_trl.llm import ExecutorConfig, LLMClient
from aflow_trl.operators import Problem
from aflow_trl.simulator import SimulatedApp, in_process

PROBLEMS, GROUP, LATENCY_S = 32, 8, 0.2
MIX = [
    (35, "Custom -> Programmer -> Review ? Revise : done"),
    (21, "Custom -> Programmer -> Review -> Revise"),
    (14, "Programmer"),
    (7, "Custom -> Programmer"),
    (6, "Custom -> Programmer -> Review"),
    (4, "Programmer -> Review ? Revise : done"),
    (3, "Custom"),
    (4, "[Custom, Custom, Custom] -> ScEnsemble"),
    (3, "[Custom, Custom, Custom] -> ScEnsemble -> Review"),
    (3, "Custom -> (Review -> Revise) * 2"),
]


async def measure(concurrency: int) -> None:
    """Run the batch once and print its line."""
    app = SimulatedApp(latency_s=LATENCY_S)
    config = ExecutorConfig(executor_base_url="simulated", executor_concurrency=concurrency)
    engine = Engine(LLMClient(config, http_client=lambda: in_process(app)))
    rows = list(itertools.islice(synthetic_rows(0, "test"), PROBLEMS))
    rng = random.Random(0)
    weights, workflows = zip(*MIX, strict=True)
    problems = [Problem(r.question, r.domain, r.context, r.entry_point or None, r.public_tests) for r in rows]
    requests = [
        RolloutRequest(workflow, problem)
        for problem in problems
        for workflow in rng.choices(workflows, weights, k=GROUP)
    ]
    await engine.run(requests[:1], salt="warm-up")
    app.calls = 0
    started = time.monotonic()
    traces = await engine.run(requests, salt="measured")
    wall_s = time.monotonic() - started
    used, paid = sum(t.model_calls for t in traces), sum(t.paid_calls for t in traces)
    deepest = max(
        sum(node.model_calls for node in trace.nodes) for trace in traces if "[" not in (trace.workflow or "")
    )
    bound_s = max(deepest * LATENCY_S, paid * LATENCY_S / concurrency)
    assert paid == app.calls
    print(
        f"engine, {len(requests)} workflows, {concurrency:>4} at once: {wall_s:.2f} s, bound {bound_s:.2f} s, "
        f"ratio {wall_s / bound_s:.2f}; calls {paid} of {used} without sharing ({paid / used:.3f})"
    )


if __name__ == "__main__":
    for limit in (1024, 64, 32):
        asyncio.run(measure(limit))
