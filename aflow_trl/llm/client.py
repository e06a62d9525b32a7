"""Client of the executor: a shell over `openai.AsyncOpenAI` with one retry loop and one deadline for each call."""

from __future__ import annotations

import asyncio
import functools
import os
import random
import time
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import aiohttp
import httpx2
import openai

from ..errors import FatalEndpointError, RejectedRequestError, RunBudgetError, UnavailableError
from .cache import CallCache, call_key
from .config import OPENAI_URL, ExecutorConfig
from .endpoints import SIMULATED, endpoints
from .limiter import REPLIES_PER_TURN, EndpointLimiter, EventLoopThrottle, Priority, Scheduler, Slot
from .retry import MAX_BODY_BYTES, RetryLaterError, classify_exception, estimate_usage, read_completion
from .types import Completion, Messages, Usage

FIRST_BACKOFF_S = 0.5
"""Pause before the first retry, doubled with each further one."""
MAX_BACKOFF_S = 20.0

# The SDK lets errors of both of its lower layers through, and `ValueError`s of their decoders.
TRANSPORT_ERRORS = (
    openai.OpenAIError,
    httpx2.HTTPError,
    httpx2.StreamError,
    aiohttp.ClientError,
    OSError,
    ValueError,
)
"""Everything that sending a request and reading its reply can raise."""


@dataclass
class Spending:
    """Requests and USD of a run, shared by all its clients."""

    requests: int = 0
    """HTTP requests sent, including failed ones."""
    usd: float | None = 0.0
    """Their cost, estimated where no reply came; `None` if a price is unknown."""


@dataclass
class _LoopState:
    """Objects bound to one event loop; they have to be created on the loop that uses them."""

    clients: dict[EndpointLimiter, openai.AsyncOpenAI]
    scheduler: Scheduler
    replies: EventLoopThrottle = field(default_factory=lambda: EventLoopThrottle(REPLIES_PER_TURN))


class LLMClient:
    """
    Client of the executor. Safe to share; objects bound to an event loop are created lazily for each loop.

    Args:
        config ([`ExecutorConfig`]):
            Endpoint, model, sampling parameters and limits.
        http_client (`Callable[[], httpx2.AsyncClient]`, *optional*):
            Factory of the HTTP client that `openai.AsyncOpenAI` uses. Defaults to the aiohttp transport.
        cache ([`CallCache`], *optional*):
            Disk cache of replies. If `None`, every call is sent.
        spending ([`Spending`], *optional*):
            Account to which requests and costs are added. Defaults to a new one.

    Raises:
        [`RecipeError`]: The API key of a real endpoint is not in the environment.
    """

    def __init__(
        self,
        config: ExecutorConfig,
        http_client: Callable[[], httpx2.AsyncClient] | None = None,
        cache: CallCache | None = None,
        spending: Spending | None = None,
    ) -> None:
        self.config = config
        self.cache = cache
        self.spending = spending or Spending()
        # Read here and not at the first call, so that a missing key is reported before anything expensive starts.
        self._endpoints = endpoints(config)
        self._http_client = http_client or _aiohttp_client
        # Weak, so that the connections of a finished loop do not accumulate.
        self._states: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopState] = weakref.WeakKeyDictionary()

    @property
    def host(self) -> str:
        """Host of the endpoint, for messages; never contains the API key."""
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
        Request one chat completion, with retries within one overall deadline.

        Args:
            messages (`list[dict[str, str]]`):
                Chat messages.
            seed (`int`):
                Sampling seed; equal seeds and messages request the same sample.
            temperature (`float`, *optional*):
                Overrides the configured temperature.
            priority ([`Priority`], *optional*):
                Priority of the call while it waits for a slot.

        Returns:
            [`Completion`]: The reply.

        Raises:
            [`UnavailableError`]: The endpoint did not deliver before the deadline.
            [`RejectedRequestError`]: The endpoint rejected this particular request.
            [`FatalEndpointError`]: No later call can succeed either.
            [`RunBudgetError`]: The USD budget of the run is spent.
        """
        if self.cache is None:
            return await self._request_with_retries(messages, seed, temperature, priority)
        key = self._cache_key(messages, seed, temperature)
        if (cached := self.cache.get(key)) is not None:
            return cached
        completion = await self._request_with_retries(messages, seed, temperature, priority)
        await self.cache.put(key, completion)
        return completion

    async def ping(self) -> float:
        """
        Make one tiny call, before anything expensive starts. It bypasses the cache.

        Returns:
            `float`: Latency in seconds.

        Raises:
            [`FatalEndpointError`]: The endpoint cannot serve this run. The message names model, host and reason, never
                the API key.
        """
        started = time.monotonic()
        try:
            await self._request_with_retries([{"role": "user", "content": "Reply with the word ready."}], 0, None)
        except (UnavailableError, RejectedRequestError) as error:
            raise FatalEndpointError(
                f"the executor {self.config.executor_model!r} at {self.host} does not answer: {error}. "
                "Check executor_base_url and executor_model, and that the endpoint is running."
            ) from None
        return time.monotonic() - started

    async def aclose(self) -> None:
        """Close the connections of the running event loop; a later call opens new ones."""
        state = self._states.pop(asyncio.get_running_loop(), None)
        if state is not None:
            for client in state.clients.values():
                await client.close()

    def _cache_key(self, messages: Messages, seed: int, temperature: float | None) -> str:
        config = self.config
        temperature = config.executor_temperature if temperature is None else temperature
        return call_key(
            [config.executor_base_url, config.executor_model, [_encodable(message) for message in messages]],
            [temperature, config.executor_top_p, config.executor_max_tokens],
            # Greedy samples do not depend on the seed.
            seed if temperature > 0 else None,
        )

    async def _request_with_retries(
        self, messages: Messages, seed: int, temperature: float | None, priority: Priority | None = None
    ) -> Completion:
        scheduler = self._state().scheduler
        reserved = estimate_usage(messages, "").prompt_tokens + self.config.executor_max_tokens
        priority = priority or Priority()
        deadline = time.monotonic() + self.config.executor_call_timeout_s
        wall_s, attempt = 0.0, 0
        while True:
            attempt += 1
            queued_at = time.monotonic()
            slot = await scheduler.acquire(priority, reserved)
            tokens: int | None = None
            try:
                self._check_budget()
                # The wait for a slot is due to our limits, not to the endpoint, so it extends the deadline.
                deadline += slot.sent_at - queued_at
                send = functools.partial(self._send, messages, seed, temperature, deadline)
                completion = await self._send_hedged(slot.endpoint, send, reserved)
                tokens = completion.usage.total
                slot.endpoint.answered(slot.sent_at)
                return replace(completion, attempts=attempt, wall_s=wall_s + time.monotonic() - slot.sent_at)
            except RetryLaterError as error:
                pause_s = self._pause(error, slot, attempt, deadline)
            except RunBudgetError:
                raise
            except FatalEndpointError as error:
                raise FatalEndpointError(f"{error} (model {self.config.executor_model!r} at {self.host})") from None
            finally:
                scheduler.release(slot, tokens)
            # The slot is free during the pause: other calls need not wait for a retry.
            await asyncio.sleep(pause_s)
            wall_s += time.monotonic() - slot.sent_at

    async def _send_hedged(
        self,
        endpoint: EndpointLimiter,
        send: Callable[[EndpointLimiter], Awaitable[Completion]],
        reserved: float,
    ) -> Completion:
        """Send a request, and a second one if it is slow and `executor_hedge_after_s` is set; the first reply wins."""
        if self.config.executor_hedge_after_s is None:
            return await send(endpoint)
        scheduler = self._state().scheduler
        calls, second_slot = [asyncio.ensure_future(send(endpoint))], None
        try:
            await asyncio.wait(calls, timeout=self.config.executor_hedge_after_s)
            if not calls[0].done() and (second_slot := scheduler.acquire_free(reserved)) is not None:
                calls.append(asyncio.ensure_future(send(second_slot.endpoint)))
            pending = set(calls)
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for call in done:
                    if call.exception() is None:
                        return call.result()
            # Both failed: the first one's error decides, as it would without hedging.
            return calls[0].result()
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            if second_slot is not None:
                scheduler.release(second_slot)

    async def _send(
        self, messages: Messages, seed: int, temperature: float | None, deadline: float, endpoint: EndpointLimiter
    ) -> Completion:
        self.spending.requests += 1
        try:
            call = self._request(endpoint, messages, seed, temperature)
            completion = await asyncio.wait_for(call, max(0.0, deadline - time.monotonic()))
        except asyncio.CancelledError:
            # The request may have reached the endpoint.
            self._pay(estimate_usage(messages, ""))
            raise
        except asyncio.TimeoutError:
            # The endpoint may have done the work, and then bills it.
            self._pay(estimate_usage(messages, ""))
            raise UnavailableError(f"no answer within {self.config.executor_call_timeout_s:g} s") from None
        except RetryLaterError as error:
            if error.may_be_billed:
                self._pay(estimate_usage(messages, ""))
            raise
        self._pay(completion.usage)
        return completion

    async def _request(
        self, endpoint: EndpointLimiter, messages: Messages, seed: int, temperature: float | None
    ) -> Completion:
        config, state = self.config, self._state()
        try:
            # Streamed, so that the size of the body can be limited.
            stream = state.clients[endpoint].chat.completions.with_streaming_response.create(
                model=config.executor_model,
                # The SDK validates every message, which takes a third of the processor time of a call; `extra_body`
                # bypasses the validation and overrides the empty list.
                messages=[],
                extra_body={"messages": [_encodable(message) for message in messages]},
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

    def _pay(self, usage: Usage) -> None:
        cost = self.config.price.cost(usage)
        usd = self.spending.usd
        self.spending.usd = None if cost is None or usd is None else usd + cost

    def _check_budget(self) -> None:
        limit = self.config.executor_max_usd
        if limit is None:
            return
        # Processes do not know each other's spending, so each may spend an equal share.
        share = limit / int(os.environ.get("WORLD_SIZE", "1"))
        if self.spending.usd is not None and self.spending.usd >= share:
            raise RunBudgetError(f"the run has spent its budget of {limit:g} USD (executor_max_usd)")

    def _pause(self, error: RetryLaterError, slot: Slot, attempt: int, deadline: float) -> float:
        """
        Handle a failed attempt.

        Returns:
            `float`: Seconds until the next attempt.

        Raises:
            [`UnavailableError`]: There is no next attempt.
        """
        # The exponent is capped: with `Retry-After: 0` there can be thousands of attempts, and 2**1024 is no float.
        pause_s: float = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(attempt - 1, 16)) * random.uniform(0.5, 1.0)
        if error.retry_after_s is not None:
            pause_s = error.retry_after_s
        if error.rate_limited:
            slot.endpoint.rate_limited(slot.sent_at, min(pause_s, self.config.executor_call_timeout_s))
        elif len(self._endpoints) > 1:
            slot.endpoint.cool_down()
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
                limiter = EndpointLimiter(config.executor_concurrency, config.executor_rpm, config.executor_tpm)
                clients[limiter] = openai.AsyncOpenAI(
                    base_url=base_url,
                    api_key=key,
                    # The retries of the SDK would count neither towards the limits nor towards the deadline.
                    max_retries=0,
                    timeout=config.executor_call_timeout_s,
                    http_client=self._http_client(),
                )
            state = self._states[loop] = _LoopState(clients, Scheduler(list(clients)))
        return state


def _encodable(message: dict[str, str]) -> dict[str, str]:
    """The message without lone surrogates, which UTF-8 cannot encode."""
    return {name: text.encode("utf-8", errors="replace").decode("utf-8") for name, text in message.items()}


def _aiohttp_client() -> httpx2.AsyncClient:
    # Followed, a redirect would carry the API key to a host that the recipe does not name.
    return openai.DefaultAioHttpClient(follow_redirects=False)
