"""
AFlow's `graph.py` as a workflow of ours, by reading it: the code is parsed, never run or imported.

A method is followed statement by statement. Every result is known by the *flow* that makes it: the operators that ran
one after another before it. What has no counterpart in the language ends the translation with its line and reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ..dsl import (
    DEFAULT_LIMITS,
    Conditional,
    Done,
    Node,
    Operator,
    Parallel,
    Vocabulary,
    Workflow,
    check,
    format,
    sequence,
)
from ..errors import DSLError

MAX_UNROLLED = 5
SILENT_METHODS = ("append", "join", "strip", "lower", "format", "get", "replace", "split")
"""Methods of strings and lists that make no model call."""


class UntranslatableError(Exception):
    """A graph has no counterpart in the language; the text says where and why."""


@dataclass(frozen=True, slots=True)
class Flow:
    """Operators that ran one after another."""

    nodes: tuple[Node, ...]

    def extends(self, other: Flow) -> bool:
        """Whether the other flow is the beginning of this one: the very calls, not equal ones."""
        own = self.nodes[: len(other.nodes)]
        return len(own) == len(other.nodes) and all(a is b for a, b in zip(own, other.nodes, strict=True))


@dataclass(frozen=True, slots=True)
class Several:
    """A list of results."""

    flows: tuple[Flow, ...]


Value: TypeAlias = Flow | Several | None
"""What an expression depends on; `None` is the problem itself, a constant, or the cost."""


@dataclass(slots=True)
class _Scope:
    """Variables of a method, and how many operator calls it has made."""

    values: dict[str, Value] = field(default_factory=dict)
    returned: Flow | None = None

    def copy(self) -> _Scope:
        return _Scope(dict(self.values), self.returned)


def translate(graph: str, prompts: str, vocabulary: Vocabulary) -> str:
    """
    Canonical workflow of a graph.

    Args:
        graph (`str`):
            Text of `graph.py`.
        prompts (`str`):
            Text of `prompt.py`, whose constants are instructions.
        vocabulary (`Mapping[str, OperatorSpec]`):
            Operators a workflow may name.

    Returns:
        `str`: The workflow.

    Raises:
        [`UntranslatableError`]: It has no counterpart.
    """
    try:
        tree, constants = ast.parse(graph), _constants(ast.parse(prompts))
    except SyntaxError as error:
        raise UntranslatableError(f"line {error.lineno}: no Python") from None
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Workflow"]
    if len(classes) != 1:
        raise UntranslatableError("there is no single class Workflow")
    methods = {node.name: node for node in classes[0].body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    if "__init__" not in methods or "__call__" not in methods:
        raise UntranslatableError("Workflow has no __init__ and __call__")
    reader = _Reader(_operators(methods["__init__"]), constants, vocabulary)
    scope = reader.run(methods["__call__"].body, _Scope())
    if scope.returned is None:
        raise UntranslatableError("no operator's result is returned")
    if reader.calls != _written(scope.returned.nodes):
        raise UntranslatableError("a result of an operator is not used")
    if isinstance(scope.returned.nodes[-1], Operator) and scope.returned.nodes[-1].name == "Review":
        raise UntranslatableError("a review is returned, not a solution")
    workflow = Workflow(sequence(*scope.returned.nodes))
    try:
        check(workflow, vocabulary=vocabulary, limits=DEFAULT_LIMITS)
    except DSLError as error:
        raise UntranslatableError(f"{error.message} [{error.label}]") from None
    return format(workflow)


class _Reader:
    def __init__(self, operators: Mapping[str, str], constants: Mapping[str, str], vocabulary: Vocabulary) -> None:
        self.operators, self.constants, self.vocabulary = operators, constants, vocabulary
        self.calls = 0

    def run(self, body: Sequence[ast.stmt], scope: _Scope) -> _Scope:
        for index, statement in enumerate(body):
            if isinstance(statement, ast.If):
                return self.branch(statement, body[index + 1 :], scope)
            self.statement(statement, scope)
            if isinstance(statement, ast.Return):
                break
        return scope

    def statement(self, node: ast.stmt, scope: _Scope) -> None:
        match node:
            case ast.Return(value=value):
                if isinstance(value, ast.Tuple) and value.elts:
                    value = value.elts[0]  # the second is the cost
                scope.returned = self.one(value, scope) if value is not None else None
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                scope.values[name] = self.value(value, scope)
            case ast.AugAssign(target=ast.Name(id=name), value=value):
                scope.values[name] = self.join([scope.values.get(name), self.value(value, scope)], node)
            case ast.Expr(value=ast.Call(func=ast.Attribute(ast.Name(id=name), "append"), args=[item])):
                known = scope.values.get(name)
                flows = known.flows if isinstance(known, Several) else ()
                scope.values[name] = Several((*flows, self.one(item, scope)))
            case ast.Expr(value=ast.Constant()) | ast.Pass():
                pass
            case ast.Expr(value=value):
                self.value(value, scope)
            case ast.For(iter=ast.Call(func=ast.Name(id="range"), args=[ast.Constant(value=int(times))]), body=inner):
                if not 1 <= times <= MAX_UNROLLED:
                    raise _no(node, f"a loop of {times} rounds")
                for _ in range(times):
                    for one in inner:
                        if isinstance(one, ast.If | ast.Return):
                            raise _no(one, "a condition inside a loop")
                        self.statement(one, scope)
            case _:
                raise _no(node, f"a statement of this kind ({type(node).__name__})")

    def branch(self, node: ast.If, rest: Sequence[ast.stmt], scope: _Scope) -> _Scope:
        """Both ways to the end of the method, joined in a conditional."""
        test, negated = node.test, False
        while isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            test, negated = test.operand, not negated
        verdict = self.value(test, scope)
        if not isinstance(test, ast.Subscript | ast.Name | ast.Attribute) or not isinstance(verdict, Flow):
            raise _no(node, "a condition on something else than an operator's verdict")
        condition = verdict.nodes[-1]
        if not isinstance(condition, Operator) or not self.vocabulary[condition.name].gives_verdict:
            raise _no(node, "a condition on an operator without a verdict")
        ways = []
        for own in (node.body, node.orelse):
            calls = self.calls
            way = self.after(self.run([*own, *rest], scope.copy()).returned, verdict, node)
            if self.calls - calls != _written(way):
                raise _no(node, "a way with an operator whose result is not used")
            ways.append(way)
        positive, negative = reversed(ways) if negated else ways
        scope.returned = Flow((*verdict.nodes[:-1], Conditional(condition, _branch(negative), _branch(positive))))
        return scope

    def after(self, end: Flow | None, verdict: Flow, node: ast.If) -> tuple[Node, ...]:
        """Operators that follow the verdict on one way."""
        if end is None:
            raise _no(node, "a way that returns no operator's result")
        if len(end.nodes) == len(verdict.nodes) - 1 and verdict.extends(end):
            return ()
        if not end.extends(verdict):
            raise _no(node, "a way that does not go on from what was judged")
        return end.nodes[len(verdict.nodes) :]

    def value(self, node: ast.expr, scope: _Scope) -> Value:
        match node:
            case ast.Await(value=ast.Call(func=ast.Attribute(ast.Name(id="asyncio"), "gather"), args=arguments)):
                if len(arguments) == 1 and isinstance(arguments[0], ast.Starred):
                    return self.value(arguments[0].value, scope)
                if len(arguments) == 1 and isinstance(arguments[0], ast.Starred):
                    return self.value(arguments[0].value, scope)
                return Several(tuple(self.one(one, scope) for one in arguments))
            case ast.Await(value=inner):
                return self.value(inner, scope)
            case ast.Call(func=ast.Attribute(ast.Name(id="self"), name)):
                return self.call(node, name, scope)
            case ast.Call(func=ast.Attribute(receiver, name)) if name in SILENT_METHODS:
                return self.join([self.value(one, scope) for one in (receiver, *node.args)], node)
            case ast.Call(func=ast.Name(id="str")) | ast.Call(func=ast.Attribute(ast.Attribute())):
                return self.join([self.value(one, scope) for one in node.args], node)
            case ast.Name(id=name):
                return scope.values.get(name)
            case ast.Subscript(value=inner) | ast.Attribute(value=inner) | ast.FormattedValue(value=inner):
                return self.value(inner, scope)
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return Several(tuple(self.one(one, scope) for one in items)) if items else Several(())
            case ast.ListComp(elt=item, generators=[ast.comprehension(iter=source, ifs=[])]):
                return self.comprehension(node, item, source, scope)
            case ast.JoinedStr(values=parts):
                return self.join([self.value(one, scope) for one in parts], node)
            case ast.BinOp(left, ast.Add(), right):
                return self.join([self.value(one, scope) for one in (left, right)], node)
            case ast.Constant():
                return None
            case _:
                raise _no(node, f"an expression of this kind ({type(node).__name__})")

    def comprehension(self, node: ast.ListComp, item: ast.expr, source: ast.expr, scope: _Scope) -> Several:
        match source:
            case ast.Call(func=ast.Name(id="range"), args=[ast.Constant(value=int(times))]) if times <= MAX_UNROLLED:
                return Several(tuple(self.one(item, scope) for _ in range(times)))
            case ast.Name(id=name) if isinstance(known := scope.values.get(name), Several):
                return known  # `[one["response"] for one in solutions]`
        raise _no(node, "a list made in this way")

    def one(self, node: ast.expr, scope: _Scope) -> Flow:
        value = self.value(node, scope)
        if not isinstance(value, Flow):
            raise _no(node, "something that is no operator's result")
        return value

    def join(self, values: Iterable[Value], node: ast.AST) -> Value:
        """The longest of flows that continue one another."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        if any(isinstance(value, Several) for value in known):
            if len(known) == 1:
                return known[0]
            raise _no(node, "text made of several results")
        flows = sorted((value for value in known if isinstance(value, Flow)), key=lambda flow: len(flow.nodes))
        if not all(flows[-1].extends(flow) for flow in flows):
            raise _no(node, "results of separate calls in one text")
        return flows[-1]

    def call(self, node: ast.Call, attribute: str, scope: _Scope) -> Flow:
        name = self.operators.get(attribute)
        if name is None:
            raise _no(node, f"a call of self.{attribute}, which is no operator")
        if name not in self.vocabulary:
            raise _no(node, f"the operator {name}")
        given = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg != "instruction")]
        before = self.join([self.value(one, scope) for one in given], node)
        instruction = self.instruction(node)
        arguments = (("instruction", instruction),) if instruction else ()
        operator = Operator(name, arguments)
        self.calls += 1
        if self.vocabulary[name].is_ensemble:
            if not isinstance(before, Several) or not before.flows:
                raise _no(node, f"{name} on something else than a list of results")
            return Flow((*_parallel(before.flows, node), operator))
        if isinstance(before, Several):
            raise _no(node, f"{name} on a list of results")
        return Flow((*(before.nodes if before else ()), operator))

    def instruction(self, node: ast.Call) -> str:
        for keyword in node.keywords:
            match keyword:
                case ast.keyword("instruction", ast.Constant(value=str(text))):
                    return text.strip()
                case ast.keyword("instruction", ast.Attribute(attr=name)) if name in self.constants:
                    return self.constants[name].strip()
                case ast.keyword("instruction", value):
                    raise _no(value, "an instruction that is no constant")
        return ""


def _parallel(flows: Sequence[Flow], node: ast.AST) -> tuple[Node, ...]:
    """Flows side by side, after what all of them begin with."""
    if len(flows) < 2:
        raise _no(node, "an ensemble of one result")
    # Calls alone tell whether a beginning is shared: equal operators of separate calls are separate samples.
    shared = 0
    shortest = min(len(flow.nodes) for flow in flows)
    while shared < shortest and all(flow.nodes[shared] is flows[0].nodes[shared] for flow in flows):
        shared += 1
    branches = [flow.nodes[shared:] for flow in flows]
    if not all(branches):
        raise _no(node, "an ensemble of a result and what was made of it")
    return (*flows[0].nodes[:shared], Parallel(tuple(sequence(*branch) for branch in branches)))


def _branch(nodes: tuple[Node, ...]) -> Node:
    return sequence(*nodes) if nodes else Done()


def _written(nodes: Iterable[Node]) -> int:
    """Operators in nodes."""
    count = 0
    for node in nodes:
        match node:
            case Operator():
                count += 1
            case Parallel(branches=branches):
                count += _written(branches)
            case Conditional(condition=condition, negative=negative, otherwise=otherwise):
                count += _written((condition, negative, otherwise))
            case Done():
                pass
            case _:
                count += _written(getattr(node, "steps", ()))
    return count


def _operators(method: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, str]:
    """Attributes that hold operators: `self.custom = operator.Custom(self.llm)`."""
    found = {}
    for node in ast.walk(method):
        match node:
            case ast.Assign(
                targets=[ast.Attribute(ast.Name(id="self"), attribute)],
                value=ast.Call(func=ast.Attribute(ast.Name(id="operator"), name)),
            ):
                found[attribute] = name
    return found


def _constants(tree: ast.Module) -> dict[str, str]:
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _no(node: ast.AST, what: str) -> UntranslatableError:
    return UntranslatableError(f"line {getattr(node, 'lineno', '?')}: {what}")
