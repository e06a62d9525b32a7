"""
AFlow's `graph.py` as a workflow of ours, by reading it: the code is parsed, never run or imported.

A method is followed statement by statement. Every result is known by the *flow* that makes it: the operators that ran
one after another before it. What has no counterpart in the language ends the translation with its line and reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    chain,
    check,
    children,
    format_workflow,
)
from ..errors import DSLError

MAX_UNROLLED = 5
VERDICT_FIELDS = {"Review": "review_result", "Test": "result"}
"""Where AFlow's operators keep their verdicts."""
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

    def follows(self, other: Flow) -> bool:
        """Whether this flow is the other one and a single call after it."""
        return self.extends(other) and len(self.nodes) == len(other.nodes) + 1


@dataclass(frozen=True, slots=True)
class Several:
    """A list of results."""

    flows: tuple[Flow, ...]


Value: TypeAlias = Flow | Several | None
"""What an expression depends on; `None` is the problem itself, a constant, or the cost."""


@dataclass(slots=True)
class _Scope:
    """Variables of a method."""

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
    parameters = {argument.arg for argument in methods["__call__"].args.args}
    reader = _Reader(_operators(methods["__init__"]), constants, vocabulary, parameters)
    scope = reader.run(methods["__call__"].body, _Scope())
    if scope.returned is None:
        raise UntranslatableError("no operator's result is returned")
    if not _once(reader.calls, scope.returned.nodes):
        raise UntranslatableError("a result of an operator is not used, or used twice")
    if isinstance(scope.returned.nodes[-1], Operator) and scope.returned.nodes[-1].name == "Review":
        raise UntranslatableError("a review is returned, not a solution")
    workflow = Workflow(chain(*scope.returned.nodes))
    try:
        check(workflow, vocabulary=vocabulary, limits=DEFAULT_LIMITS)
    except DSLError as error:
        raise UntranslatableError(f"{error.message} [{error.label}]") from None
    return format_workflow(workflow)


class _Reader:
    def __init__(
        self, operators: Mapping[str, str], constants: Mapping[str, str], vocabulary: Vocabulary, parameters: set[str]
    ) -> None:
        self.operators, self.constants, self.vocabulary = operators, constants, vocabulary
        self.parameters = parameters
        self.calls: list[Operator] = []
        """Calls that were read, in order."""

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
            case ast.For(
                iter=ast.Call(func=ast.Name(id="range"), args=[ast.Constant(value=int(times))]), body=inner, orelse=[]
            ):
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
        if not isinstance(test, ast.Subscript) or not isinstance(verdict, Flow):
            raise _no(node, "a condition on something else than an operator's verdict")
        condition = verdict.nodes[-1]
        field = test.slice.value if isinstance(test.slice, ast.Constant) else None
        if not isinstance(condition, Operator) or field != VERDICT_FIELDS.get(condition.name):
            raise _no(node, "a condition on something else than an operator's verdict")
        ways = []
        for own in (node.body, node.orelse):
            before = len(self.calls)
            way = self.after(self.run([*own, *rest], scope.copy()).returned, verdict, node)
            if not _once(self.calls[before:], way):
                raise _no(node, "a way with an operator whose result is not used, or used twice")
            ways.append(way)
        positive, negative = reversed(ways) if negated else ways
        scope.returned = Flow((*verdict.nodes[:-1], Conditional(condition, _branch(negative), _branch(positive))))
        return scope

    def after(self, end: Flow | None, verdict: Flow, node: ast.If) -> tuple[Node, ...]:
        """Operators that follow the verdict on one way."""
        if end is None:
            raise _no(node, "a way that returns no operator's result")
        judge = verdict.nodes[-1]
        if verdict.follows(end):
            if not isinstance(judge, Operator) or judge.name != "Review":
                raise _no(node, "a way back to what was there before the operator that was asked changed it")
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
                given = [*node.args, *(keyword.value for keyword in node.keywords)]
                return self.join([self.value(one, scope) for one in (receiver, *given)], node)
            case ast.Call(func=ast.Name(id="str")):
                return self.join([self.value(one, scope) for one in node.args], node)
            case ast.Call(func=ast.Attribute(ast.Attribute(ast.Name(id="self"), "llm"), "get_usage_summary")):
                return None
            case ast.Name(id=name):
                if name not in scope.values and name not in self.parameters:
                    raise _no(node, f"the name {name}")
                return scope.values.get(name)
            case ast.Subscript(value=inner, slice=ast.Constant()):
                value = self.value(inner, scope)
                if isinstance(value, Several):
                    raise _no(node, "one result out of a list")
                return value
            case ast.FormattedValue(value=inner):
                return self.value(inner, scope)
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return Several(tuple(self.one(one, scope) for one in items)) if items else Several(())
            case (
                ast.ListComp(elt=item, generators=[ast.comprehension(target=ast.Name(id=name), iter=source, ifs=[])])
                | ast.GeneratorExp(
                    elt=item, generators=[ast.comprehension(target=ast.Name(id=name), iter=source, ifs=[])]
                )
            ):
                return self.comprehension(node, item, name, source, scope)
            case ast.JoinedStr(values=parts):
                return self.join([self.value(one, scope) for one in parts], node)
            case ast.BinOp(left, ast.Add(), right):
                return self.join([self.value(one, scope) for one in (left, right)], node)
            case ast.Constant():
                return None
            case _:
                raise _no(node, f"an expression of this kind ({type(node).__name__})")

    def comprehension(
        self, node: ast.ListComp | ast.GeneratorExp, item: ast.expr, variable: str, source: ast.expr, scope: _Scope
    ) -> Several:
        match source:
            case ast.Call(func=ast.Name(id="range"), args=[ast.Constant(value=int(times))]) if times <= MAX_UNROLLED:
                return Several(tuple(self.one(item, scope) for _ in range(times)))
            case ast.Name(id=name) if isinstance(known := scope.values.get(name), Several):
                # `[one["response"] for one in solutions]`
                if isinstance(item, ast.Subscript) and isinstance(item.slice, ast.Constant):
                    item = item.value
                if isinstance(item, ast.Name) and item.id == variable:
                    return known
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
        if node.args:
            raise _no(node, f"{name} with arguments that are not named")
        values = {str(one.arg): self.value(one.value, scope) for one in node.keywords if one.arg != "instruction"}
        before = self.join(values.values(), node)
        if before is None and any(
            _says_something(one.value) for one in node.keywords if one.arg in ("input", "problem")
        ):
            raise _no(node, "an instruction inside the input")
        judged, solution = values.get("feedback"), values.get("solution")
        if isinstance(judged, Flow) and isinstance(solution, Flow) and not judged.follows(solution):
            raise _no(node, "feedback on something else than the solution")
        instruction = self.instruction(node)
        arguments = (("instruction", instruction),) if instruction else ()
        operator = Operator(name, arguments)
        self.calls.append(operator)
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
    return (*flows[0].nodes[:shared], Parallel(tuple(chain(*branch) for branch in branches)))


def _branch(nodes: tuple[Node, ...]) -> Node:
    return chain(*nodes) if nodes else Done()


def _once(calls: Sequence[Operator], nodes: Iterable[Node]) -> bool:
    """Whether nodes hold every one of the calls, the very objects, exactly once."""
    return sorted(map(id, calls)) == sorted(map(id, _operators_in(nodes)))


def _operators_in(nodes: Iterable[Node]) -> Iterator[Operator]:
    for node in nodes:
        if isinstance(node, Operator):
            yield node
        else:
            yield from _operators_in(children(node))


def _says_something(node: ast.expr) -> bool:
    """Whether an expression adds words of its own."""
    texts = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    keys = [
        one.slice.value
        for one in ast.walk(node)
        if isinstance(one, ast.Subscript) and isinstance(one.slice, ast.Constant)
    ]
    return any(text.strip() and text not in keys for text in texts)


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
