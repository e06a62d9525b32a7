"""Client of the executor: a shell over `openai.AsyncOpenAI` with one retry loop and one deadline for each call."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import random
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import httpx2
import openai

from ..errors import FatalEndpointError, RunBudgetError, UnavailableError
from .arbiter import CONTROL_MESSAGES, Arbiter, hint
from .cache import CallCache, call_key
from .config import LIMITS, SIMULATED, ExecutorConfig, as_mapping
from .endpoints import endpoints, extra_headers
from .limiter import REPLIES_PER_TURN, EndpointLimiter, EventLoopThrottle, Priority, Scheduler, Slot
from .profile import EndpointProfile
from .replies import MAX_BODY_BYTES, estimate_usage, read_completion
from .retry import ContestedError, RetryLaterError, classify_exception
from .types import Completion, Messages, Usage

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.5
"""Pause before the first retry, doubled with each further one."""
MAX_BACKOFF_S = 20.0
FIRST_CONTACTS = 3
"""Attempts to connect before the first reply, where a wrong address is more likely than an outage."""
MODELS_TIMEOUT_S = 10.0
LONG_PAUSE_S, LONG_ATTEMPT, TELL_EVERY_S = 5.0, 4, 30.0
"""A pause or an attempt from which on the user is told what a call waits for, and how often."""

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


class _Request(NamedTuple):
    """A request without the model."""

    messages: Messages
    fields: dict[str, Any]


@dataclass
class _LoopState:
    """Objects bound to one event loop; they have to be created on the loop that uses them."""

    clients: dict[EndpointLimiter, openai.AsyncOpenAI]
    scheduler: Scheduler
    arbiter: Arbiter
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
        self.profile: EndpointProfile | None = None
        """What a preflight found; `None` if there was none."""
        self.cache = cache
        self.spending = spending or Spending()
        # Read here and not at the first call, so that a missing key is reported before anything expensive starts.
        self._endpoints = endpoints(config)
        self._extra_headers = extra_headers(config)
        # The SDK sends a key unless it is told not to.
        keyless = {"Authorization": openai.Omit()} if config.executor_api_key_env is None else {}
        self._headers: dict[str, str | openai.Omit] = {**self._extra_headers, **keyless}
        self._http_client = http_client or _aiohttp_client
        self._proven: set[EndpointLimiter] = set()
        """Endpoints that have answered a request."""
        self._told_of_thinking = False
        self._told_at = float("-inf")
        """When the user was told last what a call waits for."""
        # Weak, so that the connections of a finished loop do not accumulate.
        self._states: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopState] = weakref.WeakKeyDictionary()

    @property
    def concurrency(self) -> int:
        """Requests that may be in flight at once, over all endpoints."""
        return self.config.executor_concurrency * len(self._endpoints)

    @property
    def host(self) -> str:
        """Host of the endpoint, for messages; never contains the API key."""
        return urlsplit(self.config.executor_base_url or "").netloc or SIMULATED

    def follow(self, profile: EndpointProfile) -> None:
        """Send requests in the way that a preflight has found to be accepted."""
        self.profile, self.config = profile, profile.applied_to(self.config)

    def fingerprint(self) -> str:
        """Digest of everything that a profile depends on: configuration, keys and headers, but no limits."""
        fields = {name: value for name, value in asdict(self.config).items() if name not in LIMITS}
        return call_key(fields, self._endpoints, self._extra_headers)

    async def complete(
        self,
        messages: Messages,
        *,
        seed: int,
        temperature: float | None = None,
        priority: Priority | None = None,
        response_format: Mapping[str, Any] | None = None,
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
            response_format (`Mapping[str, Any]`, *optional*):
                Form of the reply, in the terms of the OpenAI API.

        Returns:
            [`Completion`]: The reply.

        Raises:
            [`UnavailableError`]: The endpoint did not deliver before the deadline.
            [`RejectedRequestError`]: The endpoint rejected this particular request.
            [`FatalEndpointError`]: No later call can succeed either.
            [`RunBudgetError`]: The USD budget of the run is spent.
        """
        request = self._chat_request(messages, seed, temperature, response_format)
        if self.cache is None:
            return await self._request_with_retries(request, priority)
        key = self._cache_key(request)
        # A call may take its deadline, and as long again where the endpoint asks to wait.
        async with self.cache.lease(key, 2 * self.config.executor_call_timeout_s) as stored:
            if stored is not None:
                return stored
            completion = await self._request_with_retries(request, priority)
            await self.cache.put(key, completion)
            return completion

    async def ask_uncontested(
        self,
        messages: Messages,
        *,
        seed: int = 0,
        response_format: Mapping[str, Any] | None = None,
        max_attempts: int | None = None,
    ) -> Completion:
        """
        Make one call past the cache, without asking who is to blame for an error.

        Raises:
            [`ContestedError`]: The endpoint refuses the request.
            [`EndpointError`]: It cannot be used.
        """
        request = self._chat_request(messages, seed, None, response_format)
        return await self._request_with_retries(request, contest=False, max_attempts=max_attempts)

    async def ping(self) -> Completion:
        """
        Make one tiny call, before anything expensive starts. It bypasses the cache.

        Returns:
            [`Completion`]: The reply.

        Raises:
            [`FatalEndpointError`]: The endpoint cannot serve this run. The message names model, host and reason, never
                the API key.
        """
        try:
            return await self.ask_uncontested(CONTROL_MESSAGES)
        except ContestedError as error:
            raise self.fatal(f"{error}{hint(error, self.config)}") from error
        except UnavailableError as error:
            raise FatalEndpointError(
                f"the executor {self.config.executor_model!r} at {self.host} does not answer: {error}. "
                "Check executor_base_url and executor_model, and that the endpoint is running."
            ) from None

    def fatal(self, reason: str) -> FatalEndpointError:
        """An error that names model and host."""
        return FatalEndpointError(f"{reason} (model {self.config.executor_model!r} at {self.host})")

    async def models(self) -> object:
        """What the endpoint says about its models: JSON of its `/models`; `None` if it has no such page."""
        client = next(iter(self._state().clients.values()))
        try:
            reply = await client.with_options(timeout=MODELS_TIMEOUT_S).models.with_raw_response.list(
                extra_headers=self._headers, extra_query=as_mapping(self.config.executor_query)
            )
            return reply.http_response.json()
        except TRANSPORT_ERRORS:
            return None

    async def aclose(self) -> None:
        """Close the connections of the running event loop; a later call opens new ones."""
        state = self._states.pop(asyncio.get_running_loop(), None)
        if state is not None:
            for client in state.clients.values():
                await client.close()

    def _chat_request(
        self,
        messages: Messages,
        seed: int,
        temperature: float | None,
        response_format: Mapping[str, Any] | None,
    ) -> _Request:
        config = self.config
        fields = config.parameters(config.executor_temperature if temperature is None else temperature, seed)
        if response_format is not None:
            fields["response_format"] = response_format
        return _Request([_encodable(message) for message in messages], fields)

    def _cache_key(self, request: _Request) -> str:
        config, fields = self.config, dict(request.fields)
        # Greedy samples do not depend on the seed.
        if fields.get("temperature") == 0 and "seed" in fields:
            fields["seed"] = 0
        return call_key(
            [config.executor_base_url, config.executor_model, request.messages],
            fields,
            [config.executor_query, config.executor_extra_headers],
        )

    async def _request_with_retries(
        self,
        request: _Request,
        priority: Priority | None = None,
        *,
        contest: bool = True,
        max_attempts: int | None = None,
    ) -> Completion:
        """Send a request until it is answered; `contest` has a control request tell who is to blame for an error."""
        state = self._state()
        scheduler = state.scheduler
        reserved = estimate_usage(request.messages, "").prompt_tokens + self.config.executor_max_tokens
        priority = priority or Priority()
        deadline = time.monotonic() + self.config.executor_call_timeout_s
        # What an endpoint asks us to wait extends the deadline, too, but not without end.
        extension_s = self.config.executor_call_timeout_s
        wall_s, queued_s, attempt = 0.0, 0.0, 0
        while True:
            attempt += 1
            queued_at = time.monotonic()
            slot = await scheduler.acquire(priority, reserved)
            tokens: int | None = None
            try:
                self._check_budget()
                # The wait for a slot is due to our limits, not to the endpoint, so it extends the deadline.
                deadline += slot.sent_at - queued_at
                queued_s += slot.sent_at - queued_at
                send = functools.partial(self._send, request, deadline)
                try:
                    completion = await self._send_hedged(slot.endpoint, send, reserved)
                except ContestedError as error:
                    if contest:
                        await state.arbiter.settle(error, slot)
                    raise
                tokens = completion.usage.total
                slot.endpoint.answered()
                self._proven.add(slot.endpoint)
                wall_s += time.monotonic() - slot.sent_at
                return replace(completion, attempts=attempt, wall_s=wall_s, queued_s=queued_s)
            except RetryLaterError as error:
                if attempt == max_attempts:
                    raise
                if error.fallback is not None and attempt >= (error.max_attempts or 1):
                    wall_s += time.monotonic() - slot.sent_at
                    return replace(error.fallback, attempts=attempt, wall_s=wall_s, queued_s=queued_s)
                if error.unreachable and attempt >= FIRST_CONTACTS and not self._proven:
                    raise FatalEndpointError(
                        f"{error} The executor {self.config.executor_model!r} at {self.host} has never been reached. "
                        "Check executor_base_url, and that the endpoint is running."
                    ) from None
                extra_s = min(error.retry_after_s or 0.0, extension_s) if error.rate_limited else 0.0
                deadline, extension_s = deadline + extra_s, extension_s - extra_s
                pause_s = self._pause(error, slot, attempt, deadline)
            except RunBudgetError:
                raise
            except FatalEndpointError as error:
                if not scheduler.drop(slot.endpoint):
                    raise self.fatal(str(error)) from None
                logger.warning("an endpoint of the pool is not used any more: %s", error)
                pause_s = 0.0
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

    async def _send(self, request: _Request, deadline: float, endpoint: EndpointLimiter) -> Completion:
        messages = request.messages
        self.spending.requests += 1
        try:
            call = self._request(endpoint, request)
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
                self._pay(error.usage or estimate_usage(messages, ""))
            raise
        self._pay(completion.usage)
        if completion.thought_out and not self._told_of_thinking:
            self._told_of_thinking = True
            logger.warning(
                "%s: all %d tokens of a reply went into thinking, so that none was left for the answer; raise "
                "executor_max_tokens, or lower executor_reasoning_effort",
                self.host,
                completion.usage.completion_tokens,
            )
        return completion

    async def _request(self, endpoint: EndpointLimiter, request: _Request) -> Completion:
        config, state = self.config, self._state()
        try:
            # Streamed, so that the size of the body can be limited.
            stream = state.clients[endpoint].chat.completions.with_streaming_response.create(
                model=config.executor_model,
                # The SDK validates every message, which takes a third of the processor time of a call; `extra_body`
                # bypasses the validation and overrides the empty list.
                messages=[],
                extra_body={"messages": request.messages, **request.fields},
                extra_headers=self._headers,
                extra_query=as_mapping(config.executor_query),
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
        return read_completion(bytes(content), request.messages, response.headers)

    async def _control(self, endpoint: EndpointLimiter) -> None:
        request = self._chat_request(CONTROL_MESSAGES, 0, None, None)
        await self._send(request, time.monotonic() + self.config.executor_call_timeout_s, endpoint)

    def _pay(self, usage: Usage) -> None:
        cost = self.config.cost(usage)
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
        # Not less than ours: an endpoint that asks for 0 seconds for ever would get thousands of requests.
        pause_s = max(pause_s, error.retry_after_s or 0.0)
        if error.rate_limited:
            slot.endpoint.rate_limited(min(pause_s, self.config.executor_call_timeout_s))
        elif len(self._endpoints) > 1:
            slot.endpoint.cool_down()
        if error.max_attempts is not None and attempt >= error.max_attempts:
            raise UnavailableError(str(error)) from None
        now = time.monotonic()
        if now + pause_s >= deadline:
            raise UnavailableError(f"{error} (after {attempt} attempts)") from None
        if (pause_s > LONG_PAUSE_S or attempt == LONG_ATTEMPT) and now > self._told_at + TELL_EVERY_S:
            self._told_at = now
            logger.warning("waiting %.0f s for %s: %s", pause_s, self.host, error)
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
            arbiter = Arbiter(self._control, self._proven, config)
            state = self._states[loop] = _LoopState(clients, Scheduler(list(clients)), arbiter)
        return state


def _encodable(message: dict[str, str]) -> dict[str, str]:
    """The message without lone surrogates, which UTF-8 cannot encode."""
    return {name: text.encode("utf-8", errors="replace").decode("utf-8") for name, text in message.items()}


def _aiohttp_client() -> httpx2.AsyncClient:
    # Followed, a redirect would carry the API key to a host that the recipe does not name.
    return openai.DefaultAioHttpClient(follow_redirects=False)
