"""
Which call goes next, and where: limits of the endpoints of a pool, and one queue for all calls.

A call waits only while no endpoint may take it. Of those that wait, the one with the longest way still to go goes
first, so that the last workflow of a batch does not start when the others end.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import deque
from dataclasses import dataclass, field

GRANTS_AT_ONCE = 16
"""Calls that may start in one turn of the event loop: building a request takes about a millisecond."""
REPLIES_AT_ONCE = 8
"""Replies that may be taken in in one turn: each goes on to the workflow's next call."""
MAX_REST_S = 30.0
WINDOW_S = 60.0
"""Length of the window that requests and tokens are limited in."""


class Window:
    """
    A limit on a sum in any minute, kept exactly.

    Args:
        limit (`int`, *optional*):
            Most in a minute; `None` for no limit.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._entries: deque[list[float]] = deque()
        self._sum = 0.0

    def free_at(self, amount: float, now: float) -> float:
        """The moment (monotonic, in seconds) from which the amount fits; `now` if it fits already."""
        if self.limit is None:
            return now
        while self._entries and self._entries[0][0] <= now - WINDOW_S:
            self._sum -= self._entries.popleft()[1]
        over = self._sum + min(amount, self.limit) - self.limit
        if over <= 0:
            return now
        for moment, held in self._entries:
            over -= held
            if over <= 0:
                return moment + WINDOW_S
        return now

    def reserve(self, amount: float, now: float) -> list[float]:
        """Count an amount from now on; returns the entry for [`Window.settle`]."""
        entry = [now, amount]
        if self.limit is not None:
            self._entries.append(entry)
            self._sum += amount
        return entry

    def settle(self, entry: list[float], amount: float) -> None:
        """Replace what was reserved by what it came to."""
        if self.limit is not None and entry[0] > time.monotonic() - WINDOW_S:
            self._sum += amount - entry[1]
            entry[1] = amount


class EndpointLimiter:
    """
    Limits of one endpoint. Its concurrency is halved once for each episode of rate limiting and regained call by call.

    Args:
        most (`int`):
            Most requests in flight.
        requests_per_minute (`int`, *optional*):
            Most requests in any minute.
        tokens_per_minute (`int`, *optional*):
            Most tokens in any minute.
    """

    def __init__(
        self, most: int, requests_per_minute: int | None = None, tokens_per_minute: int | None = None
    ) -> None:
        self.most = most
        self.limit = float(most)
        """Requests that may be in flight now; what counts is the whole part."""
        self.taken = 0
        self.paused_until = 0.0
        self.requests = Window(requests_per_minute)
        self.tokens = Window(tokens_per_minute)
        self._shrunk_at = float("-inf")
        self._failures = 0

    @property
    def load(self) -> float:
        """Share of the requests it may have in flight that are."""
        return self.taken / self.limit

    def free_at(self, tokens: float, now: float) -> float | None:
        """The moment from which it may take a call of so many tokens; `None` if that depends on calls in flight."""
        if self.taken >= int(self.limit):
            return None
        return max(self.paused_until, self.requests.free_at(1, now), self.tokens.free_at(tokens, now))

    def rate_limited(self, sent_at: float, pause_s: float) -> None:
        """A request sent at this time was refused for its rate: halve the limit, and let every call wait.

        Requests that were already under way when the limit shrank belong to the same episode and do not shrink it.
        """
        self.paused_until = max(self.paused_until, time.monotonic() + pause_s)
        if sent_at > self._shrunk_at:
            self._shrunk_at = time.monotonic()
            self.limit = max(1.0, self.limit // 2)

    def answered(self, sent_at: float) -> None:
        """A request sent at this time was answered: regain one place for every `limit` of these."""
        self._failures = 0
        if sent_at > self._shrunk_at:
            self.limit = min(float(self.most), self.limit + 1 / self.limit)

    def rest(self) -> None:
        """It failed where another lane may not: leave it alone for a while, longer each time in a row."""
        self._failures += 1
        pause_s = min(MAX_REST_S, 0.5 * 2**self._failures)
        self.paused_until = max(self.paused_until, time.monotonic() + pause_s)


class EventLoopThrottle:
    """
    Lets a few through in each turn of the event loop, in order: what arrives together must not stall it together.

    Args:
        at_once (`int`):
            How many in a turn.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = self._left = at_once
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._armed = False

    async def wait_turn(self) -> None:
        """Wait for one's turn."""
        self._arm()
        if self._left > 0 and not self._waiting:
            self._left -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    def _arm(self) -> None:
        if not self._armed:
            self._armed = True
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._armed, self._left = False, self._at_once
        while self._left > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._left -= 1
        if self._waiting:
            self._arm()


class Priority:
    """
    How far a call's workflow still has to go, in calls. Grows when a workflow with a longer way needs the same call.

    Args:
        value (`int`, *optional*, defaults to `0`):
            Calls on the longest way from this call on, itself included.
    """

    def __init__(self, value: int = 0) -> None:
        self.value = value
        self._waiting: tuple[Scheduler, _Waiter] | None = None

    def raise_to(self, value: int) -> None:
        """Make it at least this urgent, also while it waits."""
        if value > self.value:
            self.value = value
            if self._waiting is not None:
                scheduler, waiter = self._waiting
                scheduler.push(waiter)


@dataclass(slots=True)
class Slot:
    """The right to send one request on a lane, with what was reserved for it."""

    lane: EndpointLimiter
    sent_at: float
    reserved: list[float]


@dataclass(slots=True)
class _Waiter:
    priority: Priority
    tokens: float
    turn: asyncio.Future[Slot] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Scheduler:
    """
    Hands out the places of some lanes, for one event loop.

    Args:
        lanes (`list[EndpointLimiter]`):
            Endpoints of the pool.
    """

    def __init__(self, lanes: list[EndpointLimiter]) -> None:
        self.lanes = lanes
        self._queue: list[tuple[int, int, _Waiter]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    async def acquire(self, priority: Priority, tokens: float) -> Slot:
        """Wait for a place, the most urgent first, and reserve one request and so many tokens of its lane."""
        waiter = _Waiter(priority, tokens)
        priority._waiting = (self, waiter)
        try:
            self.push(waiter)
            self.grant()
            return await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled():
                self.release(waiter.turn.result(), 0)
            waiter.turn.cancel()
            raise
        finally:
            priority._waiting = None

    def acquire_free(self, tokens: float) -> Slot | None:
        """A place that is free at once and that nobody waits for; `None` if there is none."""
        if any(not waiter.turn.done() for _, _, waiter in self._queue):
            return None
        now = time.monotonic()
        ready = [lane for lane in self.lanes if (moment := lane.free_at(tokens, now)) is not None and moment <= now]
        return self._take(min(ready, key=lambda one: one.load), tokens, now) if ready else None

    def _take(self, lane: EndpointLimiter, tokens: float, now: float) -> Slot:
        lane.taken += 1
        lane.requests.reserve(1, now)
        return Slot(lane, now, lane.tokens.reserve(tokens, now))

    def release(self, permit: Slot, tokens: float | None = None) -> None:
        """Give a place back. `tokens` is what the call came to, if it is known."""
        if tokens is not None:
            permit.lane.tokens.settle(permit.reserved, tokens)
        permit.lane.taken -= 1
        self.grant()

    def push(self, waiter: _Waiter) -> None:
        """Queue a waiter, or queue it again further up."""
        heapq.heappush(self._queue, (-waiter.priority.value, next(self._order), waiter))

    def grant(self) -> None:
        """Give every free place to the call that is next; a few at a time, so that the loop serves others as well."""
        granted = 0
        while self._queue:
            waiter = self._queue[0][2]
            if waiter.turn.done():
                heapq.heappop(self._queue)
                continue
            now = time.monotonic()
            moments = [
                (moment, lane) for lane in self.lanes if (moment := lane.free_at(waiter.tokens, now)) is not None
            ]
            ready = [lane for moment, lane in moments if moment <= now]
            if not ready:
                self._wake_at(min((moment for moment, _ in moments), default=None))
                return
            if granted == GRANTS_AT_ONCE:
                self._wake_at(now)
                return
            heapq.heappop(self._queue)
            lane = min(ready, key=lambda one: one.load)
            waiter.turn.set_result(self._take(lane, waiter.tokens, now))
            granted += 1

    def _wake_at(self, moment: float | None) -> None:
        """Look again when time alone has freed a place; places that calls hold come back by themselves."""
        if moment is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, moment - time.monotonic()), self.grant)
