"""
Translates AFlow's `graph.py` to a workflow. The code is parsed only, never run or imported, since a model wrote it.

`__call__` is followed path by path: loops are unrolled, and whatever is known without a model call is computed. A
result is described by its *flow*: the operators that ran one after another to produce it. Code that has no counterpart
in the language is refused, with its line and the reason.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..dsl import (
    DEFAULT_LIMITS,
    Conditional,
    Node,
    Vocabulary,
    Workflow,
    chain,
    check,
    format_workflow,
)
from ..errors import DSLError
from .aflow_expressions import MAX_UNROLLED, ExpressionReader
from .flows import (
    Flow,
    Results,
    Scope,
    UntranslatableError,
    Value,
    branch_of,
    refusal,
    uses,
)

MAX_STEPS = 10_000
"""Maximum number of statements on all paths together: loops multiply it, and every condition in a row doubles it."""
LOGGING = ("print", "logger", "logging", "log")
_END_OF_ITERATION, _END_OF_LOOP = "end of iteration", "end of loop"


@dataclass(frozen=True, slots=True)
class _Assignment:
    """Assignment of an item to the variable of a loop."""

    target: ast.expr
    item: Value | tuple[Value, Value]


@dataclass(frozen=True, slots=True)
class _While:
    """A `while` loop of which some iterations have been followed."""

    loop: ast.While
    iterations: int


_Step: TypeAlias = ast.stmt | _Assignment | _While | str


def translate(graph: str, prompts: str, vocabulary: Vocabulary) -> str:
    """
    Translate a graph to the canonical text of a workflow.

    Calls whose result is not used are left out: they change no answer.

    Args:
        graph (`str`):
            Content of `graph.py`.
        prompts (`str`):
            Content of `prompt.py`, whose constants are instructions.
        vocabulary (`Mapping[str, OperatorSpec]`):
            Operators that a workflow may use.

    Returns:
        `str`: Canonical text of the workflow.

    Raises:
        [`UntranslatableError`]: The graph has no counterpart in the language.
    """
    try:
        return _translate(_parsed(graph), _constants(_parsed(prompts)), vocabulary)
    except (RecursionError, MemoryError):
        raise UntranslatableError("nested too deeply") from None


def _parsed(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError) as error:  # a null byte is a ValueError
        raise UntranslatableError(f"line {getattr(error, 'lineno', '?')}: not Python") from None


def _translate(tree: ast.Module, constants: dict[str, object], vocabulary: Vocabulary) -> str:
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Workflow"]
    if len(classes) != 1:
        raise UntranslatableError("there is not exactly one class Workflow")
    methods = {node.name: node for node in classes[0].body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    if "__init__" not in methods or "__call__" not in methods:
        raise UntranslatableError("Workflow lacks __init__ or __call__")
    parameters = {argument.arg for argument in methods["__call__"].args.args}
    reader = _Reader(_operators(methods["__init__"]), constants, vocabulary, parameters)
    scope = reader.run(methods["__call__"].body, Scope())
    if scope.returned is None:
        raise UntranslatableError("the result of no operator is returned")
    # A workflow has no variables: each result goes to the next operator, so no call may occur twice on one path.
    if max(uses(scope.returned.nodes).values(), default=0) > 1:
        raise UntranslatableError("a result of an operator is used twice")
    if scope.returned.last == "Review":
        raise UntranslatableError("a review is returned instead of a solution")
    workflow = Workflow(chain(*scope.returned.nodes))
    try:
        check(workflow, vocabulary=vocabulary, limits=DEFAULT_LIMITS)
    except DSLError as error:
        raise UntranslatableError(f"{error.message} [{error.label}]") from None
    return format_workflow(workflow)


class _Reader(ExpressionReader):
    """Follows the statements of `__call__`."""

    steps = 0
    """Number of steps followed so far."""

    def run(self, steps: Sequence[_Step], scope: Scope) -> Scope:
        """Follow steps up to the first `return` or to the end."""
        pending = list(steps)
        while pending:
            step = pending.pop(0)
            self.steps += 1
            if self.steps > MAX_STEPS:
                raise UntranslatableError(f"more than {MAX_STEPS} steps")
            match step:
                case str():  # an end that `break` or `continue` may jump to
                    pass
                case _Assignment(target, item):
                    self.assign(target, item, scope)
                case ast.Return(value=ast.Tuple(elts=[result, *_])):  # the second element is the cost
                    pending.insert(0, ast.copy_location(ast.Return(result), step))
                case ast.Assign(targets=[target], value=ast.IfExp(test, chosen, other)):
                    branches: list[ast.stmt] = [
                        ast.copy_location(ast.Assign([target], value), step) for value in (chosen, other)
                    ]
                    pending.insert(0, ast.copy_location(ast.If(test, branches[:1], branches[1:]), step))
                case ast.Return(value=ast.IfExp(test, chosen, other)):
                    branches = [ast.copy_location(ast.Return(value), step) for value in (chosen, other)]
                    pending.insert(0, ast.copy_location(ast.If(test, branches[:1], branches[1:]), step))
                case ast.Return(value=value):
                    scope.returned = self.flow(value, scope) if value is not None else None
                    return scope
                case ast.Break():
                    pending = pending[pending.index(_END_OF_LOOP) :]
                case ast.Continue():
                    pending = pending[pending.index(_END_OF_ITERATION) :]
                case ast.For():
                    pending = [*self.unrolled(step, scope), *pending]
                case ast.While():
                    pending = [_While(step, 0), _END_OF_LOOP, *pending]
                case ast.Try(body=body, handlers=handlers, orelse=orelse, finalbody=final):
                    # An operator that fails passes on what it was given, which is what handlers do at best.
                    if any(isinstance(part, ast.Await) for handler in handlers for part in ast.walk(handler)):
                        raise refusal(step, "an exception handler that calls an operator")
                    pending = [*body, *orelse, *final, *pending]
                case ast.If(test=test, body=body, orelse=otherwise):
                    condition = self.condition(test, scope)
                    if not isinstance(condition, bool):
                        # What follows belongs to both branches: it may use what either of them has assigned.
                        return self.branch(step, condition, [*body, *pending], [*otherwise, *pending], scope)
                    pending = [*(body if condition else otherwise), *pending]
                case _While(loop, iterations):
                    if iterations > MAX_UNROLLED:
                        raise refusal(loop, f"a loop of more than {MAX_UNROLLED} iterations")
                    condition = self.condition(loop.test, scope)
                    again = [*loop.body, _END_OF_ITERATION, _While(loop, iterations + 1), *pending]
                    if not isinstance(condition, bool):
                        return self.branch(loop, condition, again, [*loop.orelse, *pending], scope)
                    pending = again if condition else [*loop.orelse, *pending]
                case _:
                    self.statement(step, scope)
        return scope

    def unrolled(self, loop: ast.For, scope: Scope) -> list[_Step]:
        """Steps of all iterations of a loop."""
        items = self.items(loop.iter, scope)
        if len(items) > MAX_UNROLLED:
            raise refusal(loop, f"a loop of {len(items)} iterations")
        steps: list[_Step] = []
        for item in items:
            steps += [_Assignment(loop.target, item), *loop.body, _END_OF_ITERATION]
        return [*steps, *loop.orelse, _END_OF_LOOP]

    def statement(self, node: ast.stmt, scope: Scope) -> None:
        """Follow one statement that runs once and to its end."""
        match node:
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=parts)) if len(targets) == len(
                parts
            ):
                values = [self.value(part, scope) for part in parts]
                for target, value in zip(targets, values, strict=True):
                    self.assign(target, value, scope)
            case ast.Assign(targets=[target], value=value) | ast.AnnAssign(target=target, value=ast.expr() as value):
                self.assign(target, self.value(value, scope), scope)
            case ast.AugAssign(target=ast.Name(id=name), op=ast.Add(), value=value):
                scope.values[name] = self.sum(scope.values.get(name), self.value(value, scope), node)
            case ast.Expr(value=ast.Call(func=ast.Attribute(ast.Name(id=name), "append"), args=[item])):
                self.extend(name, [self.flow(item, scope)], scope, node)
            case ast.Expr(value=ast.Call(func=ast.Attribute(ast.Name(id=name), "extend"), args=[items])):
                self.extend(name, self.flows(items, scope), scope, node)
            case ast.Expr(value=ast.Constant()) | ast.Pass() | ast.Import() | ast.ImportFrom():
                pass
            case ast.Expr(value=ast.Call(func=function)) if _root(function) in LOGGING and not _calls(node):
                pass
            case ast.Expr(value=value):
                self.value(value, scope)
            case _:
                raise refusal(node, f"a statement of this kind ({type(node).__name__})")

    def extend(self, name: str, flows: Sequence[Flow], scope: Scope, node: ast.AST) -> None:
        """Add results to a list."""
        results = scope.values.get(name)
        if not isinstance(results, Results):
            raise refusal(node, f"results added to {name}, which is not a list of results")
        scope.values[name] = Results((*results.flows, *flows))

    def branch(
        self,
        node: ast.AST,
        condition: tuple[Flow, bool],
        chosen: Sequence[_Step],
        otherwise: Sequence[_Step],
        scope: Scope,
    ) -> Scope:
        """Follow both branches to the end of the method and join them in a conditional."""
        verdict, holds = condition
        positive, negative = (chosen, otherwise) if holds else (otherwise, chosen)
        after = {
            good: self.after(self.run(steps, scope.copy()).returned, verdict, good, node)
            for good, steps in ((True, positive), (False, negative))
        }
        if after[True] or after[False]:
            joined = Conditional(verdict.nodes[-1], branch_of(after[False]), branch_of(after[True]))
            scope.returned = Flow((*verdict.nodes[:-1], joined))
        else:  # the verdict decides nothing; a review does nothing else
            scope.returned = Flow(verdict.nodes[:-1] if verdict.last == "Review" else verdict.nodes)
        return scope

    def after(self, returned: Flow | None, verdict: Flow, good: bool, node: ast.AST) -> tuple[Node, ...]:
        """Operators that follow a verdict in one of its branches."""
        if returned is None:
            raise refusal(node, "a branch that returns the result of no operator")
        before = Flow(verdict.nodes[:-1])
        # A review leaves the solution unchanged, and so does a program that does not run if there is a solution.
        unchanged = verdict.last == "Review" or (verdict.last == "Programmer" and not good and bool(before.nodes))
        if returned.extends(verdict):
            following = returned.nodes[len(verdict.nodes) :]
            if verdict.last == "Review" and not following:
                raise refusal(node, "a review is returned instead of a solution")
            if following and unchanged and verdict.last == "Programmer":
                raise refusal(node, "a branch that continues from a program that did not run")
            return following
        if returned.extends(before) and before.nodes:
            following = returned.nodes[len(before.nodes) :]
            if unchanged:
                return following
            if not following:
                # A test may repair the solution, and a workflow would continue with the repaired one.
                raise refusal(node, "a branch that returns a solution from before the condition changed it")
        raise refusal(node, "a branch that does not continue from the operator of the condition")


def _root(node: ast.expr) -> str:
    """Name that an attribute is reached from."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _calls(node: ast.AST) -> bool:
    """Whether something is awaited, such as a call of an operator."""
    return any(isinstance(part, ast.Await) for part in ast.walk(node))


def _operators(method: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, str]:
    """Operators by attribute, from assignments such as `self.custom = operator.Custom(self.llm)`."""
    operators = {}
    for node in ast.walk(method):
        match node:
            case ast.Assign(
                targets=[ast.Attribute(ast.Name(id="self"), attribute)],
                value=ast.Call(func=ast.Attribute(ast.Name(id="operator"), name) | ast.Name(id=name)),
            ):
                operators[attribute] = name
    return operators


def _constants(tree: ast.Module) -> dict[str, object]:
    """Literal constants of a module by name."""
    constants = {}
    for node in tree.body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                with contextlib.suppress(ValueError, TypeError, SyntaxError):  # not a literal
                    constants[name] = ast.literal_eval(value)
    return constants
