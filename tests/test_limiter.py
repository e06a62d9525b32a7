"""Scheduling of calls: limits are respected, no call waits while a slot is free, and the longest path goes first."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from aflow_trl.dsl import analyze, parse, sample_workflow, walk
from aflow_trl.dsl.ast import Operator
from aflow_trl.engine import Engine, RolloutRequest
from aflow_trl.engine.priority import remaining_calls
from aflow_trl.errors import RecipeError
from aflow_trl.llm import ExecutorConfig, LLMClient, Usage, further_executors
from aflow_trl.llm.limiter import EndpointLimiter, EventLoopThrottle, Priority, Scheduler, Window
from aflow_trl.operators import DEFAULT_OPERATORS, Problem
from aflow_trl.simulator import SimulatedApp, in_process
from conftest import KEY_NAME, ScriptedEndpoint, chat_response, operator_script

MESSAGES = [{"role": "user", "content": "hello"}]


# -- priorities ------------------------------------------------------------------------------------------------------


async def test_highest_priority_goes_first_and_equal_ones_in_order() -> None:
    scheduler, order = Scheduler([EndpointLimiter(1)]), []
    first = await scheduler.acquire(Priority(), 0)

    async def call(name: str, priority: Priority) -> None:
        slot = await scheduler.acquire(priority, 0)
        order.append(name)
        scheduler.release(slot)

    raised = Priority(0)
    calls = [
        asyncio.ensure_future(call(name, priority))
        for name, priority in (("b1", Priority(2)), ("a", Priority(5)), ("b2", Priority(2)), ("raised", raised))
    ]
    await asyncio.sleep(0)
    raised.raise_to(9)
    scheduler.release(first)
    await asyncio.gather(*calls)
    assert order == ["raised", "a", "b1", "b2"]


async def test_raised_priority_reaches_every_call_that_shares_it() -> None:
    scheduler, order = Scheduler([EndpointLimiter(1)]), []
    held = await scheduler.acquire(Priority(), 0)
    shared = Priority(1)

    async def call(name: str, priority: Priority) -> None:
        slot = await scheduler.acquire(priority, 0)
        order.append(name)
        scheduler.release(slot)

    calls = [
        asyncio.ensure_future(call(name, priority))
        for name, priority in (("shared 1", shared), ("other", Priority(5)), ("shared 2", shared))
    ]
    await asyncio.sleep(0)
    shared.raise_to(9)
    scheduler.release(held)
    await asyncio.gather(*calls)
    assert order == ["shared 1", "shared 2", "other"] and not shared._waiting


async def test_cancelled_call_passes_its_slot_on() -> None:
    scheduler = Scheduler([EndpointLimiter(1)])
    held = await scheduler.acquire(Priority(), 0)
    waiting = [asyncio.ensure_future(scheduler.acquire(Priority(), 0)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    scheduler.release(held)
    waiting[1].cancel()  # it has been granted the slot, but has not run yet
    slot = await asyncio.wait_for(waiting[2], 1)
    scheduler.release(slot)
    assert scheduler.endpoints[0].in_flight == 0


def test_remaining_calls_are_the_longest_path_to_the_end() -> None:
    workflow = parse("Custom -> [AnswerGenerate, Custom -> Format] -> ScEnsemble -> Review ? Revise : done")
    remaining = remaining_calls(workflow.root, DEFAULT_OPERATORS.vocabulary)
    paths = [(node.name, remaining[id(node)]) for node, _ in walk(workflow.root) if isinstance(node, Operator)]
    assert paths == [
        ("Custom", 6),
        ("AnswerGenerate", 4),
        ("Custom", 5),
        ("Format", 4),
        ("ScEnsemble", 3),
        ("Review", 2),
        ("Revise", 1),
    ]


@given(st.integers(0, 10**6))
@settings(max_examples=60)
def test_first_operator_has_the_whole_critical_path_ahead(seed: int) -> None:
    workflow = sample_workflow(random.Random(seed))
    once = {
        name: replace(spec, max_calls=min(1, spec.max_calls)) for name, spec in DEFAULT_OPERATORS.vocabulary.items()
    }
    remaining = remaining_calls(workflow.root, DEFAULT_OPERATORS.vocabulary)
    assert max(remaining.values()) == analyze(workflow, vocabulary=once).critical_path_calls


async def test_long_workflows_start_first_under_a_limit(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(
        Custom="42", Format="42", Review="<verdict>correct</verdict><feedback>f</feedback>"
    )
    short = [RolloutRequest("Format", Problem(f"short {n}")) for n in range(6)]
    long = RolloutRequest("Custom -> Review -> Review -> Review", Problem("long"))
    await Engine(endpoint.client(executor_concurrency=1)).run([*short, long])
    positions = [index for index, prompt in enumerate(endpoint.prompts) if "long" in prompt]
    # A short call may go while the reply to the long workflow is processed; its last call has no precedence.
    assert positions[0] == 0 and all(later - earlier <= 2 for earlier, later in itertools.pairwise(positions[:3]))


async def test_throttle_lets_a_few_pass_in_each_turn_in_order() -> None:
    throttle, passed = EventLoopThrottle(3), []

    async def wait(number: int) -> None:
        await throttle.wait_turn()
        passed.append(number)

    tasks = [asyncio.ensure_future(wait(number)) for number in range(10)]
    tasks[4].cancel()
    counts = []
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        counts.append(len(passed))
    assert passed == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert max(after - before for before, after in itertools.pairwise(counts)) <= 3


# -- rate limits -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 30), st.lists(st.tuples(st.floats(0, 40), st.integers(1, 30)), min_size=1, max_size=40))
def test_no_minute_exceeds_the_limit(limit: int, calls: list[tuple[float, int]]) -> None:
    window, now, sent = Window(limit), 0.0, []
    for gap, amount in calls:
        now = max(now + gap, window.free_at(amount, now + gap))
        window.reserve(min(amount, limit), now)
        sent.append((now, min(amount, limit)))
    for start, _ in sent:
        assert sum(amount for moment, amount in sent if start <= moment < start + 60 - 1e-6) <= limit


async def test_request_limit_delays_calls_no_longer_than_necessary(
    endpoint: ScriptedEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aflow_trl.llm.limiter.WINDOW_S", 1.0)
    client = endpoint.client(executor_rpm=5)
    started = time.monotonic()
    moments: list[float] = []

    async def call(number: int) -> None:
        await client.complete(MESSAGES, seed=number)
        moments.append(time.monotonic() - started)

    await asyncio.gather(*(call(n) for n in range(12)))
    moments.sort()
    assert moments[4] < 0.9 and 1.0 <= moments[5] < 1.9 and 2.0 <= moments[11] < 2.9


async def test_tokens_are_reserved_before_a_call_and_settled_after_it(
    endpoint: ScriptedEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aflow_trl.llm.limiter.WINDOW_S", 1.0)
    # Each call reserves 2 + 98 tokens and uses 15. One reservation fits at a time, so calls run one after the other.
    client = endpoint.client(executor_tpm=180, executor_max_tokens=98)
    started = time.monotonic()
    await asyncio.gather(*(client.complete(MESSAGES, seed=n) for n in range(5)))
    assert time.monotonic() - started < 0.9
    running = peak = 0

    async def slow() -> str:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0.05)
        running -= 1
        return "x"

    endpoint.script = lambda prompt, number: slow()
    await asyncio.sleep(1.1)
    await asyncio.gather(*(client.complete(MESSAGES, seed=n) for n in range(3)))
    assert peak == 1


async def test_call_larger_than_the_token_limit_is_sent_nonetheless(endpoint: ScriptedEndpoint) -> None:
    completion = await endpoint.client(executor_tpm=10).complete(MESSAGES, seed=0)
    assert completion.text == "reply 1"


@pytest.mark.parametrize("name", ["executor_rpm", "executor_tpm"])
def test_limit_of_zero_is_rejected(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        ExecutorConfig(**{name: 0})


# -- a pool of endpoints ---------------------------------------------------------------------------------------------


async def test_pool_uses_every_endpoint_with_separate_keys_and_limits(
    endpoint: ScriptedEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECOND_KEY", "sk-second")
    keys: list[str] = []
    running = peak = 0

    async def handle(request: Any) -> Any:
        nonlocal running, peak
        keys.append(request.headers["Authorization"])
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0.02)
        running -= 1
        return chat_response("x")

    monkeypatch.setattr(endpoint, "handle", handle)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"
    client = endpoint.client(executor_base_url=url, executor_pool=[f"{url} SECOND_KEY"], executor_concurrency=2)
    await asyncio.gather(*(client.complete(MESSAGES, seed=n) for n in range(20)))
    await client.aclose()
    await runner.cleanup()
    assert peak == 4 and set(keys) == {f"Bearer {os.environ[KEY_NAME]}", "Bearer sk-second"}
    assert 6 <= keys.count("Bearer sk-second") <= 14


async def test_retry_goes_to_another_endpoint_of_the_pool(endpoint: ScriptedEndpoint) -> None:
    dead = "http://127.0.0.1:9/v1"
    client = endpoint.client(executor_base_url=dead, executor_pool=[endpoint.base_url], executor_call_timeout_s=8.0)
    replies = await asyncio.gather(*(client.complete(MESSAGES, seed=n) for n in range(6)))
    assert all(reply.text.startswith("reply") for reply in replies)


async def test_no_call_waits_while_a_slot_is_free() -> None:
    scheduler = Scheduler([EndpointLimiter(2), EndpointLimiter(3)])
    idle_slots = []

    async def call(length: float) -> None:
        slot = await scheduler.acquire(Priority(), 0)
        waiting = sum(not waiter.turn.done() for _, _, waiter in scheduler._queue)
        free = any(endpoint.in_flight < endpoint.max_concurrency for endpoint in scheduler.endpoints)
        idle_slots.append(waiting > 0 and free)
        await asyncio.sleep(length)
        scheduler.release(slot)

    rng = random.Random(0)
    await asyncio.gather(*(call(rng.random() / 50) for _ in range(60)))
    assert not any(idle_slots)


async def test_endpoint_that_keeps_failing_cools_down_for_a_bounded_time() -> None:
    limiter = EndpointLimiter(1)
    for _ in range(2_000):
        limiter.cool_down()
    assert 0 < limiter.paused_until - time.monotonic() <= 30


# -- hedging ---------------------------------------------------------------------------------------------------------


def slow_first(endpoint: ScriptedEndpoint, delay_s: float = 1.0, second: Any = "quick") -> None:
    async def late() -> str:
        await asyncio.sleep(delay_s)
        return "slow"

    endpoint.script = lambda prompt, number: late() if number == 1 else second() if callable(second) else second


async def test_slow_call_is_sent_again_and_the_first_reply_wins(endpoint: ScriptedEndpoint) -> None:
    slow_first(endpoint)
    client = endpoint.client(executor_hedge_after_s=0.1)
    started = time.monotonic()
    assert (await client.complete(MESSAGES, seed=0)).text == "quick"
    assert time.monotonic() - started < 0.6 and client.spending.requests == 2
    assert client._state().scheduler.endpoints[0].in_flight == 0
    # The abandoned request may be billed, so its prompt is counted.
    assert client.spending.usd > client.config.price.cost(Usage(10, 5))


async def test_quick_call_is_sent_once(endpoint: ScriptedEndpoint) -> None:
    client = endpoint.client(executor_hedge_after_s=0.5)
    await client.complete(MESSAGES, seed=0)
    assert len(endpoint.payloads) == 1


async def test_slow_call_is_not_hedged_without_a_free_slot(endpoint: ScriptedEndpoint) -> None:
    slow_first(endpoint, delay_s=0.4)
    client = endpoint.client(executor_hedge_after_s=0.1, executor_concurrency=1)
    assert (await client.complete(MESSAGES, seed=0)).text == "slow"
    assert len(endpoint.payloads) == 1


async def test_failing_second_request_does_not_affect_the_first(endpoint: ScriptedEndpoint) -> None:
    slow_first(endpoint, delay_s=0.4, second=lambda: web.json_response({"error": {"message": "no"}}, status=500))
    assert (await endpoint.client(executor_hedge_after_s=0.1).complete(MESSAGES, seed=0)).text == "slow"


async def test_cancelled_hedged_call_releases_both_slots(endpoint: ScriptedEndpoint) -> None:
    slow_first(endpoint, second=lambda: asyncio.sleep(1, "slow"))
    client = endpoint.client(executor_hedge_after_s=0.1)
    call = asyncio.ensure_future(client.complete(MESSAGES, seed=0))
    await asyncio.sleep(0.3)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert client._state().scheduler.endpoints[0].in_flight == 0 and len(endpoint.payloads) == 2


# -- dedicated executors ---------------------------------------------------------------------------------------------


async def test_operator_calls_its_dedicated_executor_at_its_price(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(Custom="42", Review="<verdict>correct</verdict><feedback>f</feedback>")
    cheap = endpoint.client(executor_model="cheap", executor_input_usd_per_mtok=1.0, executor_output_usd_per_mtok=1.0)
    strong = endpoint.client(
        executor_model="strong", executor_input_usd_per_mtok=10.0, executor_output_usd_per_mtok=10.0
    )
    (trace,) = await Engine(cheap, models={"Review": strong}).run([RolloutRequest("Custom -> Review", Problem("q"))])
    assert [payload["model"] for payload in endpoint.payloads] == ["cheap", "strong"]
    assert [node.usd for node in trace.nodes] == [pytest.approx(15e-6), pytest.approx(150e-6)]


def test_models_of_a_recipe_override_only_what_they_set() -> None:
    base = ExecutorConfig(executor_model="gpt-4o-mini", executor_input_usd_per_mtok=9.0)
    configs = further_executors({"Review": {"executor_model": "gpt-4o", "executor_concurrency": 3}}, base)
    review = configs["Review"]
    assert (review.executor_model, review.executor_concurrency, review.price.input_usd) == ("gpt-4o", 3, 2.5)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"Review": {"model": "x"}}, "'model'"),
        ({"Review": "gpt-4o"}, "a str"),
        ({"Review": {"executor_max_tokens": 0}}, "executor_max_tokens"),
    ],
)
def test_invalid_models_are_reported(models: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        further_executors(models, ExecutorConfig())


# -- scale -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_two_thousand_workflows_in_flight() -> None:
    app = SimulatedApp(latency_s=0.3)
    client = LLMClient(
        ExecutorConfig(executor_base_url="simulated", executor_concurrency=4_000), lambda: in_process(app)
    )
    requests = [RolloutRequest("Custom -> Review", Problem(f"question {n}")) for n in range(2_000)]
    gaps: list[float] = []

    async def watch() -> None:
        while True:
            moment = time.monotonic()
            await asyncio.sleep(0.005)
            gaps.append(time.monotonic() - moment - 0.005)

    watcher = asyncio.ensure_future(watch())
    traces = await Engine(client).run(requests)
    watcher.cancel()
    await client.aclose()
    assert all(trace.model_calls >= 2 for trace in traces)
    assert sum(len(trace.nodes) for trace in traces) == 4_000
    # A loose bound, for a busy test machine; benchmarks/rollout.py measures it.
    assert max(gaps) < 1.0


def test_concurrency_shrinks_by_the_share_that_was_refused_and_grows_back() -> None:
    endpoint = EndpointLimiter(16)
    for _ in range(8):
        endpoint.rate_limited(0.0)
    assert endpoint.limit == 8
    for _ in range(80):
        endpoint.answered()
    assert endpoint.limit == 16


def test_one_refusal_in_a_hundred_neither_pauses_nor_throttles() -> None:
    endpoint = EndpointLimiter(64)
    limits = []
    for number in range(2_000):
        endpoint.rate_limited(60.0) if number % 100 == 99 else endpoint.answered()
        limits.append(endpoint.limit)
    assert min(limits) >= 63 and endpoint.paused_until == 0.0


def test_frequent_refusals_pause_all_calls() -> None:
    endpoint = EndpointLimiter(64)
    for number in range(40):
        endpoint.rate_limited(60.0) if number % 4 == 0 else endpoint.answered()
    assert endpoint.paused_until > time.monotonic() + 50
