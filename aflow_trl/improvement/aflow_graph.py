"""
Translates AFlow's `graph.py` to a workflow. The code is parsed only, never run or imported, since a model wrote it.

`__call__` is followed statement by statement. The value of an expression is its *flow*: the operators that ran one
after another to produce it. Code without a counterpart in the language is refused, with its line and the reason.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from ..dsl import (
    DEFAULT_LIMITS,
    Conditional,
    Node,
    Operator,
    Vocabulary,
    Workflow,
    chain,
    check,
    format_workflow,
)
from ..errors import DSLError
from .flows import Flow, Results, Scope, UntranslatableError, Value, branch_of, each_once, join, parallel, refusal

MAX_UNROLLED = 5
"""Maximum number of iterations of a loop, as in `(S) * n`."""
VERDICT_FIELDS = {"Review": "review_result", "Test": "result"}
"""Fields of the replies of AFlow's operators that hold a verdict."""
SILENT_METHODS = ("append", "join", "strip", "lower", "format", "get", "replace", "split")
"""Methods of strings and lists, which make no model call."""


def translate(graph: str, prompts: str, vocabulary: Vocabulary) -> str:
    """
    Translate a graph to the canonical text of a workflow.

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
        tree, constants = ast.parse(graph), _constants(ast.parse(prompts))
    except SyntaxError as error:
        raise UntranslatableError(f"line {error.lineno}: not Python") from None
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
    # A workflow has no variables: each result goes to the next operator, so each call has to occur exactly once.
    if not each_once(reader.calls, scope.returned.nodes):
        raise UntranslatableError("a result of an operator is unused, or used twice")
    if isinstance(scope.returned.nodes[-1], Operator) and scope.returned.nodes[-1].name == "Review":
        raise UntranslatableError("a review is returned instead of a solution")
    workflow = Workflow(chain(*scope.returned.nodes))
    try:
        check(workflow, vocabulary=vocabulary, limits=DEFAULT_LIMITS)
    except DSLError as error:
        raise UntranslatableError(f"{error.message} [{error.label}]") from None
    return format_workflow(workflow)


class _Reader:
    """Follows the statements of `__call__`."""

    def __init__(
        self, operators: Mapping[str, str], constants: Mapping[str, str], vocabulary: Vocabulary, parameters: set[str]
    ) -> None:
        self.operators, self.constants, self.vocabulary = operators, constants, vocabulary
        self.parameters = parameters
        self.calls: list[Operator] = []
        """Calls of operators so far, in order."""

    def run(self, body: Sequence[ast.stmt], scope: Scope) -> Scope:
        """Follow statements up to the first `return` or to the end."""
        for index, statement in enumerate(body):
            if isinstance(statement, ast.If):
                # The statements after it belong to both branches: they may use what either has assigned.
                return self.branch(statement, body[index + 1 :], scope)
            self.statement(statement, scope)
            if isinstance(statement, ast.Return):
                break
        return scope

    def statement(self, node: ast.stmt, scope: Scope) -> None:
        """Follow one statement other than a condition."""
        match node:
            case ast.Return(value=value):
                if isinstance(value, ast.Tuple) and value.elts:
                    value = value.elts[0]  # the second element is the cost
                scope.returned = self.flow(value, scope) if value is not None else None
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                scope.values[name] = self.value(value, scope)
            case ast.AugAssign(target=ast.Name(id=name), value=value):
                scope.values[name] = join([scope.values.get(name), self.value(value, scope)], node)
            case ast.Expr(value=ast.Call(func=ast.Attribute(ast.Name(id=name), "append"), args=[item])):
                results = scope.values.get(name)
                flows = results.flows if isinstance(results, Results) else ()
                scope.values[name] = Results((*flows, self.flow(item, scope)))
            case ast.Expr(value=ast.Constant()) | ast.Pass():
                pass
            case ast.Expr(value=value):
                self.value(value, scope)
            case ast.For(
                iter=ast.Call(func=ast.Name(id="range"), args=[ast.Constant(value=int(times))]), body=inner, orelse=[]
            ):
                if not 1 <= times <= MAX_UNROLLED:
                    raise refusal(node, f"a loop of {times} iterations")
                for _ in range(times):
                    for statement in inner:
                        if isinstance(statement, ast.If | ast.Return):
                            raise refusal(statement, "a condition inside a loop")
                        self.statement(statement, scope)
            case _:
                raise refusal(node, f"a statement of this kind ({type(node).__name__})")

    def branch(self, node: ast.If, rest: Sequence[ast.stmt], scope: Scope) -> Scope:
        """Follow both branches to the end of the method and join them in a conditional."""
        test, negated = node.test, False
        # `if not verdict` swaps the branches.
        while isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            test, negated = test.operand, not negated
        verdict = self.value(test, scope)
        if not isinstance(test, ast.Subscript) or not isinstance(verdict, Flow):
            raise refusal(node, "a condition that is not the verdict of an operator")
        condition = verdict.nodes[-1]
        field = test.slice.value if isinstance(test.slice, ast.Constant) else None
        if not isinstance(condition, Operator) or field != VERDICT_FIELDS.get(condition.name):
            raise refusal(node, "a condition that is not the verdict of an operator")
        branches = []
        for body in (node.body, node.orelse):
            calls_before = len(self.calls)
            branch = self.after(self.run([*body, *rest], scope.copy()).returned, verdict, node)
            if not each_once(self.calls[calls_before:], branch):
                raise refusal(node, "a branch with an operator whose result is unused, or used twice")
            branches.append(branch)
        positive, negative = reversed(branches) if negated else branches
        scope.returned = Flow((*verdict.nodes[:-1], Conditional(condition, branch_of(negative), branch_of(positive))))
        return scope

    def after(self, returned: Flow | None, verdict: Flow, node: ast.If) -> tuple[Node, ...]:
        """Operators that follow the verdict in a branch."""
        if returned is None:
            raise refusal(node, "a branch that returns the result of no operator")
        condition = verdict.nodes[-1]
        if verdict.follows(returned):
            # The branch returns what the condition was given. A review leaves the solution unchanged, but a test may
            # repair it, and a workflow would continue with the repaired one.
            if not isinstance(condition, Operator) or condition.name != "Review":
                raise refusal(node, "a branch that returns a solution from before the condition changed it")
            return ()
        if not returned.extends(verdict):
            raise refusal(node, "a branch that does not continue from the operator of the condition")
        return returned.nodes[len(verdict.nodes) :]

    def value(self, node: ast.expr, scope: Scope) -> Value:
        """Value of an expression."""
        match node:
            case ast.Await(value=ast.Call(func=ast.Attribute(ast.Name(id="asyncio"), "gather"), args=arguments)):
                if len(arguments) == 1 and isinstance(arguments[0], ast.Starred):
                    return self.value(arguments[0].value, scope)
                return Results(tuple(self.flow(argument, scope) for argument in arguments))
            case ast.Await(value=inner):
                return self.value(inner, scope)
            case ast.Call(func=ast.Attribute(ast.Name(id="self"), name)):
                return self.call(node, name, scope)
            case ast.Call(func=ast.Attribute(receiver, name)) if name in SILENT_METHODS:
                operands = [receiver, *node.args, *(keyword.value for keyword in node.keywords)]
                return join([self.value(operand, scope) for operand in operands], node)
            case ast.Call(func=ast.Name(id="str")):
                return join([self.value(argument, scope) for argument in node.args], node)
            # The cost, which `__call__` returns next to the solution.
            case ast.Call(func=ast.Attribute(ast.Attribute(ast.Name(id="self"), "llm"), "get_usage_summary")):
                return None
            case ast.Name(id=name):
                if name not in scope.values and name not in self.parameters:
                    raise refusal(node, f"the unknown name {name}")
                return scope.values.get(name)
            case ast.Subscript(value=inner, slice=ast.Constant()):
                value = self.value(inner, scope)
                if isinstance(value, Results):
                    raise refusal(node, "a single element of a list of results")
                return value
            case ast.FormattedValue(value=inner):
                return self.value(inner, scope)
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return Results(tuple(self.flow(item, scope) for item in items))
            case (
                ast.ListComp(elt=item, generators=[ast.comprehension(target=ast.Name(id=name), iter=source, ifs=[])])
                | ast.GeneratorExp(
                    elt=item, generators=[ast.comprehension(target=ast.Name(id=name), iter=source, ifs=[])]
                )
            ):
                return self.comprehension(node, item, name, source, scope)
            case ast.JoinedStr(values=parts):
                return join([self.value(part, scope) for part in parts], node)
            case ast.BinOp(left, ast.Add(), right):
                return join([self.value(operand, scope) for operand in (left, right)], node)
            case ast.Constant():
                return None
            case _:
                raise refusal(node, f"an expression of this kind ({type(node).__name__})")

    def comprehension(
        self, node: ast.ListComp | ast.GeneratorExp, item: ast.expr, variable: str, source: ast.expr, scope: Scope
    ) -> Results:
        """Value of a list comprehension: repeated calls, or a field of each result."""
        match source:
            case ast.Call(func=ast.Name(id="range"), args=[ast.Constant(value=int(times))]) if times <= MAX_UNROLLED:
                return Results(tuple(self.flow(item, scope) for _ in range(times)))
            case ast.Name(id=name) if isinstance(results := scope.values.get(name), Results):
                # `[result["response"] for result in results]` is the list itself.
                if isinstance(item, ast.Subscript) and isinstance(item.slice, ast.Constant):
                    item = item.value
                if isinstance(item, ast.Name) and item.id == variable:
                    return results
        raise refusal(node, "a list comprehension of this kind")

    def flow(self, node: ast.expr, scope: Scope) -> Flow:
        """Value of an expression that has to be the result of an operator."""
        value = self.value(node, scope)
        if not isinstance(value, Flow):
            raise refusal(node, "an expression that is not the result of an operator")
        return value

    def call(self, node: ast.Call, attribute: str, scope: Scope) -> Flow:
        """Value of a call of an operator."""
        name = self.operators.get(attribute)
        if name is None:
            raise refusal(node, f"a call of self.{attribute}, which is not an operator")
        if name not in self.vocabulary:
            raise refusal(node, f"the unknown operator {name}")
        if node.args:
            raise refusal(node, f"{name} with positional arguments")
        # The instruction is a prompt, not data that flows between operators.
        values = {
            str(keyword.arg): self.value(keyword.value, scope)
            for keyword in node.keywords
            if keyword.arg != "instruction"
        }
        before = join(values.values(), node)
        inputs = [keyword for keyword in node.keywords if keyword.arg in ("input", "problem")]
        if before is None and any(_adds_text(keyword.value) for keyword in inputs):
            raise refusal(node, "an instruction inside the input")
        feedback, solution = values.get("feedback"), values.get("solution")
        if isinstance(feedback, Flow) and isinstance(solution, Flow) and not feedback.follows(solution):
            raise refusal(node, "feedback on another solution")
        instruction = self.instruction(node)
        arguments = (("instruction", instruction),) if instruction else ()
        operator = Operator(name, arguments)
        self.calls.append(operator)
        if self.vocabulary[name].is_ensemble:
            if not isinstance(before, Results) or not before.flows:
                raise refusal(node, f"{name} without a list of results")
            return Flow((*parallel(before.flows, node), operator))
        if isinstance(before, Results):
            raise refusal(node, f"{name} on a list of results")
        return Flow((*(before.nodes if before else ()), operator))

    def instruction(self, node: ast.Call) -> str:
        """Instruction of a call, which has to be a constant; empty if there is none."""
        for keyword in node.keywords:
            match keyword:
                case ast.keyword("instruction", ast.Constant(value=str(text))):
                    return text.strip()
                case ast.keyword("instruction", ast.Attribute(attr=name)) if name in self.constants:
                    return self.constants[name].strip()
                case ast.keyword("instruction", value):
                    raise refusal(value, "an instruction that is not a constant")
        return ""


def _adds_text(node: ast.expr) -> bool:
    """Whether an expression adds text other than white space, which could instruct the model."""
    texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    # Keys such as `result["response"]` are constants as well, but are not part of the text.
    keys = [
        part.slice.value
        for part in ast.walk(node)
        if isinstance(part, ast.Subscript) and isinstance(part.slice, ast.Constant)
    ]
    return any(text.strip() and text not in keys for text in texts)


def _operators(method: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, str]:
    """Operators by attribute, from assignments such as `self.custom = operator.Custom(self.llm)`."""
    operators = {}
    for node in ast.walk(method):
        match node:
            case ast.Assign(
                targets=[ast.Attribute(ast.Name(id="self"), attribute)],
                value=ast.Call(func=ast.Attribute(ast.Name(id="operator"), name)),
            ):
                operators[attribute] = name
    return operators


def _constants(tree: ast.Module) -> dict[str, str]:
    """String constants of a module by name."""
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
