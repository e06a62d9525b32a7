"""Static checks and bounds: what a workflow may name, and what it can cost, without running it."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import DSLError
from .ast import (
    MAX_REPEAT,
    Analysis,
    Chain,
    Conditional,
    Done,
    Limits,
    Node,
    Operator,
    OperatorSpec,
    Parallel,
    Repeat,
    Workflow,
)
from .traversal import walk
from .vocabulary import Vocabulary, builtin_vocabulary

DEFAULT_LIMITS = Limits()


class _Bound(NamedTuple):
    """Worst case of a node that starts from a given number of candidates."""

    calls: int
    critical: int
    width: int


def analyze(workflow: Workflow, *, vocabulary: Vocabulary | None = None) -> Analysis:
    """
    Bounds of a workflow.

    Args:
        workflow ([`Workflow`]):
            Workflow whose operators are all in `vocabulary`.
        vocabulary (`Mapping[str, OperatorSpec]`, *optional*):
            Known operators. Defaults to the built-in ones.

    Returns:
        [`Analysis`]: Operators used, worst-case and critical-path model calls, depth.
    """
    words = builtin_vocabulary() if vocabulary is None else vocabulary
    names = tuple(node.name for node, _ in walk(workflow.root) if isinstance(node, Operator))
    depth = max(depth for _, depth in walk(workflow.root))
    bound = _bound(workflow.root, 1, words)
    return Analysis(names, bound.calls, bound.critical, depth)


def check(workflow: Workflow, *, vocabulary: Vocabulary, limits: Limits) -> None:
    """Raise a [`DSLError`] with a position for the first thing in `workflow` that can never run."""
    for node, depth in walk(workflow.root):
        if depth > limits.max_depth:
            raise _error(node, workflow, f"nested deeper than {limits.max_depth}", "too_deep")
        _check_node(node, workflow, vocabulary)
    count = sum(isinstance(node, Operator) for node, _ in walk(workflow.root))
    if count > limits.max_operators:
        message = f"{count} operators, more than the {limits.max_operators} allowed"
        raise _error(workflow.root, workflow, message, "too_many_operators")
    calls = _bound(workflow.root, 1, vocabulary).calls
    if calls > limits.max_model_calls:
        message = f"up to {calls} model calls, more than the {limits.max_model_calls} allowed"
        raise _error(workflow.root, workflow, message, "too_expensive")


def _check_node(node: Node, workflow: Workflow, vocabulary: Vocabulary) -> None:
    match node:
        case Operator():
            _check_operator(node, workflow, vocabulary)
        case Conditional():
            condition = node.condition
            judges = tuple(name for name, spec in vocabulary.items() if spec.gives_verdict)
            if not isinstance(condition, Operator):
                message = "only an operator that gives a verdict may stand before '?'"
                raise _error(condition, workflow, message, "no_verdict", judges)
            if condition.name in vocabulary and condition.name not in judges:
                message = f"{condition.name} gives no verdict, so it cannot stand before '?'"
                raise _error(condition, workflow, message, "no_verdict", judges)
        case Repeat() if not 1 <= node.times <= MAX_REPEAT:
            message = f"a loop runs 1 to {MAX_REPEAT} times, not {node.times}"
            raise _error(node, workflow, message, "repeat_out_of_range")
        case _:
            pass


def _check_operator(node: Operator, workflow: Workflow, vocabulary: Vocabulary) -> None:
    spec: OperatorSpec | None = vocabulary.get(node.name)
    if node.name == "done":
        raise _error(node, workflow, "'done' may only be a branch of a condition", "misplaced_done")
    if spec is None:
        raise _error(node, workflow, f"unknown operator {node.name!r}", "unknown_operator", tuple(vocabulary))
    for name, value in node.arguments:
        if name not in spec.arguments:
            message = f"{node.name} takes no argument {name!r}" if name else f"{node.name} takes no argument"
            raise _error(node, workflow, message, "unknown_argument", spec.arguments)
        if not isinstance(value, str):
            raise _error(node, workflow, f"argument {name!r} of {node.name} must be text", "wrong_argument_type")


def _error(node: Node, workflow: Workflow, message: str, label: str, expected: tuple[str, ...] = ()) -> DSLError:
    at = node.position
    return DSLError(message, source=workflow.source, line=at.line, column=at.column, label=label, expected=expected)


def critical_calls(node: Node, vocabulary: Vocabulary) -> int:
    """Most model calls of a part of a workflow that have to follow one another."""
    return _bound(node, 1, vocabulary).critical


def _bound(node: Node, width: int, vocabulary: Vocabulary) -> _Bound:
    match node:
        case Operator():
            spec = vocabulary[node.name]
            lanes = 1 if spec.is_ensemble else width
            return _Bound(spec.max_calls * lanes, spec.max_calls, lanes)
        case Chain():
            calls = critical = 0
            for step in node.steps:
                bound = _bound(step, width, vocabulary)
                calls, critical, width = calls + bound.calls, critical + bound.critical, bound.width
            return _Bound(calls, critical, width)
        case Parallel():
            bounds = [_bound(branch, width, vocabulary) for branch in node.branches]
            return _Bound(sum(b.calls for b in bounds), max(b.critical for b in bounds), len(bounds))
        case Conditional():
            # Mapped over the candidates, each lane ends with one.
            condition = _bound(node.condition, 1, vocabulary)
            branches = [_bound(branch, 1, vocabulary) for branch in (node.negative, node.otherwise)]
            calls = condition.calls + max(b.calls for b in branches)
            return _Bound(width * calls, condition.critical + max(b.critical for b in branches), width)
        case Repeat():
            calls = critical = 0
            for _ in range(node.times):
                bound = _bound(node.body, width, vocabulary)
                calls, critical, width = calls + bound.calls, critical + bound.critical, bound.width
            return _Bound(calls, critical, width)
        case Done():
            return _Bound(0, 0, width)
