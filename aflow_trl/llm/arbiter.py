"""Who is to blame for an HTTP error: the request of a workflow, or whatever all requests share."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..errors import FatalEndpointError, RejectedRequestError, RunBudgetError, UnavailableError
from .config import SIMULATED, ExecutorConfig
from .limiter import EndpointLimiter, Slot
from .retry import ContestedError, RetryLaterError
from .types import Messages

CONTROL_MESSAGES: Messages = [{"role": "user", "content": "Reply with the word ready."}]
"""Request that every endpoint should answer: it is made at the start, and to find out who is to blame for an error."""


@dataclass(frozen=True, slots=True)
class _Control:
    """A control request: a tiny one with the parameters of all others."""

    sent_at: float
    failure: str
    """Why it failed; empty if it was answered."""


class Arbiter:
    """
    Settles contested errors by control requests, one at a time for each event loop.

    Args:
        send (`Callable[[EndpointLimiter], Awaitable[None]]`):
            Sends a control request to an endpoint, once.
        proven (`set[EndpointLimiter]`):
            Endpoints that have answered a request; shared with the client.
        config ([`ExecutorConfig`]):
            Address, for the hint in a message.
    """

    def __init__(
        self,
        send: Callable[[EndpointLimiter], Awaitable[None]],
        proven: set[EndpointLimiter],
        config: ExecutorConfig,
    ) -> None:
        self._send, self._proven, self._config = send, proven, config
        self._lock = asyncio.Lock()
        self._latest: dict[EndpointLimiter, _Control] = {}
        """Latest control request of each endpoint."""

    async def settle(self, error: ContestedError, slot: Slot) -> None:
        """
        Find out who is to blame for an error.

        Raises:
            [`RejectedRequestError`]: The endpoint serves other requests, so this one is at fault.
            [`FatalEndpointError`]: A control request fails as well: key, model, address or a parameter is wrong.
            [`UnavailableError`]: The endpoint does not answer now, or the error passes.
        """
        if error.names_content and slot.endpoint in self._proven:
            raise RejectedRequestError(str(error)) from None
        async with self._lock:
            control = self._latest.get(slot.endpoint)
            # A control request says something about a request that was sent before it.
            if control is None or control.sent_at < slot.sent_at:
                control = self._latest[slot.endpoint] = await self._control(slot.endpoint)
        # The page of a gateway may come and go, if the endpoint behind it has answered before.
        is_page = not error.structured and slot.endpoint in self._proven
        if control.failure and not is_page:
            same = control.failure == str(error)
            reason = (
                "a tiny request fails in the same way" if same else f"a tiny request fails, too: {control.failure}"
            )
            raise FatalEndpointError(f"{error}{hint(error, self._config)} ({reason})") from None
        if control.failure:
            raise RetryLaterError(str(error)) from None
        if error.blames_request:
            raise RejectedRequestError(str(error)) from None
        # Such as the error page of a gateway between us and an endpoint that works.
        raise RetryLaterError(f"{error}, while a tiny request is answered") from None

    async def _control(self, endpoint: EndpointLimiter) -> _Control:
        sent_at = time.monotonic()
        try:
            await self._send(endpoint)
        except (ContestedError, FatalEndpointError) as error:
            if isinstance(error, RunBudgetError):
                raise
            return _Control(sent_at, str(error))
        except RetryLaterError as error:
            if error.fallback is None:
                raise UnavailableError(str(error)) from None
        self._proven.add(endpoint)
        return _Control(sent_at, "")


def hint(error: ContestedError, config: ExecutorConfig) -> str:
    """What a user may have meant, for the errors that first attempts run into."""
    base_url = (config.executor_base_url or "").rstrip("/")
    if error.status == 404 and base_url != SIMULATED and not re.search(r"/v\d", base_url):
        return f" Did you mean executor_base_url: {base_url}/v1?"
    return ""
