"""The shell over `openai.AsyncOpenAI`: one retry loop, one deadline a call, one place that classifies."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import random
import time
import weakref
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import httpx2
import openai

from ..errors import FatalEndpointError, RecipeError, RejectedRequestError, RunBudgetError, UnavailableError
from .cache import CallCache, call_key
from .limiter import REPLIES_AT_ONCE, EndpointLimiter, EventLoopThrottle, Priority, Scheduler, Slot
from .retry import MAX_BODY_BYTES, RetryLaterError, classify_exception, estimate_usage, read_completion
from .types import OPENAI_URL, Completion, ExecutorConfig, Messages, Usage

FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 20.0

TRANSPORT_ERRORS = (
    openai.OpenAIError,
    httpx2.HTTPError,
    httpx2.StreamError,
    aiohttp.ClientError,
    OSError,
    ValueError,
)
"""What a request can raise: the SDK lets errors of both of its lower layers through."""
SIMULATED = "simulated"
"""Value of `executor_base_url` for the simulated executor."""


@dataclass
class Spending:
    """What a run has sent and spent; one for all clients of a run."""

    requests: int = 0
    """HTTP requests sent, failed ones included."""
    usd: float | None = 0.0
    """What they cost, with an estimate where no reply came; `None` if a price is unknown."""


@dataclass
class _LoopState:
    """What belongs to one event loop: it is built on the loop that uses it."""

    clients: dict[EndpointLimiter, openai.AsyncOpenAI]
    scheduler: Scheduler
    replies: EventLoopThrottle = field(default_factory=lambda: EventLoopThrottle(REPLIES_AT_ONCE))


class LLMClient:
    """
    Client of the executor. Safe to share; everything bound to an event loop is built lazily for that loop.

    Args:
        config ([`ExecutorConfig`]):
            Endpoint, model, sampling parameters and limits.
        http_client (`Callable[[], Any]`, *optional*):
            Builds the HTTP client handed to `openai.AsyncOpenAI`. Defaults to the aiohttp transport.
        cache ([`CallCache`], *optional*):
            Replies to use instead of asking again.
        spending ([`Spending`], *optional*):
            Account to add to. Defaults to one of its own.

    Raises:
        [`RecipeError`]: A real endpoint is named and its key is not in the environment.
    """

    def __init__(
        self,
        config: ExecutorConfig,
        http_client: Callable[[], Any] | None = None,
        cache: CallCache | None = None,
        spending: Spending | None = None,
    ) -> None:
        self.config = config
        self.cache = cache
        self.spending = spending or Spending()
        self._endpoints = endpoints(config)
        self._http_client = http_client or _aiohttp_client
        self._states: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopState] = weakref.WeakKeyDictionary()

    @property
    def host(self) -> str:
        """Where calls go, for messages; never holds the key."""
        return urlsplit(self.config.executor_base_url or OPENAI_URL).netloc or SIMULATED

    async def complete(
        self,
        messages: Messages,
        *,
        seed: int,
        temperature: float | None = None,
        priority: Priority | None = None,
    ) -> Completion:
        """
        One chat completion, with retries inside one overall deadline.

        Args:
            messages (`list[dict[str, str]]`):
                Chat messages.
            seed (`int`):
                Sampling seed sent along; equal seeds and messages ask for the same sample.
            temperature (`float`, *optional*):
                Overrides the configured temperature.
            priority ([`Priority`], *optional*):
                Decides who goes first where calls have to wait.

        Returns:
            [`Completion`]: The reply.

        Raises:
            [`UnavailableError`]: The endpoint did not deliver before the deadline.
            [`RejectedRequestError`]: The endpoint refused this very request.
            [`FatalEndpointError`]: No later call can succeed either.
            [`RunBudgetError`]: The run has spent its USD.
        """
        if self.cache is None:
            return await self._ask(messages, seed, temperature, priority)
        key = self._key_of(messages, seed, temperature)
        if (known := self.cache.get(key)) is not None:
            return known
        completion = await self._ask(messages, seed, temperature, priority)
        await self.cache.put(key, completion)
        return completion

    def _key_of(self, messages: Messages, seed: int, temperature: float | None) -> str:
        config = self.config
        heat = config.executor_temperature if temperature is None else temperature
        return call_key(
            [config.executor_base_url, config.executor_model, [_clean(message) for message in messages]],
            [heat, config.executor_top_p, config.executor_max_tokens],
            # Greedy samples are all the same one.
            seed if heat > 0 else None,
        )

    async def _ask(
        self, messages: Messages, seed: int, temperature: float | None, priority: Priority | None = None
    ) -> Completion:
        scheduler = self._state().scheduler
        reserved = estimate_usage(messages, "").prompt_tokens + self.config.executor_max_tokens
        priority = priority or Priority()
        # Waiting for a place of our own is no fault of the endpoint: it does not count.
        deadline = time.monotonic() + self.config.executor_call_timeout_s
        wall_s = 0.0
        for attempt in itertools.count(1):
            asked = time.monotonic()
            permit = await scheduler.acquire(priority, reserved)
            tokens: int | None = None
            try:
                self._check_budget()
                deadline += permit.sent_at - asked
                send = functools.partial(self._send, messages, seed, temperature, deadline)
                completion = await self._attempt(permit.lane, send, reserved)
                tokens = completion.usage.total
                permit.lane.answered(permit.sent_at)
                return replace(completion, attempts=attempt, wall_s=wall_s + time.monotonic() - permit.sent_at)
            except RetryLaterError as error:
                pause_s = self._pause(error, permit, attempt, deadline)
            except FatalEndpointError as error:
                raise FatalEndpointError(f"{error} (model {self.config.executor_model!r} at {self.host})") from None
            finally:
                scheduler.release(permit, tokens)
            await asyncio.sleep(pause_s)
            wall_s += time.monotonic() - permit.sent_at
        raise AssertionError("unreachable")

    async def ping(self) -> float:
        """
        One tiny call, before anything expensive starts.

        Returns:
            `float`: Latency in seconds.

        Raises:
            [`FatalEndpointError`]: The endpoint cannot serve this run; names model, host and reason, never the key.
        """
        started = time.monotonic()
        try:
            await self._ask([{"role": "user", "content": "Reply with the word ready."}], 0, None)
        except (UnavailableError, RejectedRequestError) as error:
            raise FatalEndpointError(
                f"the executor {self.config.executor_model!r} at {self.host} does not answer: {error}. "
                "Check executor_base_url and executor_model, and that the endpoint is up."
            ) from None
        return time.monotonic() - started

    async def aclose(self) -> None:
        """Close the connections of the running event loop; a later call opens new ones."""
        state = self._states.pop(asyncio.get_running_loop(), None)
        if state is not None:
            for client in state.clients.values():
                await client.close()

    async def _attempt(
        self,
        lane: EndpointLimiter,
        send: Callable[[EndpointLimiter], Coroutine[Any, Any, Completion]],
        reserved: float,
    ) -> Completion:
        """One request; with `executor_hedge_after_s` a second one beside a slow one, and the first good reply."""
        if self.config.executor_hedge_after_s is None:
            return await send(lane)
        scheduler = self._state().scheduler
        calls, permit = [asyncio.ensure_future(send(lane))], None
        try:
            await asyncio.wait(calls, timeout=self.config.executor_hedge_after_s)
            if not calls[0].done() and (permit := scheduler.acquire_free(reserved)) is not None:
                calls.append(asyncio.ensure_future(send(permit.lane)))
            pending = set(calls)
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for call in done:
                    if call.exception() is None:
                        return call.result()
            return calls[0].result()
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            if permit is not None:
                scheduler.release(permit)

    async def _send(
        self, messages: Messages, seed: int, temperature: float | None, deadline: float, lane: EndpointLimiter
    ) -> Completion:
        self.spending.requests += 1
        try:
            call = self._request(lane, messages, seed, temperature)
            completion = await asyncio.wait_for(call, max(0.0, deadline - time.monotonic()))
        except asyncio.CancelledError:
            self._pay(estimate_usage(messages, ""))
            raise
        except asyncio.TimeoutError:
            # The server may have done, and will bill, the work.
            self._pay(estimate_usage(messages, ""))
            raise UnavailableError(f"no answer within {self.config.executor_call_timeout_s:g} s") from None
        except RetryLaterError as error:
            if error.may_be_billed:
                self._pay(estimate_usage(messages, ""))
            raise
        self._pay(completion.usage)
        return completion

    def _pay(self, usage: Usage) -> None:
        cost = self.config.price.cost(usage)
        usd = self.spending.usd
        self.spending.usd = None if cost is None or usd is None else usd + cost

    def _check_budget(self) -> None:
        limit = self.config.executor_max_usd
        if limit is None:
            return
        # Each process of a run spends an equal share.
        own = limit / int(os.environ.get("WORLD_SIZE", "1"))
        if self.spending.usd is not None and self.spending.usd >= own:
            raise RunBudgetError(f"the run has spent its budget of {limit:g} USD (executor_max_usd)")

    async def _request(
        self, lane: EndpointLimiter, messages: Messages, seed: int, temperature: float | None
    ) -> Completion:
        config, state = self.config, self._state()
        try:
            stream = state.clients[lane].chat.completions.with_streaming_response.create(
                model=config.executor_model,
                # The SDK checks every message against its types, a third of the processor time of a call.
                messages=[],
                extra_body={"messages": [_clean(message) for message in messages]},
                temperature=config.executor_temperature if temperature is None else temperature,
                top_p=config.executor_top_p,
                max_tokens=config.executor_max_tokens,
                seed=seed,
            )
            async with stream as response:
                await state.replies.wait_turn()
                content = bytearray()
                async for chunk in response.http_response.aiter_bytes():
                    content += chunk
                    if len(content) > MAX_BODY_BYTES:
                        raise UnavailableError(f"the reply is larger than {MAX_BODY_BYTES} bytes")
        except TRANSPORT_ERRORS as error:
            raise classify_exception(error) from None
        return read_completion(bytes(content), messages)

    def _pause(self, error: RetryLaterError, permit: Slot, attempt: int, deadline: float) -> float:
        """Seconds until the next attempt; [`UnavailableError`] if there is none. May slow the whole lane down."""
        pause_s: float = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
        if error.retry_after_s is not None:
            pause_s = error.retry_after_s
        if error.rate_limited:
            permit.lane.rate_limited(permit.sent_at, min(pause_s, self.config.executor_call_timeout_s))
        elif len(self._endpoints) > 1:
            permit.lane.rest()
        if error.max_attempts is not None and attempt >= error.max_attempts:
            raise UnavailableError(str(error)) from None
        if time.monotonic() + pause_s >= deadline:
            raise UnavailableError(f"{error} (after {attempt} attempts)") from None
        return pause_s

    def _state(self) -> _LoopState:
        loop = asyncio.get_running_loop()
        state = self._states.get(loop)
        if state is None:
            config = self.config
            clients = {}
            for base_url, key in self._endpoints:
                lane = EndpointLimiter(config.executor_concurrency, config.executor_rpm, config.executor_tpm)
                clients[lane] = openai.AsyncOpenAI(
                    base_url=base_url,
                    api_key=key,
                    max_retries=0,
                    timeout=config.executor_call_timeout_s,
                    http_client=self._http_client(),
                )
            state = self._states[loop] = _LoopState(clients, Scheduler(list(clients)))
        return state


def endpoints(config: ExecutorConfig) -> list[tuple[str | None, str]]:
    """Base URL and key of every endpoint of the pool, the first one first."""
    found = [(_base_url(config), api_key(config))]
    for entry in config.executor_pool or []:
        base_url, _, variable = entry.strip().partition(" ")
        own = replace(config, executor_base_url=base_url, executor_pool=None)
        own.executor_api_key_env = variable.strip() or config.executor_api_key_env
        found.append((_base_url(own), api_key(own)))
    return found


def api_key(config: ExecutorConfig) -> str:
    """The key named by the config; a [`RecipeError`] if a real endpoint is named and there is none."""
    key = os.environ.get(config.executor_api_key_env, "")
    if config.executor_base_url == SIMULATED:
        return "simulated"
    if not key:
        raise RecipeError(
            f"the environment variable {config.executor_api_key_env} is empty, but the endpoint "
            f"{config.executor_base_url or 'of OpenAI'} needs a key. Export it, name another variable with "
            "executor_api_key_env, or set executor_base_url: simulated."
        )
    return key


def _clean(message: dict[str, str]) -> dict[str, str]:
    """The message without lone surrogates, which no request can carry."""
    return {name: text.encode("utf-8", errors="replace").decode("utf-8") for name, text in message.items()}


def _base_url(config: ExecutorConfig) -> str | None:
    return "http://simulated/v1" if config.executor_base_url == SIMULATED else config.executor_base_url


def _aiohttp_client() -> Any:
    return openai.DefaultAioHttpClient(follow_redirects=False)
