"""
Common random numbers and single flight: equal operator calls of a step are one execution.

The key of a call is (operator, arguments, problem, incoming state, sample index, salt). The sample index counts equal
calls within one workflow, so that `[Custom, Custom, Custom]` draws three samples, the first of which is also that of
the first `Custom` in any other workflow. Members of a group thus differ in reward because their workflows differ,
not because the executor drew other samples. The index depends only on the workflow and the states, never on the order
in which calls finish.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from ..dsl import Arguments, Chain, Conditional, Node, Operator, Parallel, Repeat, children
from ..llm import Priority

Result = TypeVar("Result")
CallSignature: TypeAlias = tuple[str, Arguments]
"""Operator name and arguments."""


def digest(*parts: object) -> str:
    """Short digest of plain data, stable across processes."""
    # JSON rather than `hash`, which differs from process to process.
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass
class Numbering:
    """
    Sample indices of one lane.

    Concurrent lanes of a workflow must draw different samples without waiting for one another. So a lane starts to
    count above all that its earlier siblings can draw: on the state they start from, above the calls that the siblings
    make on that very state (`leading`); on any other state, above all calls they could make (`total`).
    """

    state: str = ""
    """Digest of the state from which this lane starts."""
    leading: Counter[CallSignature] = field(default_factory=Counter)
    """Offset of the indices on that state."""
    total: Counter[CallSignature] = field(default_factory=Counter)
    """Offset of the indices on other states."""
    drawn: Counter[tuple[CallSignature, str]] = field(default_factory=Counter)
    """Samples this lane has drawn, by call and state."""

    def draw(self, call: CallSignature, state: str) -> int:
        """Sample index of the next `call` on `state`."""
        index = self.drawn[call, state]
        self.drawn[call, state] += 1
        return index + self._offset(state)[call]

    def branch(self, state: str, earlier_siblings: Iterable[Node]) -> Numbering:
        """Numbering of a branch that starts from `state`, next to `earlier_siblings`."""
        leading = self._offset(state) + Counter({call: n for (call, at), n in self.drawn.items() if at == state})
        total = Counter(self.total)
        for sibling in earlier_siblings:
            leading += leading_calls(sibling)
            total += all_calls(sibling)
        return Numbering(state, leading, total)

    def _offset(self, state: str) -> Counter[CallSignature]:
        return self.leading if state == self.state else self.total


def leading_calls(node: Node) -> Counter[CallSignature]:
    """Calls that a node makes on the state it starts from."""
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


def all_calls(node: Node) -> Counter[CallSignature]:
    """Upper bound on the calls that a node makes, with loops counted in full."""
    if isinstance(node, Repeat):
        return Counter({call: n * node.times for call, n in all_calls(node.body).items()})
    if isinstance(node, Operator):
        return Counter({(node.name, node.arguments): 1})
    return sum((all_calls(child) for child in children(node)), Counter())


@dataclass
class SingleFlight(Generic[Result]):
    """
    Executions of one step, by key.

    Args:
        enabled (`bool`, *optional*, defaults to `True`):
            Whether equal keys share one execution. Otherwise each call is executed separately, with the same
            randomness.
    """

    enabled: bool = True
    tasks: dict[str, asyncio.Task[Result]] = field(default_factory=dict)
    _priorities: dict[str, Priority] = field(default_factory=dict)

    async def get(
        self, key: str, start: Callable[[Priority], Awaitable[Result]], priority: int = 0
    ) -> tuple[Result, bool]:
        """
        Await the result for `key`, and start its execution if nobody has.

        Args:
            key (`str`):
                Key of the call.
            start (`Callable[[Priority], Awaitable[Result]]`):
                Starts the execution; its priority rises to that of the most urgent caller.
            priority (`int`, *optional*, defaults to `0`):
                Priority of this caller.

        Returns:
            `tuple[Result, bool]`: The result, and whether another caller had started the execution.
        """
        task = self.tasks.get(key)
        shared = task is not None
        if task is None:
            self._priorities[key] = Priority(priority)
            task = asyncio.ensure_future(start(self._priorities[key]))
            # An execution that is not shared is stored under a unique key, so that `close` can stop it.
            self.tasks[key if self.enabled else f"{key} {len(self.tasks)}"] = task
            # Reads the exception, or asyncio would log it as never retrieved if all callers have been cancelled.
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
        else:
            self._priorities[key].raise_to(priority)
        # Shielded, because a caller that is cancelled must not cancel the execution of the others.
        return await asyncio.shield(task), shared

    async def close(self) -> None:
        """Cancel the running executions and wait until they have stopped."""
        running = [task for task in self.tasks.values() if not task.done()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
