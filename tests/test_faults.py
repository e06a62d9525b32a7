"""Every fault of an endpoint, at the level of the reward: a number, `None` or a stopped run, but never a false zero."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState

from aflow_trl.dsl import format_workflow, sample_workflow
from aflow_trl.engine import Engine
from aflow_trl.errors import FatalEndpointError, RunBudgetError, UnavailableError
from aflow_trl.llm import ExecutorConfig, LLMClient, Usage
from aflow_trl.rewards import workflow_rewards
from aflow_trl.rollouts import Rollouts, execution_metrics
from aflow_trl.trainer import StopConditions
from conftest import KEY_NAME
from fault_server import (
    CONTESTED,
    FATAL,
    GOOD,
    NOT_RETRIED,
    RETRIED,
    SCORED,
    Fault,
    FaultServer,
    chat,
    error,
    late,
    reply,
)

DEADLINE_S = 1.0


@pytest.fixture(autouse=True)
def quick_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aflow_trl.llm.client.FIRST_BACKOFF_S", 0.02)
    monkeypatch.setattr("aflow_trl.llm.client.MAX_BACKOFF_S", 0.1)


def config(base_url: str, **options: Any) -> ExecutorConfig:
    prices = {"executor_input_usd_per_mtok": 1.0, "executor_output_usd_per_mtok": 2.0}
    defaults = {"executor_api_key_env": KEY_NAME, "executor_call_timeout_s": DEADLINE_S}
    return ExecutorConfig(executor_base_url=base_url, **(defaults | prices | options))


async def rewards_against(
    script: Any, count: int = 1, control: Fault | None = None
) -> tuple[list[float | None], Rollouts, FaultServer]:
    """Correctness rewards of `Custom` on questions whose answer is 42."""
    async with FaultServer(script, control) as server:
        client = LLMClient(config(server.base_url))
        rollouts = Rollouts(Engine(client))
        texts = ["<workflow>Custom</workflow>"] * count
        columns = {
            "question": [f"What is 6 * 7? ({n})" for n in range(count)],
            "answer": [["42"]] * count,
            "domain": ["math"] * count,
        }
        values = await workflow_rewards(rollouts)[0](texts, texts, **columns)
        await client.aclose()
        return values, rollouts, server


@pytest.mark.parametrize("name", RETRIED)
async def test_transient_fault_is_retried_and_scored(name: str) -> None:
    values, _, server = await rewards_against(lambda number: RETRIED[name] if number == 1 else GOOD)
    assert (values, server.requests) == ([1.0], 2)


@pytest.mark.parametrize("name", [*RETRIED, *NOT_RETRIED])
async def test_persistent_fault_is_none_and_never_zero(name: str) -> None:
    started = time.monotonic()
    values, rollouts, _ = await rewards_against(lambda number: (RETRIED | NOT_RETRIED)[name])
    assert values == [None] and rollouts.engine.fatal is None
    # What the endpoint asks to wait extends the deadline, up to its own length.
    assert time.monotonic() - started < 2 * DEADLINE_S + 1


@pytest.mark.parametrize("name", ["redirect to itself", "redirect to another host", "500, x-should-retry false"])
async def test_permanent_fault_is_not_retried(name: str) -> None:
    values, _, server = await rewards_against(lambda number: NOT_RETRIED[name])
    assert (values, server.requests) == ([None], 1)


@pytest.mark.parametrize("name", FATAL)
async def test_fatal_fault_stops_the_run_at_once(name: str) -> None:
    values, rollouts, server = await rewards_against(lambda number: FATAL[name])
    # The second one is a control request.
    assert values == [None] and server.requests <= 2
    message = str(rollouts.engine.fatal)
    assert "gpt-4o-mini" in message and "127.0.0.1" in message and os.environ[KEY_NAME] not in message
    control = StopConditions(rollouts).on_step_end(None, TrainerState(), TrainerControl())  # type: ignore[arg-type]
    assert control.should_save and control.should_training_stop


@pytest.mark.parametrize("name", CONTESTED)
async def test_fault_of_one_request_is_its_own_if_a_control_request_is_answered(name: str) -> None:
    fault, value = CONTESTED[name]
    values, rollouts, server = await rewards_against(lambda number: fault, control=GOOD)
    assert values == [value] and rollouts.engine.fatal is None and server.controls >= 1


@pytest.mark.parametrize("name", CONTESTED)
async def test_fault_that_a_control_request_meets_too_stops_the_run(name: str) -> None:
    fault, _ = CONTESTED[name]
    values, rollouts, server = await rewards_against(lambda number: fault, control=fault)
    assert values == [None] and server.controls == 1
    assert rollouts.engine.fatal is not None and "gpt-4o-mini" in str(rollouts.engine.fatal)


async def test_credit_that_runs_out_never_becomes_a_reward() -> None:
    """Some endpoints say so by a 400, as for a bad request; the control request tells them apart."""
    async with FaultServer(
        lambda number: GOOD if number <= 3 else error(400, "Your credit balance is too low")
    ) as server:
        client = LLMClient(config(server.base_url))
        results = await asyncio.gather(
            *(client.complete([{"role": "user", "content": f"{n}"}], seed=n) for n in range(12)),
            return_exceptions=True,
        )
        await client.aclose()
    assert sum(isinstance(result, FatalEndpointError) for result in results) == 12 - 3


async def test_error_page_of_a_gateway_ends_no_run_that_has_worked() -> None:
    page = reply("<html>Not found</html>", 404, "text/html")
    values, rollouts, server = await rewards_against(lambda number: page if 1 < number < 5 else GOOD, count=6)
    assert rollouts.engine.fatal is None and values == [1.0] * 6


async def test_step_of_rejected_calls_counts_as_lost() -> None:
    values, rollouts, _ = await rewards_against(lambda number: CONTESTED["413"][0], count=4, control=GOOD)
    assert values == [0.0] * 4 and rollouts.counts == {0: (4, 4)}


async def test_broken_endpoint_of_a_pool_is_dropped() -> None:
    async with FaultServer(lambda number: error(401)) as broken, FaultServer(lambda number: GOOD) as server:
        client = LLMClient(config(broken.base_url, executor_pool=[server.base_url], executor_call_timeout_s=5.0))
        results = await asyncio.gather(
            *(client.complete([{"role": "user", "content": f"{n}"}], seed=n) for n in range(8))
        )
        await client.aclose()
    assert [result.text for result in results] == ["42"] * 8


@pytest.mark.parametrize("name", SCORED)
async def test_usable_reply_is_scored(name: str) -> None:
    fault, value = SCORED[name]
    values, rollouts, server = await rewards_against(lambda number: fault)
    assert values == [value] and rollouts.engine.fatal is None
    assert server.requests == 1


@pytest.mark.parametrize(
    ("name", "counter"),
    [
        ("refusal", "refused"),
        ("content filter", "refused"),
        ("truncated, wrong", "truncated"),
    ],
)
async def test_faults_of_a_scored_rollout_are_counted(name: str, counter: str) -> None:
    _, rollouts, _ = await rewards_against(lambda number: SCORED[name][0])
    assert rollouts._pending is not None
    batch = await rollouts._pending[1]
    metrics = execution_metrics(batch)
    counts = {other: metrics[f"executor/{other}"] for other in ("rejected", "refused", "truncated")}
    assert counts == dict.fromkeys(counts, 0.0) | {counter: 1.0}


@pytest.mark.parametrize("name", [*RETRIED, *NOT_RETRIED, *FATAL, *CONTESTED])
async def test_ping_reports_every_persistent_fault(name: str) -> None:
    fault = (RETRIED | NOT_RETRIED | FATAL | {k: v[0] for k, v in CONTESTED.items()})[name]
    async with FaultServer(lambda number: fault) as server:
        client = LLMClient(config(server.base_url, executor_call_timeout_s=0.4))
        with pytest.raises(FatalEndpointError, match=r"gpt-4o-mini.*127\.0\.0\.1"):
            await client.ping()
        await client.aclose()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/v1", "http://no-such-host.invalid/v1"])
async def test_unreachable_endpoint_fails_the_ping_and_later_is_none(url: str) -> None:
    client = LLMClient(config(url, executor_call_timeout_s=0.4))
    with pytest.raises(FatalEndpointError, match=r"does not answer|never been reached"):
        await client.ping()
    rollouts = Rollouts(Engine(client))
    texts = ["<workflow>Custom</workflow>"]
    assert await workflow_rewards(rollouts)[0](texts, texts, question=["q"], answer=[["42"]]) == [None]
    await client.aclose()


async def test_a_failed_attempt_that_may_be_billed_is_counted() -> None:
    _, rollouts, server = await rewards_against(lambda number: RETRIED["200 empty body"] if number == 1 else GOOD)
    client = rollouts.engine.client
    assert (client.spending.requests, server.requests) == (2, 2)
    assert client.spending.usd > client.config.price.cost(CHAT_USAGE)


CHAT_USAGE = Usage(10, 5)
"""Usage that the completions of the fault server report."""
NOT_BILLED = [name for name in RETRIED if name[:3] in ("429", "408", "409", "500", "502", "503", "504", "529")]
"""Faults before any work was done."""
WITHOUT_USAGE = ("usage missing", "usage null", "usage nonsense", "usage negative")


@pytest.mark.parametrize("name", RETRIED)
async def test_bill_of_a_retried_fault(name: str) -> None:
    """An endpoint that refuses does no work; one that breaks off may have done it, and sends a bill."""
    _, rollouts, _ = await rewards_against(lambda number: RETRIED[name] if number == 1 else GOOD)
    client = rollouts.engine.client
    extra = client.spending.usd - client.config.price.cost(CHAT_USAGE)
    assert extra == pytest.approx(0.0) if name in NOT_BILLED or "inside" in name else extra >= 0


@pytest.mark.parametrize("name", FATAL)
async def test_fatal_fault_costs_nothing(name: str) -> None:
    _, rollouts, _ = await rewards_against(lambda number: FATAL[name])
    assert rollouts.engine.client.spending.usd == 0.0


@pytest.mark.parametrize("name", CONTESTED)
async def test_refused_request_costs_its_control_requests(name: str) -> None:
    _, rollouts, server = await rewards_against(lambda number: CONTESTED[name][0], control=GOOD)
    client = rollouts.engine.client
    cost = client.config.price.cost(CHAT_USAGE)
    # The one request, of either kind, that was on its way when the time of the call was up is billed by an estimate of
    # its prompt, though it may not have arrived.
    cut_off = client.config.price.cost(Usage(1000, 0))
    assert server.controls * cost - 1e-9 <= client.spending.usd < server.controls * cost + cut_off
    # A request that is refused for its content is not sent again.
    assert server.requests == 1 or CONTESTED[name][1] is None


@pytest.mark.parametrize("name", SCORED)
async def test_bill_of_a_usable_reply(name: str) -> None:
    _, rollouts, _ = await rewards_against(lambda number: SCORED[name][0])
    client = rollouts.engine.client
    reported = client.config.price.cost(CHAT_USAGE)
    assert client.spending.usd > 0 if name in WITHOUT_USAGE else client.spending.usd == pytest.approx(reported)


@pytest.mark.parametrize("name", SCORED)
async def test_ping_takes_every_usable_reply(name: str) -> None:
    async with FaultServer(lambda number: SCORED[name][0]) as server:
        client = LLMClient(config(server.base_url))
        await client.ping()
        await client.aclose()
    assert server.requests == 1


def resident_mib(peak: bool = False) -> float:
    name = "VmHWM:" if peak else "VmRSS:"
    return int(Path("/proc/self/status").read_text().split(name)[1].split()[0]) / 1024


async def test_endless_body_is_abandoned_before_it_fills_the_memory() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # resets the recorded peak
    before = resident_mib(peak=True)
    await rewards_against(lambda number: NOT_RETRIED["endless body"])
    assert resident_mib(peak=True) - before < 100


async def test_cancelled_call_leaves_no_task_behind() -> None:
    async with FaultServer(lambda number: late(GOOD, 5)) as server:
        client = LLMClient(config(server.base_url, executor_call_timeout_s=10))
        call = asyncio.ensure_future(client.complete([{"role": "user", "content": "x"}], seed=0))
        await asyncio.sleep(0.2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await client.aclose()
        await asyncio.sleep(0.05)
        names = {task.get_coro().__qualname__ for task in asyncio.all_tasks()}  # type: ignore[union-attr]
    assert not [name for name in names if "LLMClient" in name]


# -- concurrency -----------------------------------------------------------------------------------------------------


class BusyEndpoint:
    """An endpoint that rejects requests beyond its capacity."""

    def __init__(self, capacity: int, latency_s: float = 0.03) -> None:
        self.capacity, self.latency_s = capacity, latency_s
        self.running = self.refused = 0

    def script(self, number: int) -> Fault:
        async def answer(writer: asyncio.StreamWriter) -> None:
            if self.running >= self.capacity:
                self.refused += 1
                await error(429)(writer)
                return
            self.running += 1
            try:
                await asyncio.sleep(self.latency_s)
            finally:
                self.running -= 1
            await GOOD(writer)

        return answer


async def test_concurrency_shrinks_to_the_capacity_of_the_endpoint() -> None:
    busy = BusyEndpoint(capacity=8)
    async with FaultServer(busy.script) as server:
        client = LLMClient(config(server.base_url, executor_concurrency=64, executor_call_timeout_s=20.0))
        await asyncio.gather(*(client.complete([{"role": "user", "content": "x"}], seed=n) for n in range(400)))
        limit = client._state().scheduler.endpoints[0].limit
        await client.aclose()
    assert limit <= 24
    assert busy.refused < 200


async def test_rare_refusals_do_not_throttle() -> None:
    async with FaultServer(lambda number: error(429) if number % 50 == 0 else GOOD) as server:
        client = LLMClient(config(server.base_url, executor_concurrency=16, executor_call_timeout_s=10.0))
        await asyncio.gather(*(client.complete([{"role": "user", "content": "x"}], seed=n) for n in range(400)))
        endpoint = client._state().scheduler.endpoints[0]
        await client.aclose()
    assert endpoint.limit > 12 and endpoint.paused_until == 0.0


async def test_retry_after_of_zero_is_no_reason_to_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aflow_trl.llm.client.FIRST_BACKOFF_S", 0.5)
    monkeypatch.setattr("aflow_trl.llm.client.MAX_BACKOFF_S", 20.0)
    async with FaultServer(lambda number: error(429, headers={"Retry_After": "0"})) as server:
        client = LLMClient(config(server.base_url, executor_call_timeout_s=3.0))
        with pytest.raises(UnavailableError):
            await client.complete([{"role": "user", "content": "x"}], seed=0)
        await client.aclose()
    assert server.requests <= 5


async def test_concurrency_recovers_while_the_endpoint_answers() -> None:
    async with FaultServer(lambda number: error(429) if number == 1 else GOOD) as server:
        client = LLMClient(config(server.base_url, executor_concurrency=8, executor_call_timeout_s=10.0))
        await asyncio.gather(*(client.complete([{"role": "user", "content": "x"}], seed=n) for n in range(80)))
        limit = client._state().scheduler.endpoints[0].limit
        await client.aclose()
    assert limit == 8


async def test_server_errors_do_not_shrink_the_concurrency() -> None:
    async with FaultServer(lambda number: error(500) if number % 3 == 0 else GOOD) as server:
        client = LLMClient(config(server.base_url, executor_concurrency=8, executor_call_timeout_s=10.0))
        await asyncio.gather(*(client.complete([{"role": "user", "content": "x"}], seed=n) for n in range(60)))
        limit = client._state().scheduler.endpoints[0].limit
        await client.aclose()
    assert limit == 8


async def test_retry_after_pauses_every_call() -> None:
    sent: list[float] = []

    def script(number: int) -> Fault:
        sent.append(time.monotonic())
        return error(429, headers={"Retry_After": "0.5"}) if number == 1 else GOOD

    async with FaultServer(script) as server:
        client = LLMClient(config(server.base_url, executor_concurrency=1, executor_call_timeout_s=10.0))
        await asyncio.gather(*(client.complete([{"role": "user", "content": "x"}], seed=n) for n in range(4)))
        await client.aclose()
    assert min(sent[1:]) - sent[0] >= 0.49


# -- run budget ------------------------------------------------------------------------------------------------------


async def test_run_budget_is_exceeded_by_no_more_than_the_calls_in_flight() -> None:
    cost = config("http://x").price.cost(CHAT_USAGE)
    async with FaultServer(lambda number: GOOD) as server:
        client = LLMClient(config(server.base_url, executor_max_usd=10 * cost, executor_concurrency=4))
        calls = [client.complete([{"role": "user", "content": "x"}], seed=n) for n in range(40)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        await client.aclose()
    stopped = [result for result in results if isinstance(result, RunBudgetError)]
    assert 10 <= server.requests <= 13 and len(stopped) == 40 - server.requests
    assert "executor_max_usd" in str(stopped[0])


def test_run_budget_without_a_price_is_rejected() -> None:
    with pytest.raises(ValueError, match="executor_input_usd_per_mtok"):
        ExecutorConfig(executor_max_usd=5.0, executor_base_url="http://localhost/v1")


# -- soak ------------------------------------------------------------------------------------------------------------

SOAK_FAULTS = [
    *(
        RETRIED[name]
        for name in (
            "429",
            "500",
            "502 HTML",
            "reset before headers",
            "reset in the body",
            "200 cut JSON",
            "bad gzip",
            "choices empty",
        )
    ),
    *(SCORED[name][0] for name in ("refusal", "truncated, wrong")),
    CONTESTED["413"][0],
]


@pytest.mark.slow
async def test_soak_every_workflow_is_scored_or_unscored_and_nothing_leaks() -> None:
    """2,000 random workflows against an endpoint where every fifth request fails."""
    rng = random.Random(0)
    workflows = [f"<workflow>{format_workflow(sample_workflow(rng))}</workflow>" for _ in range(2_000)]

    async def batch(rollouts: Rollouts, texts: list[str]) -> list[float | None]:
        numbers = range(len(texts))
        return await workflow_rewards(rollouts)[0](
            texts,
            texts,
            question=[f"What is 6 * 7? {n % 64}" for n in numbers],
            answer=[["42"]] * len(texts),
            domain=["math"] * len(texts),
        )

    def script(number: int) -> Fault:
        return (
            rng.choice(SOAK_FAULTS)
            if rng.random() < 0.2
            else reply(
                chat("<thought>x</thought><answer>42</answer> correct ```python\ndef solve():\n    return 42\n```")
            )
        )

    async with FaultServer(script, control=GOOD) as server:
        client = LLMClient(config(server.base_url, executor_call_timeout_s=2.0))
        rollouts = Rollouts(Engine(client))
        await batch(rollouts, workflows[:100])
        gc.collect()
        fds, tasks, memory = len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks()), resident_mib()
        values = [
            value for start in range(0, 2_000, 500) for value in await batch(rollouts, workflows[start : start + 500])
        ]
        outcomes = Counter("unscored" if value is None else "scored" for value in values)
        assert outcomes["scored"] + outcomes["unscored"] == 2_000
        assert outcomes["unscored"] > 0 and outcomes["scored"] > 1_000
        assert server.requests > 2_000
        assert len(os.listdir("/proc/self/fd")) <= fds + 64
        del rollouts
        gc.collect()
        assert resident_mib() - memory < 60
        await client.aclose()
        await asyncio.sleep(0.2)
        assert len(asyncio.all_tasks()) <= tasks
