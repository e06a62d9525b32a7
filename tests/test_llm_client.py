"""The client against a real local server that misbehaves: how each fault is classified."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from aflow_trl.errors import FatalEndpointError, RecipeError, RejectedRequestError, UnavailableError
from aflow_trl.llm import ExecutorConfig, LLMClient, Price, Priority, Usage
from aflow_trl.llm.client import MAX_BACKOFF_S
from aflow_trl.llm.retry import RetryLaterError
from aflow_trl.simulator import SimulatedApp, in_process
from conftest import KEY_NAME, ScriptedEndpoint, chat_response

MESSAGES = [{"role": "user", "content": "hello"}]
GOOD = "good"


def error(status: int, headers: dict[str, str] | None = None, **body: Any) -> Callable[[], web.Response]:
    return lambda: web.json_response({"error": body or {"message": "no"}}, status=status, headers=headers)


def raw(text: str, status: int = 200, content_type: str = "application/json") -> Callable[[], web.Response]:
    return lambda: web.Response(text=text, status=status, content_type=content_type)


# Retried; the call succeeds once good replies follow.
TRANSIENT = [
    ("429", error(429)),
    ("429 with Retry-After", error(429, {"Retry-After": "0.1"})),
    ("429 with garbage Retry-After", error(429, {"Retry-After": "soon"})),
    ("500", error(500)),
    ("503 HTML", raw("<html>down</html>", 503, "text/html")),
    ("529", error(529)),
    ("408", error(408)),
    ("409", error(409)),
    ("empty body", raw("")),
    ("cut JSON", raw('{"choices": [')),
    ("null", raw("null")),
    ("list", raw("[]")),
    ("HTML 200", raw("<html></html>", 200, "text/html")),
    ("no choices", raw('{"choices": []}')),
    ("null choices", raw('{"choices": null}')),
    ("null message", raw('{"choices": [{"message": null}]}')),
    ("null content", raw('{"choices": [{"message": {"content": null}}]}')),
    ("error in a 200", raw('{"error": {"code": 503, "message": "busy"}}')),
]
FATAL = [
    ("401", error(401)),
    ("402", error(402)),
    ("403", error(403)),
    ("404 model", error(404, code="model_not_found")),
    ("quota as 429", error(429, type="insufficient_quota", message="pay")),
    ("quota inside a 200", raw('{"error": {"code": "insufficient_quota", "message": "pay"}}')),
]
REJECTED = [
    ("context length", error(400, code="context_length_exceeded", message="too long")),
    ("content policy", error(400, code="content_filter", message="no")),
    ("413", error(413)),
    ("422", error(422)),
]
USABLE = [
    ("empty text", lambda: chat_response(""), ""),
    ("refusal", raw('{"choices": [{"message": {"content": null, "refusal": "no"}}]}'), ""),
    ("tool calls only", raw('{"choices": [{"message": {"content": null, "tool_calls": [1]}}]}'), ""),
    ("length", lambda: chat_response("half a", finish_reason="length"), "half a"),
    ("list of parts", lambda: chat_response([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), "ab"),
    ("lone surrogate and NUL", raw('{"choices": [{"message": {"content": "a\\ud800b\\u0000c"}}]}'), "a?bc"),
]


@pytest.mark.parametrize(("fault", "first"), TRANSIENT, ids=[row[0] for row in TRANSIENT])
async def test_transient_fault_is_retried(
    fault: str, first: Callable[[], web.Response], endpoint: ScriptedEndpoint
) -> None:
    endpoint.script = lambda prompt, number: first() if number == 1 else GOOD
    completion = await endpoint.client().complete(MESSAGES, seed=0)
    assert (completion.text, completion.attempts) == (GOOD, 2)


@pytest.mark.parametrize(("fault", "reply"), TRANSIENT, ids=[row[0] for row in TRANSIENT])
async def test_persistent_fault_is_unavailable(
    fault: str, reply: Callable[[], web.Response], endpoint: ScriptedEndpoint
) -> None:
    endpoint.script = lambda prompt, number: reply()
    with pytest.raises(UnavailableError):
        await endpoint.client(executor_call_timeout_s=0.6).complete(MESSAGES, seed=0)


@pytest.mark.parametrize(("fault", "reply"), FATAL, ids=[row[0] for row in FATAL])
async def test_fatal_fault_is_raised_at_the_first_attempt(
    fault: str, reply: Callable[[], web.Response], endpoint: ScriptedEndpoint
) -> None:
    endpoint.script = lambda prompt, number: reply()
    with pytest.raises(FatalEndpointError, match="gpt-4o-mini"):
        await endpoint.client().complete(MESSAGES, seed=0)
    assert len(endpoint.payloads) <= 2  # the second one is a control request


@pytest.mark.parametrize(("fault", "reply"), REJECTED, ids=[row[0] for row in REJECTED])
async def test_rejected_request_is_not_an_infrastructure_failure(
    fault: str, reply: Callable[[], web.Response], endpoint: ScriptedEndpoint
) -> None:
    endpoint.script = lambda prompt, number: GOOD if "ready" in prompt else reply()
    with pytest.raises(RejectedRequestError):
        await endpoint.client().complete(MESSAGES, seed=0)
    assert len(endpoint.payloads) == 2


@pytest.mark.parametrize(("case", "reply", "text"), USABLE, ids=[row[0] for row in USABLE])
async def test_unusual_reply_is_usable(
    case: str, reply: Callable[[], web.Response], text: str, endpoint: ScriptedEndpoint
) -> None:
    endpoint.script = lambda prompt, number: reply()
    assert (await endpoint.client().complete(MESSAGES, seed=0)).text == text


async def test_slow_drip_is_cut_off_at_the_deadline(endpoint: ScriptedEndpoint) -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(50):
            await response.write(b" ")
            await asyncio.sleep(0.1)
        return response

    runner_app = web.Application()
    runner_app.router.add_post("/v1/chat/completions", drip)
    runner = web.AppRunner(runner_app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    started = time.monotonic()
    try:
        with pytest.raises(UnavailableError):
            client = endpoint.client(executor_base_url=f"http://127.0.0.1:{port}/v1", executor_call_timeout_s=0.7)
            await client.complete(MESSAGES, seed=0)
    finally:
        await runner.cleanup()
    assert time.monotonic() - started < 3


async def test_redirect_is_not_followed(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = lambda prompt, number: web.Response(status=307, headers={"Location": "/v1/chat/completions"})
    with pytest.raises(UnavailableError):
        await endpoint.client().complete(MESSAGES, seed=0)
    assert len(endpoint.payloads) == 1


async def test_missing_usage_is_estimated_and_flagged(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = lambda prompt, number: raw('{"choices": [{"message": {"content": "12345678"}}]}')()
    completion = await endpoint.client().complete(MESSAGES, seed=0)
    assert completion.usage == Usage(2, 2, estimated=True)


async def test_concurrency_is_limited(endpoint: ScriptedEndpoint) -> None:
    running = peak = 0

    async def count() -> str:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0.02)
        running -= 1
        return GOOD

    endpoint.script = lambda prompt, number: count()
    client = endpoint.client(executor_concurrency=3)
    await asyncio.gather(*(client.complete(MESSAGES, seed=n) for n in range(20)))
    assert peak == 3


async def test_ping_reports_an_endpoint_that_is_down() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    config = ExecutorConfig(
        executor_base_url=f"http://127.0.0.1:{port}/v1", executor_api_key_env=KEY_NAME, executor_call_timeout_s=0.5
    )
    with pytest.raises(FatalEndpointError, match=f"127.0.0.1:{port}"):
        await LLMClient(config).ping()


def test_missing_api_key_is_reported_before_any_call() -> None:
    with pytest.raises(RecipeError, match="NO_SUCH_KEY_VARIABLE"):
        LLMClient(ExecutorConfig(executor_base_url="http://x/v1", executor_api_key_env="NO_SUCH_KEY_VARIABLE"))


async def test_key_appears_in_no_error(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = lambda prompt, number: error(401, message="bad key")()
    with pytest.raises(FatalEndpointError) as caught:
        await endpoint.client().complete(MESSAGES, seed=0)
    assert "sk-planted" not in repr(caught.value) + repr(vars(endpoint.client().config))


def test_works_on_several_event_loops() -> None:
    client = LLMClient(ExecutorConfig(executor_base_url="simulated"), http_client=lambda: in_process(SimulatedApp()))
    texts = [asyncio.run(client.complete(MESSAGES, seed=0)).text for _ in range(2)]
    assert texts[0] == texts[1]


def test_unknown_price_is_not_free() -> None:
    assert Price(None, 1.0).cost(Usage(10, 10)) is None
    assert Price(0.0, 0.0).cost(Usage(10, 10)) == 0.0


def test_dated_model_has_the_list_price_of_its_model() -> None:
    assert ExecutorConfig(executor_model="gpt-4o-mini-2024-07-18").price == ExecutorConfig().price
    assert ExecutorConfig().price.input_usd == 0.15


async def test_thousands_of_retries_at_once_stay_a_retry(endpoint: ScriptedEndpoint) -> None:
    """The exponential pause must not overflow, however often an endpoint asks to retry immediately."""
    client = endpoint.client(executor_call_timeout_s=60.0)
    slot = await client._state().scheduler.acquire(Priority(), 0)
    pause_s = client._pause(RetryLaterError("busy"), slot, 5_000, deadline=time.monotonic() + 60)
    assert 0 < pause_s <= MAX_BACKOFF_S
