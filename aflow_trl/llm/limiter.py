"""
Scheduling of calls: the limits of each endpoint of a pool, and one priority queue for all calls.

A call waits only while no endpoint may take it. Among the waiting calls, the one whose workflow has the longest
critical path ahead goes first, so that the last workflow of a batch does not start when the others finish.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import deque
from dataclasses import dataclass, field

GRANTS_PER_TURN = 16
"""Calls that may start in one turn of the event loop: building a request takes about a millisecond."""
REPLIES_PER_TURN = 8
"""Replies that may be processed in one turn of the event loop: each continues a workflow up to its next call."""
COOL_DOWN_S = 0.5
"""Pause of a failing endpoint of a pool, doubled with each failure in a row."""
MAX_COOL_DOWN_S = 30.0
REFUSAL_WEIGHT = 0.05
"""Weight of the latest request in the share of refused ones: about the last twenty count."""
FREQUENT_REFUSALS = 0.1
"""Share of refused requests above which all calls wait."""
MIN_GROWTH = 0.1
"""Slots that an answered request gives back at least."""
WINDOW_S = 60.0
"""Length of the sliding window over which requests and tokens are limited."""


@dataclass(slots=True)
class _Reservation:
    """An amount that counts towards a [`Window`] since a moment (monotonic, in seconds)."""

    since: float
    amount: float


class Window:
    """
    Limit on a sum over a sliding window of a minute.

    It is exact: no minute, wherever it begins, exceeds the limit. A token bucket would admit up to twice the limit.

    Args:
        limit (`int`, *optional*):
            Maximum sum in any minute. If `None`, there is no limit.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._reservations: deque[_Reservation] = deque()
        self._sum = 0.0

    def free_at(self, amount: float, now: float) -> float:
        """Moment (monotonic, in seconds) from which `amount` fits; `now` if it fits already."""
        if self.limit is None:
            return now
        while self._reservations and self._reservations[0].since <= now - WINDOW_S:
            self._sum -= self._reservations.popleft().amount
        # An amount above the limit would never fit; it is let through once the window is empty.
        excess = self._sum + min(amount, self.limit) - self.limit
        if excess <= 0:
            return now
        for reservation in self._reservations:
            excess -= reservation.amount
            if excess <= 0:
                return reservation.since + WINDOW_S
        return now

    def reserve(self, amount: float, now: float) -> _Reservation:
        """Count an amount from `now` on; the result is for [`Window.settle`]."""
        reservation = _Reservation(now, amount)
        if self.limit is not None:
            self._reservations.append(reservation)
            self._sum += amount
        return reservation

    def settle(self, reservation: _Reservation, amount: float) -> None:
        """Replace a reserved amount by the actual one."""
        # A reservation outside the window has been subtracted from the sum already, or is about to be.
        if self.limit is not None and reservation.since > time.monotonic() - WINDOW_S:
            self._sum += amount - reservation.amount
            reservation.amount = amount


class EndpointLimiter:
    """
    Limits of one endpoint, with a concurrency that adapts to what the endpoint can take.

    Each rate-limited request takes one slot away, so that the limit shrinks by the share that was refused; replies
    give slots back. Only if refusals are frequent do all calls wait: a rare one concerns its own call.

    Args:
        max_concurrency (`int`):
            Maximum number of requests in flight.
        requests_per_minute (`int`, *optional*):
            Maximum number of requests in any minute.
        tokens_per_minute (`int`, *optional*):
            Maximum number of tokens in any minute.
    """

    def __init__(
        self, max_concurrency: int, requests_per_minute: int | None = None, tokens_per_minute: int | None = None
    ) -> None:
        self.max_concurrency = max_concurrency
        self.limit = float(max_concurrency)
        """Current limit on requests in flight, of which the integer part counts."""
        self.in_flight = 0
        self.paused_until = 0.0
        self.requests = Window(requests_per_minute)
        self.tokens = Window(tokens_per_minute)
        self._answered = self._refused = 0.0
        self._failures_in_a_row = 0

    @property
    def load(self) -> float:
        """Requests in flight as a share of the current limit."""
        return self.in_flight / self.limit

    def free_at(self, tokens: float, now: float) -> float | None:
        """Moment from which it may take a call of `tokens`; `None` if that depends on the calls in flight."""
        if self.in_flight >= int(self.limit):
            return None
        return max(self.paused_until, self.requests.free_at(1, now), self.tokens.free_at(tokens, now))

    def reserve(self, tokens: float, now: float) -> Slot:
        """Take a slot for a call of `tokens`."""
        self.in_flight += 1
        self.requests.reserve(1, now)
        return Slot(self, now, self.tokens.reserve(tokens, now))

    def rate_limited(self, pause_s: float) -> None:
        """
        Handle a rate-limited request.

        Args:
            pause_s (`float`):
                Seconds that all calls wait if refusals are frequent.
        """
        self._count(refused=1.0)
        self.limit = max(1.0, self.limit - 1)
        if self._refused > FREQUENT_REFUSALS * (self._refused + self._answered):
            self.paused_until = max(self.paused_until, time.monotonic() + pause_s)

    def answered(self) -> None:
        """Handle an answered request: the limit grows, the faster the smaller it is."""
        self._failures_in_a_row = 0
        self._count(answered=1.0)
        self.limit = min(float(self.max_concurrency), self.limit + max(1 / self.limit, MIN_GROWTH))

    def _count(self, *, answered: float = 0.0, refused: float = 0.0) -> None:
        kept = 1 - REFUSAL_WEIGHT
        self._answered, self._refused = kept * self._answered + answered, kept * self._refused + refused

    def cool_down(self) -> None:
        """Avoid the endpoint for a while after a failure, longer with each failure in a row."""
        self._failures_in_a_row += 1
        # The exponent is capped: a dead endpoint collects thousands of failures, and 2**1024 is too large for a float.
        pause_s = min(MAX_COOL_DOWN_S, COOL_DOWN_S * 2 ** min(self._failures_in_a_row, 16))
        self.paused_until = max(self.paused_until, time.monotonic() + pause_s)


class EventLoopThrottle:
    """
    Lets a few tasks pass in each turn of the event loop, in order, so that simultaneous arrivals do not stall it.

    Args:
        per_turn (`int`):
            Maximum number of tasks that pass in one turn.
    """

    def __init__(self, per_turn: int) -> None:
        self._per_turn = self._remaining = per_turn
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._scheduled = False

    async def wait_turn(self) -> None:
        """Wait until this task may pass."""
        self._schedule()
        if self._remaining > 0 and not self._waiting:
            self._remaining -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._scheduled, self._remaining = False, self._per_turn
        while self._remaining > 0 and self._waiting:
            turn = self._waiting.popleft()
            # A cancelled task does not use up a place of this turn.
            if not turn.done():
                turn.set_result(None)
                self._remaining -= 1
        if self._waiting:
            self._schedule()


class Priority:
    """
    Priority of the calls of one operator run: the number of calls on the critical path ahead, this call included.

    It can rise while calls wait, when a workflow with a longer path needs the same run. Concurrent calls may share it.

    Args:
        value (`int`, *optional*, defaults to `0`):
            Calls ahead.
    """

    def __init__(self, value: int = 0) -> None:
        self.value = value
        self._waiting: dict[_Waiter, Scheduler] = {}

    def raise_to(self, value: int) -> None:
        """Raise the priority to at least `value`, for all calls that wait as well."""
        if value > self.value:
            self.value = value
            for waiter, scheduler in self._waiting.items():
                scheduler.push(waiter)


@dataclass(slots=True)
class Slot:
    """Permission to send one request to an endpoint, with the tokens reserved for it."""

    endpoint: EndpointLimiter
    sent_at: float
    reservation: _Reservation


# Compared by identity: a waiter is a key of `Priority._waiting`, and two with equal fields are still two calls.
@dataclass(slots=True, eq=False)
class _Waiter:
    """A call that waits for a slot."""

    priority: Priority
    tokens: float
    turn: asyncio.Future[Slot] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Scheduler:
    """
    Assigns the calls of one event loop to the slots of a pool of endpoints, in the order of their priorities.

    Args:
        endpoints (`list[EndpointLimiter]`):
            Endpoints of the pool.
    """

    def __init__(self, endpoints: list[EndpointLimiter]) -> None:
        self.endpoints = endpoints
        self._queue: list[tuple[int, int, _Waiter]] = []
        # Breaks ties by arrival, and keeps heapq from comparing waiters, which have no order.
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    async def acquire(self, priority: Priority, tokens: float) -> Slot:
        """
        Wait for a slot, the highest priority first.

        Args:
            priority ([`Priority`]):
                Priority of the call; it may rise during the wait.
            tokens (`float`):
                Tokens to reserve.

        Returns:
            [`Slot`]: The slot; give it back with [`Scheduler.release`].
        """
        waiter = _Waiter(priority, tokens)
        priority._waiting[waiter] = self
        try:
            self.push(waiter)
            self.grant()
            return await waiter.turn
        except asyncio.CancelledError:
            # The slot may have been granted between the cancellation and this moment.
            if waiter.turn.done() and not waiter.turn.cancelled():
                self.release(waiter.turn.result(), 0)
            waiter.turn.cancel()
            raise
        finally:
            del priority._waiting[waiter]

    def drop(self, endpoint: EndpointLimiter) -> bool:
        """Take an endpoint out of the pool, unless it is the last one; whether it is out."""
        if endpoint in self.endpoints and len(self.endpoints) > 1:
            self.endpoints.remove(endpoint)
        return endpoint not in self.endpoints

    def acquire_free(self, tokens: float) -> Slot | None:
        """Take a slot that is free right away and that no call waits for; `None` if there is none."""
        if any(not waiter.turn.done() for _, _, waiter in self._queue):
            return None
        now = time.monotonic()
        endpoint = self._least_loaded([moment <= now for moment in self._moments(tokens, now)])
        return None if endpoint is None else endpoint.reserve(tokens, now)

    def release(self, slot: Slot, tokens: float | None = None) -> None:
        """Give a slot back. `tokens` are those the call used; if `None`, the reservation stands."""
        if tokens is not None:
            slot.endpoint.tokens.settle(slot.reservation, tokens)
        slot.endpoint.in_flight -= 1
        self.grant()

    def push(self, waiter: _Waiter) -> None:
        """Queue a waiter, or queue it again under a priority that has risen."""
        # Its outdated entry stays in the heap; `grant` skips it because its turn has come by then.
        heapq.heappush(self._queue, (-waiter.priority.value, next(self._order), waiter))

    def grant(self) -> None:
        """Grant the free slots to the calls at the head of the queue, a few in each turn of the event loop."""
        granted = 0
        while self._queue:
            waiter = self._queue[0][2]
            if waiter.turn.done():
                heapq.heappop(self._queue)
                continue
            now = time.monotonic()
            moments = self._moments(waiter.tokens, now)
            endpoint = self._least_loaded([moment <= now for moment in moments])
            if endpoint is None:
                self._grant_at(min(moments))
                return
            if granted == GRANTS_PER_TURN:
                self._grant_at(now)
                return
            heapq.heappop(self._queue)
            waiter.turn.set_result(endpoint.reserve(waiter.tokens, now))
            granted += 1

    def _moments(self, tokens: float, now: float) -> list[float]:
        """Moment from which each endpoint may take a call; infinity where it depends on the calls in flight."""
        moments = [endpoint.free_at(tokens, now) for endpoint in self.endpoints]
        return [float("inf") if moment is None else moment for moment in moments]

    def _least_loaded(self, ready: list[bool]) -> EndpointLimiter | None:
        candidates = [endpoint for endpoint, is_ready in zip(self.endpoints, ready, strict=True) if is_ready]
        return min(candidates, key=lambda endpoint: endpoint.load) if candidates else None

    def _grant_at(self, moment: float) -> None:
        # At infinity only a call in flight can free a slot, and its release grants it.
        if moment == float("inf"):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, moment - time.monotonic()), self.grant)
