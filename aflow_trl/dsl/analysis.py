"""Static checks and bounds: which operators a workflow may use and how much it can cost, without running it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..errors import DSLError
from .ast import (
    MAX_REPEAT,
    MODEL,
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
    """Worst case of a node that receives a given number of candidates."""

    calls: float
    """Model calls in total, or their cost."""
    critical: int
    """Model calls that have to run one after the other."""
    width: int
    """Candidates it leaves."""


def analyze(workflow: Workflow, *, vocabulary: Vocabulary | None = None) -> Analysis:
    """
    Compute static bounds of a workflow.

    Args:
        workflow ([`Workflow`]):
            Workflow whose operators are all in `vocabulary`.
        vocabulary (`Mapping[str, OperatorSpec]`, *optional*):
            Operators by name. Defaults to the built-in ones.

    Returns:
        [`Analysis`]: Operators used, worst-case and critical-path model calls, depth.
    """
    vocabulary = builtin_vocabulary() if vocabulary is None else vocabulary
    names = tuple(node.name for node, _ in walk(workflow.root) if isinstance(node, Operator))
    depth = max(depth for _, depth in walk(workflow.root))
    bound = _bound(workflow.root, 1, vocabulary)
    return Analysis(names, int(bound.calls), bound.critical, depth)


def worst_case_cost(
    workflow: Workflow, call_costs: Mapping[str, float], *, vocabulary: Vocabulary | None = None
) -> float:
    """
    Upper bound of what a workflow costs.

    Args:
        workflow ([`Workflow`]):
            Workflow whose operators are all in `vocabulary`.
        call_costs (`Mapping[str, float]`):
            Cost of a call by model: by the name that the workflow gives it, else by operator, else `""`.
        vocabulary (`Mapping[str, OperatorSpec]`, *optional*):
            Operators by name. Defaults to the built-in ones.

    Returns:
        `float`: In the unit of `call_costs`.
    """

    def cost(node: Operator) -> float:
        model = dict(node.arguments).get(MODEL, node.name)
        return call_costs.get(str(model), call_costs[""])

    return _bound(workflow.root, 1, builtin_vocabulary() if vocabulary is None else vocabulary, cost).calls


def _one_call(_: Operator) -> float:
    return 1


def check(workflow: Workflow, *, vocabulary: Vocabulary, limits: Limits) -> None:
    """
    Check that a workflow can run within the limits.

    Raises:
        [`DSLError`]: The first violation, with its position.
    """
    check_depth(workflow, limits)
    for node, _ in walk(workflow.root):
        _check_node(node, workflow, vocabulary)
    count = sum(isinstance(node, Operator) for node, _ in walk(workflow.root))
    if count > limits.max_operators:
        message = f"{count} operators, more than the {limits.max_operators} allowed"
        raise _error(workflow.root, workflow, message, "too_many_operators")
    # Last, because a bound is defined only for operators of the vocabulary.
    calls = int(_bound(workflow.root, 1, vocabulary).calls)
    if calls > limits.max_model_calls:
        message = f"up to {calls} model calls, more than the {limits.max_model_calls} allowed"
        raise _error(workflow.root, workflow, message, "too_expensive")


def check_depth(workflow: Workflow, limits: Limits) -> None:
    """
    Check the nesting of a workflow. Everything that recurses over the tree relies on it.

    Raises:
        [`DSLError`]: The workflow is nested too deeply.
    """
    for node, depth in walk(workflow.root):
        if depth > limits.max_depth:
            raise _error(node, workflow, f"nested deeper than {limits.max_depth}", "too_deep")


def _check_node(node: Node, workflow: Workflow, vocabulary: Vocabulary) -> None:
    match node:
        case Operator():
            _check_operator(node, workflow, vocabulary)
        case Conditional():
            _check_condition(node.condition, workflow, vocabulary)
        case Repeat() if not 1 <= node.times <= MAX_REPEAT:
            message = f"a loop runs 1 to {MAX_REPEAT} times, got {node.times}"
            raise _error(node, workflow, message, "repeat_out_of_range")
        case _:
            pass


def _check_condition(condition: Node, workflow: Workflow, vocabulary: Vocabulary) -> None:
    allowed = tuple(name for name, spec in vocabulary.items() if spec.gives_verdict)
    if not isinstance(condition, Operator):
        message = "only a single operator that gives a verdict can be the condition of '?'"
        raise _error(condition, workflow, message, "no_verdict", allowed)
    # An unknown operator is reported as such when the walk reaches it.
    if condition.name in vocabulary and condition.name not in allowed:
        message = f"{condition.name} gives no verdict, so it cannot be the condition of '?'"
        raise _error(condition, workflow, message, "no_verdict", allowed)


def _check_operator(node: Operator, workflow: Workflow, vocabulary: Vocabulary) -> None:
    # The grammar reads `done` outside a branch as an operator name; a precise message beats "unknown operator".
    if node.name == "done":
        raise _error(node, workflow, "'done' can only be a branch of a condition", "misplaced_done")
    spec: OperatorSpec | None = vocabulary.get(node.name)
    if spec is None:
        raise _error(node, workflow, f"unknown operator {node.name!r}", "unknown_operator", tuple(vocabulary))
    for name, value in node.arguments:
        if name not in spec.parameters:
            message = f"{node.name} takes no argument {name!r}" if name else f"{node.name} takes no argument"
            raise _error(node, workflow, message, "unknown_argument", spec.parameters)
        if not isinstance(value, str):
            message = f"argument {name!r} of {node.name} must be a string, got {value!r}"
            raise _error(node, workflow, message, "wrong_argument_type")
        if name == MODEL and spec.models and value not in spec.models:
            raise _error(node, workflow, f"unknown model {value!r}", "unknown_model", spec.models)


def _error(node: Node, workflow: Workflow, message: str, label: str, expected: tuple[str, ...] = ()) -> DSLError:
    line, column = node.position.line, node.position.column
    return DSLError(message, source=workflow.source, line=line, column=column, label=label, expected=expected)


def critical_calls(node: Node, vocabulary: Vocabulary) -> int:
    """Maximum number of model calls of a subtree that have to run one after the other."""
    return _bound(node, 1, vocabulary).critical


def _bound(node: Node, width: int, vocabulary: Vocabulary, cost: Callable[[Operator], float] = _one_call) -> _Bound:
    match node:
        case Operator():
            spec = vocabulary[node.name]
            lanes = 1 if spec.is_ensemble else width
            return _Bound(spec.max_calls * lanes * cost(node), spec.max_calls, lanes)
        case Chain():
            return _bound_in_order(node.steps, width, vocabulary, cost)
        case Parallel():
            bounds = [_bound(branch, width, vocabulary, cost) for branch in node.branches]
            return _Bound(sum(b.calls for b in bounds), max(b.critical for b in bounds), len(bounds))
        case Conditional():
            # It runs once for each candidate, and each of these runs leaves a single candidate.
            condition = _bound(node.condition, 1, vocabulary, cost)
            branches = [_bound(branch, 1, vocabulary, cost) for branch in (node.negative, node.otherwise)]
            calls = condition.calls + max(b.calls for b in branches)
            return _Bound(width * calls, condition.critical + max(b.critical for b in branches), width)
        case Repeat():
            return _bound_in_order((node.body,) * node.times, width, vocabulary, cost)
        case Done():
            return _Bound(0, 0, width)


def _bound_in_order(
    steps: tuple[Node, ...], width: int, vocabulary: Vocabulary, cost: Callable[[Operator], float]
) -> _Bound:
    calls, critical = 0.0, 0
    for step in steps:
        bound = _bound(step, width, vocabulary, cost)
        # A parallel or an ensemble changes the number of candidates the next step receives.
        calls, critical, width = calls + bound.calls, critical + bound.critical, bound.width
    return _Bound(calls, critical, width)
