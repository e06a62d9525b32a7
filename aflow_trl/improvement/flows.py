"""
The values that expressions of AFlow's `graph.py` have during its translation.

A value records which calls of operators it depends on, which is all that a workflow can express about data.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ..dsl import Conditional, Done, Node, Operator, Parallel, chain, children


class UntranslatableError(Exception):
    """A graph has no counterpart in the language. The message gives the line and the reason."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A value that is known without a model call."""

    value: object


@dataclass(frozen=True, slots=True)
class OperatorClass:
    """An operator that is assigned to a variable."""

    name: str


@dataclass(frozen=True, slots=True)
class Flow:
    """Operators that ran one after another."""

    nodes: tuple[Node, ...]
    field: str = ""
    """Field of the last operator's reply, such as `response`; empty for the whole reply or a composed text."""
    added: str = ""
    """What a composed text says beside the result."""

    def extends(self, other: Flow) -> bool:
        """Whether this flow starts with the other one: with the same calls, not merely equal ones."""
        # By identity: two calls of one operator are two samples.
        prefix = self.nodes[: len(other.nodes)]
        return len(prefix) == len(other.nodes) and all(a is b for a, b in zip(prefix, other.nodes, strict=True))

    def follows(self, other: Flow) -> bool:
        """Whether this flow is the other one followed by a single call."""
        return self.extends(other) and len(self.nodes) == len(other.nodes) + 1

    @property
    def last(self) -> str:
        """Name of the operator that ran last; empty if it is not a single one."""
        return node.name if self.nodes and isinstance(node := self.nodes[-1], Operator) else ""


@dataclass(frozen=True, slots=True)
class Results:
    """A list of results."""

    flows: tuple[Flow, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """A text that holds the problem, and what it says beside the problem."""

    added: str


Value: TypeAlias = Constant | OperatorClass | Flow | Results | Text | None
"""What an expression depends on; `None` for the problem itself, or the cost."""


@dataclass(slots=True)
class Scope:
    """Variables of a method."""

    values: dict[str, Value] = field(default_factory=dict)
    returned: Flow | None = None
    """Value of the `return` statement."""

    def copy(self) -> Scope:
        return Scope(dict(self.values), self.returned)


def refusal(node: ast.AST, reason: str) -> UntranslatableError:
    """Error for code without a counterpart in the language."""
    return UntranslatableError(f"line {getattr(node, 'lineno', '?')}: {reason}")


def join(values: Iterable[Value], node: ast.AST) -> Value:
    """Value of a text that is composed of several values: the longest flow, which has to extend all others."""
    results = [value for value in values if isinstance(value, Flow | Results)]
    if not results:
        return None
    if any(isinstance(value, Results) for value in results):
        if len(results) == 1:
            return results[0]
        raise refusal(node, "a text composed of a list of results")
    flows = sorted((value for value in results if isinstance(value, Flow)), key=lambda flow: len(flow.nodes))
    # An operator has a single predecessor in a workflow, whose prompt cannot quote two separate results.
    if not all(flows[-1].extends(flow) for flow in flows):
        raise refusal(node, "results of separate calls in one text")
    return flows[-1] if len(flows) == 1 else Flow(flows[-1].nodes)


def parallel(flows: Sequence[Flow], node: ast.AST) -> tuple[Node, ...]:
    """Nodes that run several flows in parallel, after the calls that all of them start with."""
    # By identity: equal operators of separate calls are separate samples, not a shared start.
    shared = 0
    shortest = min(len(flow.nodes) for flow in flows)
    while shared < shortest and all(flow.nodes[shared] is flows[0].nodes[shared] for flow in flows):
        shared += 1
    branches = [flow.nodes[shared:] for flow in flows]
    if not all(branches):
        raise refusal(node, "an ensemble of a result and its own successor")
    return (*flows[0].nodes[:shared], Parallel(tuple(chain(*branch) for branch in branches)))


def branch_of(nodes: tuple[Node, ...]) -> Node:
    """Branch of a conditional; `done` if nothing follows the verdict."""
    return chain(*nodes) if nodes else Done()


def uses(nodes: Iterable[Node]) -> Counter[int]:
    """How often a run meets each call, by identity: in a conditional, one branch is taken."""
    counts: Counter[int] = Counter()
    for node in nodes:
        if isinstance(node, Operator):
            counts[id(node)] += 1
        elif isinstance(node, Conditional):
            counts += uses([node.condition]) + (uses([node.negative]) | uses([node.otherwise]))
        else:
            counts += uses(children(node))
    return counts
