"""
Common random numbers and single flight: equal operator calls of one step are one execution.

A call's key is (operator, arguments, problem, incoming state, sample index, salt). The sample index counts equal
calls inside one workflow, so that `[Custom, Custom, Custom]` draws three samples and the first of them is the one
every other workflow's first `Custom` draws. It depends on the workflow and the states alone, never on which call ends
first.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ..dsl import Chain, Conditional, Node, Operator, Parallel, Repeat, children
from ..llm import Priority

Result = TypeVar("Result")
CallName = tuple[str, tuple[tuple[str, Any], ...]]


def digest(*parts: object) -> str:
    """Short stable digest of plain data."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass
class Numbering:
    """
    Sample indices of one lane.

    Concurrent lanes of a workflow must not draw the same sample, and must not wait for one another to find out. So a
    lane starts counting where its earlier siblings can have ended: at the state they share, after the calls its
    siblings make on that very state (`first`); elsewhere, after all calls they could make (`later`).
    """

    state: str = ""
    """Digest of the state this lane started from."""
    first: Counter[CallName] = field(default_factory=Counter)
    later: Counter[CallName] = field(default_factory=Counter)
    made: Counter[tuple[CallName, str]] = field(default_factory=Counter)

    def draw(self, call: CallName, state: str) -> int:
        """Sample index of the next call of `call` on `state`."""
        index = self.made[call, state]
        self.made[call, state] += 1
        return index + (self.first if state == self.state else self.later)[call]

    def branch(self, state: str, before: Iterable[Node]) -> Numbering:
        """Numbering of a branch that starts from `state` beside the earlier siblings `before`."""
        inherited = self.first if state == self.state else self.later
        first = inherited + Counter({call: n for (call, at), n in self.made.items() if at == state})
        later = Counter(self.later)
        for node in before:
            first += leading_calls(node)
            later += all_calls(node)
        return Numbering(state, first, later)


def leading_calls(node: Node) -> Counter[CallName]:
    """Calls a node makes on the state it starts from."""
    match node:
        case Operator():
            return Counter({(node.name, node.arguments): 1})
        case Chain():
            return leading_calls(node.steps[0])
        case Parallel():
            return sum((leading_calls(branch) for branch in node.branches), Counter())
        case Conditional():
            return leading_calls(node.condition)
        case Repeat():
            return leading_calls(node.body)
        case _:
            return Counter()


def all_calls(node: Node) -> Counter[CallName]:
    """Upper bound of the calls a node makes, loops counted in full."""
    if isinstance(node, Repeat):
        return Counter({call: n * node.times for call, n in all_calls(node.body).items()})
    if isinstance(node, Operator):
        return Counter({(node.name, node.arguments): 1})
    return sum((all_calls(child) for child in children(node)), Counter())


@dataclass
class Shared(Generic[Result]):
    """
    Executions of one step by key.

    Args:
        enabled (`bool`, *optional*, defaults to `True`):
            Whether equal keys are one execution. If not, each is executed for itself, with the same randomness.
    """

    enabled: bool = True
    flights: dict[str, asyncio.Task[Result]] = field(default_factory=dict)
    _priorities: dict[str, Priority] = field(default_factory=dict)

    async def get(
        self, key: str, start: Callable[[Priority], Coroutine[Any, Any, Result]], priority: int = 0
    ) -> tuple[Result, bool]:
        """
        The result for `key`, started now if nobody has; as urgent as for the most urgent of those who want it.

        Returns:
            `tuple[Result, bool]`: The result, and whether somebody else had started it.
        """
        flight = self.flights.get(key)
        shared = flight is not None
        if flight is None:
            own = self._priorities[key] = Priority(priority)
            flight = asyncio.ensure_future(start(own))
            self.flights[key if self.enabled else f"{key} {len(self.flights)}"] = flight
            # A failure nobody waits for any more is no news.
            flight.add_done_callback(lambda task: task.cancelled() or task.exception())
        else:
            self._priorities[key].raise_to(priority)
        return await asyncio.shield(flight), shared

    async def close(self) -> None:
        """End what still runs and wait until it has ended."""
        running = [flight for flight in self.flights.values() if not flight.done()]
        for flight in running:
            flight.cancel()
        await asyncio.gather(*running, return_exceptions=True)
