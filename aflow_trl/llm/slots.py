"""Concurrency that gives way to an endpoint: halved once for each episode of rate limiting, regained call by call."""

from __future__ import annotations

import asyncio
import time
from collections import deque


class Slots:
    """
    A limit on calls in flight that adapts, for one event loop. Use as an async context around one request.

    Args:
        most (`int`):
            Slots at the start, and the most there will ever be.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(most)
        """Slots there are now; what counts is the whole part."""
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._shrunk_at = float("-inf")

    async def __aenter__(self) -> None:
        while self._taken >= int(self.limit):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                self._call_next()
                raise
        self._taken += 1

    async def __aexit__(self, *details: object) -> None:
        self._taken -= 1
        self._call_next()

    def rate_limited(self, sent_at: float) -> None:
        """A request sent at this time (monotonic, in seconds) was refused for its rate: halve the limit.

        Requests that were already under way when the limit shrank belong to the same episode and change nothing.
        """
        if sent_at > self._shrunk_at:
            self._shrunk_at = time.monotonic()
            self.limit = max(1.0, self.limit // 2)

    def answered(self, sent_at: float) -> None:
        """A request sent at this time was answered: regain one slot for every `limit` of these."""
        if sent_at > self._shrunk_at:
            self.limit = min(float(self.most), self.limit + 1 / self.limit)
            self._call_next()

    def _call_next(self) -> None:
        free = int(self.limit) - self._taken
        while free > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                free -= 1
