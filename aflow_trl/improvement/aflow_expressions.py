"""
Values of the expressions in AFlow's `graph.py`: what is known without a model call, and what a result depends on.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..dsl import Operator, Vocabulary
from .flows import Constant, Flow, OperatorClass, Results, Scope, Text, Value, join, parallel, refusal

MAX_UNROLLED = 5
"""Maximum number of iterations of a loop, as in `(S) * n`."""
VERDICT_FIELDS = {"Review": "review_result", "Test": "result", "Programmer": "output"}
"""Fields of the replies of AFlow's operators that hold a verdict; a program that ran has an output."""
POSITIONS = {
    "Custom": ("input", "instruction"),
    "AnswerGenerate": ("input",),
    "CustomCodeGenerate": ("problem", "entry_point", "instruction"),
    "Programmer": ("problem", "analysis"),
    "Test": ("problem", "solution", "entry_point"),
    "Review": ("problem", "solution"),
    "Revise": ("problem", "solution", "feedback"),
    "ScEnsemble": ("solutions", "problem"),
    "MdEnsemble": ("solutions", "problem"),
}
"""Parameters of AFlow's operators in order."""
SILENT_METHODS = ("join", "strip", "lower", "upper", "format", "replace", "split")
"""Methods of strings, which make no model call."""
SAME_FIELD = ("strip", "lower", "upper")
"""Methods that leave it to be seen whether there is an output."""
FAILED_OUTPUTS = ("error", "none", "exception", "traceback", "failed", "timeout", "timed out", "")
"""Texts by which graphs recognise that a program did not run."""
OPERATIONS: dict[type, Callable[[Any, Any], object]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.Add: operator.add,
    ast.Sub: operator.sub,
}
"""Operations on values that are known without a model call."""
MAX_TEXT = 20_000
"""Maximum length of a known text, which could double in every iteration."""
_LABEL = re.compile(r"\s*(problem|question|task|entry point|function|function name)?\s*:?\s*", re.IGNORECASE)
"""Text around the problem that instructs nobody."""


class ExpressionReader:
    """
    Finds the values of expressions.

    Args:
        operators (`Mapping[str, str]`):
            Operators by attribute of `self`.
        constants (`Mapping[str, object]`):
            Constants of `prompt.py`.
        vocabulary (`Mapping[str, OperatorSpec]`):
            Operators that a workflow may use.
        parameters (`set[str]`):
            Parameters of the method: the problem, and what belongs to it.
    """

    def __init__(
        self,
        operators: Mapping[str, str],
        constants: Mapping[str, object],
        vocabulary: Vocabulary,
        parameters: set[str],
    ) -> None:
        self.operators, self.constants, self.vocabulary = operators, constants, vocabulary
        self.parameters = parameters

    # -- expressions -----------------------------------------------------------------------------------------------

    def value(self, node: ast.expr, scope: Scope) -> Value:
        """Value of an expression."""
        match node:
            case ast.Await(value=ast.Call(func=ast.Attribute(ast.Name(id="asyncio"), "gather"), args=arguments)):
                return Results(tuple(flow for argument in arguments for flow in self.elements(argument, scope)))
            case ast.Await(value=inner):
                return self.value(inner, scope)
            case ast.Call():
                return self.called(node, scope)
            case ast.Constant(value=constant):
                return Constant(constant)
            case ast.Name(id=name):
                if name not in scope.values and name not in self.parameters:
                    raise refusal(node, f"the unknown name {name}")
                return scope.values.get(name)
            case ast.Attribute(value=ast.Name(), attr=name) if name in self.constants:
                return Constant(self.constants[name])
            case ast.Subscript(value=inner, slice=index):
                return self.item(self.value(inner, scope), index, scope, node)
            case ast.FormattedValue(value=inner):
                return self.value(inner, scope)
            case ast.List(elts=items) | ast.Tuple(elts=items):
                if items and all(isinstance(item, ast.Constant) for item in items):
                    return Constant(ast.literal_eval(node))
                return Results(tuple(flow for item in items for flow in self.elements(item, scope)))
            case ast.ListComp() | ast.GeneratorExp():
                return self.comprehension(node, scope)
            case ast.JoinedStr(values=parts):
                values = [self.value(part, scope) for part in parts]
                if all(isinstance(value, Constant) for value in values):
                    return Constant("".join(str(value.value) for value in values if isinstance(value, Constant)))
                return self.text(values, node)
            case ast.BinOp(left, ast.Add(), right):
                return self.sum(self.value(left, scope), self.value(right, scope), node)
            case ast.BinOp(left, op, right) if type(op) in OPERATIONS:
                values = [self.value(operand, scope) for operand in (left, right)]
                if isinstance(values[0], Constant) and isinstance(values[1], Constant):
                    return Constant(self.computed(OPERATIONS[type(op)], values[0].value, values[1].value, node))
                return self.text(values, node)
            case ast.BoolOp(op=ast.Or(), values=operands):
                return self.first_of([self.value(operand, scope) for operand in operands], node)
            case ast.IfExp(test=test, body=chosen, orelse=other):
                condition = self.condition(test, scope)
                if isinstance(condition, bool):
                    return self.value(chosen if condition else other, scope)
                values = [self.value(part, scope) for part in (chosen, other)]
                flow, holds = condition
                if isinstance(result := values[not holds], Flow) and result.nodes == flow.nodes:
                    return self.first_of([result, values[holds]], node)
        raise refusal(node, f"an expression of this kind ({type(node).__name__})")

    def called(self, node: ast.Call, scope: Scope) -> Value:
        """Value of a call."""
        operands = [*node.args, *(keyword.value for keyword in node.keywords)]
        match node.func:
            case ast.Attribute(ast.Name(id="self"), name):
                if name not in self.operators:
                    raise refusal(node, f"a call of self.{name}, which is not an operator")
                return self.operator(node, self.operators[name], scope)
            case ast.Attribute(ast.Name(id="operator"), name):
                return OperatorClass(name)
            # The cost, which `__call__` returns next to the solution.
            case ast.Attribute(ast.Attribute(ast.Name(id="self"), "llm"), "get_usage_summary"):
                return None
            case ast.Attribute(receiver, "get") if node.args:
                return self.item(self.value(receiver, scope), node.args[0], scope, node)
            case ast.Attribute(receiver, name) if name in SILENT_METHODS:
                value = self.value(receiver, scope)
                if name in SAME_FIELD and isinstance(value, Flow):
                    return value
                return self.text([value, *(self.value(operand, scope) for operand in operands)], node)
            case ast.Name(id=name) if isinstance(chosen := scope.values.get(name), OperatorClass):
                return self.operator(node, chosen.name, scope)
            case ast.Name(id="len") if len(operands) == 1:
                match self.value(operands[0], scope):
                    case Results(flows):
                        return Constant(len(flows))
                    case Constant(value=list() | tuple() | str() as known):
                        return Constant(len(known))
            case ast.Name(id="str" | "list" | "tuple") if len(operands) == 1:
                return self.value(operands[0], scope)
            case ast.Call() as factory if isinstance(chosen := self.value(factory, scope), OperatorClass):
                return self.operator(node, chosen.name, scope)
        raise refusal(node, "a call of something that is not an operator")

    def items(self, node: ast.expr, scope: Scope) -> list[Value | tuple[Value, Value]]:
        """What a loop or comprehension goes through."""
        match node:
            case ast.Call(func=ast.Name(id="range"), args=arguments) if arguments:
                bounds = [self.value(argument, scope) for argument in arguments]
                numbers = [bound.value for bound in bounds if isinstance(bound, Constant) and type(bound.value) is int]
                if len(numbers) == len(bounds) and 0 not in numbers[2:]:
                    return [Constant(number) for number in range(*numbers)[: 10 * MAX_UNROLLED]]
            case ast.Call(func=ast.Name(id="enumerate"), args=[source, *start], keywords=keywords):
                starts = [*start, *(keyword.value for keyword in keywords)]
                first = self.value(starts[0], scope) if starts else Constant(0)
                if isinstance(first, Constant) and isinstance(first.value, int):
                    numbered = enumerate(self.items(source, scope), first.value)
                    return [(Constant(number), item) for number, item in numbered if not isinstance(item, tuple)]
            case _:
                match self.value(node, scope):
                    case Results(flows):
                        return list(flows)
                    case Constant(value=list() | tuple() as values):
                        return [Constant(value) for value in values]
        raise refusal(node, "a loop over something unknown")

    def comprehension(self, node: ast.ListComp | ast.GeneratorExp, scope: Scope) -> Value:
        """Value of a list comprehension: its element for every item."""
        if len(node.generators) != 1 or node.generators[0].ifs:
            raise refusal(node, "a list comprehension of this kind")
        loop, inner = node.generators[0], scope.copy()
        items, values = self.items(loop.iter, scope), list[Value]()
        if len(items) > MAX_UNROLLED:
            raise refusal(node, f"a loop of {len(items)} iterations")
        for item in items:
            self.assign(loop.target, item, inner)
            values.append(self.value(node.elt, inner))
        flows = tuple(value for value in values if isinstance(value, Flow))
        if len(flows) == len(values):
            return Results(flows)
        raise refusal(node, "a list comprehension of this kind")

    def item(self, value: Value, index: ast.expr, scope: Scope, node: ast.AST) -> Value:
        """Value of `value[index]`."""
        if isinstance(index, ast.Slice):
            bounds = [self.value(bound, scope) if bound else Constant(None) for bound in (index.lower, index.upper)]
            if isinstance(value, Results) and index.step is None:
                limits = slice(*(bound.value if isinstance(bound, Constant) else "unknown" for bound in bounds))
                return Results(self.computed(operator.getitem, value.flows, limits, node))
            raise refusal(node, "a slice of this kind")
        key = self.value(index, scope)
        match value, key:
            case Flow(nodes), Constant(value=str() as name):
                return Flow(nodes, name)
            case Results(flows), Constant(value=int() as number) if -len(flows) <= number < len(flows):
                return flows[number]
            case Constant(value=list() | tuple() | dict() | str() as known), Constant(value=constant):
                return Constant(self.computed(operator.getitem, known, constant, node))
        raise refusal(node, "an element of this kind")

    def sum(self, left: Value, right: Value, node: ast.AST) -> Value:
        """Value of `left + right`."""
        if isinstance(left, Results) and isinstance(right, Results):
            return Results((*left.flows, *right.flows))
        if isinstance(left, Constant) and isinstance(right, Constant):
            return Constant(self.computed(operator.add, left.value, right.value, node))
        return self.text([left, right], node)

    def first_of(self, values: Sequence[Value], node: ast.AST) -> Value:
        """Value of `first or other`: an operator that fails passes on what it was given."""
        first, *others = values
        if isinstance(first, Constant):
            return first if first.value or not others else self.first_of(others, node)
        flows = [other for other in others if not isinstance(other, Constant)]
        if isinstance(first, Flow) and all(isinstance(flow, Flow) and first.extends(flow) for flow in flows):
            return first
        raise refusal(node, "a choice between separate results")

    def text(self, values: Sequence[Value], node: ast.AST) -> Value:
        """Value of a text that is composed of several values."""
        joined = join(values, node)
        added = "".join(
            str(value.value) if isinstance(value, Constant) else value.added if isinstance(value, Text | Flow) else ""
            for value in values
        )
        if isinstance(joined, Flow):
            return Flow(joined.nodes, added=added)
        return joined if joined is not None or _LABEL.fullmatch(added) else Text(added)

    def computed(self, function: Callable[[Any, Any], object], left: object, right: object, node: ast.AST) -> Any:
        """Result of an operation on two known values."""
        if any(isinstance(value, str | list) and len(value) > MAX_TEXT for value in (left, right)):
            raise refusal(node, f"a text of more than {MAX_TEXT} characters")
        try:
            return function(left, right)
        except (TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise refusal(node, f"an operation that fails ({error})") from None

    def elements(self, node: ast.expr, scope: Scope) -> tuple[Flow, ...]:
        """Results that an element of a list stands for; several if it is starred."""
        return self.flows(node.value, scope) if isinstance(node, ast.Starred) else (self.flow(node, scope),)

    def flows(self, node: ast.expr, scope: Scope) -> tuple[Flow, ...]:
        """Value of an expression that has to be a list of results."""
        value = self.value(node, scope)
        if not isinstance(value, Results):
            raise refusal(node, "an expression that is not a list of results")
        return value.flows

    def flow(self, node: ast.expr, scope: Scope) -> Flow:
        """Value of an expression that has to be the result of an operator."""
        value = self.value(node, scope)
        if not isinstance(value, Flow):
            raise refusal(node, "an expression that is not the result of an operator")
        return value

    def assign(self, target: ast.expr, value: Value | tuple[Value, Value], scope: Scope) -> None:
        """Assign to a name, or to several at once."""
        match target, value:
            case ast.Name(id=name), _ if not isinstance(value, tuple):
                scope.values[name] = value
            case ast.Tuple(elts=targets) | ast.List(elts=targets), tuple() if len(targets) == len(value):
                for part, item in zip(targets, value, strict=True):
                    self.assign(part, item, scope)
            case ast.Tuple(elts=targets) | ast.List(elts=targets), Results(flows) if len(targets) == len(flows):
                for part, flow in zip(targets, flows, strict=True):
                    self.assign(part, flow, scope)
            case _:
                raise refusal(target, "an assignment of this kind")

    # -- operators -------------------------------------------------------------------------------------------------

    def operator(self, node: ast.Call, name: str, scope: Scope) -> Flow:
        """Value of a call of an operator."""
        if name not in self.vocabulary:
            raise refusal(node, f"the unknown operator {name}")
        positions = POSITIONS.get(name, ())
        if len(node.args) > len(positions) or any(keyword.arg is None for keyword in node.keywords):
            raise refusal(node, f"{name} with arguments of this kind")
        arguments = dict(zip(positions, node.args, strict=False)) | {
            str(keyword.arg): keyword.value for keyword in node.keywords
        }
        values = {key: self.value(value, scope) for key, value in arguments.items()}
        instruction = self.instruction(name, values, node)
        analysis = values.get("analysis")
        if isinstance(analysis, Constant) and str(analysis.value).strip() not in ("", "None"):
            raise refusal(node, "an analysis that is a constant")
        feedback, solution = values.get("feedback"), values.get("solution")
        if isinstance(feedback, Flow) and isinstance(solution, Flow) and not feedback.follows(solution):
            raise refusal(node, "feedback on another solution")
        call = Operator(name, (("instruction", instruction),) if instruction else ())
        before = join(values.values(), node)
        if self.vocabulary[name].is_ensemble:
            if not isinstance(before, Results) or not before.flows:
                raise refusal(node, f"{name} without a list of results")
            if len(before.flows) == 1:  # nothing to choose from
                return Flow(before.flows[0].nodes)
            return Flow((*parallel(before.flows, node), call))
        if isinstance(before, Results):
            raise refusal(node, f"{name} on a list of results")
        return Flow((*(before.nodes if isinstance(before, Flow) else ()), call))

    def instruction(self, name: str, values: Mapping[str, Value], node: ast.AST) -> str:
        """What a call says beside the problem and earlier results; AFlow's operators put both into one prompt."""
        texts = []
        for key, value in values.items():
            match key, value:
                case "instruction", Constant(value=str() as text) | Flow(added=text):
                    texts.append(text.strip())
                    # A text that consists of results alone would be an instruction by the executor.
                    if isinstance(value, Flow) and not text.strip():
                        raise refusal(node, "an instruction that is not a constant")
                case "instruction", _:
                    raise refusal(node, "an instruction that is not a constant")
                case _, Text(added):
                    texts.append(added.strip())
        text = "\n".join(filter(None, texts))
        if text and "instruction" not in POSITIONS.get(name, ("instruction",)):
            raise refusal(node, "an instruction inside the input")
        return text

    # -- conditions ------------------------------------------------------------------------------------------------

    def condition(self, node: ast.expr, scope: Scope) -> bool | tuple[Flow, bool]:
        """Whether a condition holds; if an operator decides, its flow, and whether it holds for a good verdict."""
        match node:
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                condition = self.condition(operand, scope)
                return not condition if isinstance(condition, bool) else (condition[0], not condition[1])
            case ast.BoolOp(op=op, values=operands):
                return self.combined([self.condition(operand, scope) for operand in operands], op, node)
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return self.comparison(self.value(left, scope), op, self.value(right, scope), node)
        value = self.value(node, scope)
        if isinstance(value, Constant):
            return bool(value.value)
        if isinstance(value, Results):
            return bool(value.flows)
        return self.verdict(value, node), True

    def combined(
        self, conditions: Sequence[bool | tuple[Flow, bool]], op: ast.boolop, node: ast.AST
    ) -> bool | tuple[Flow, bool]:
        """Value of `and` and `or`."""
        decisive = isinstance(op, ast.Or)  # `or` with something true is true, `and` with something false is false
        if any(condition is decisive for condition in conditions):
            return decisive
        undecided = [condition for condition in conditions if not isinstance(condition, bool)]
        if not undecided:
            return not decisive
        first, holds = undecided[0]
        if any(flow.nodes != first.nodes or other != holds for flow, other in undecided):
            raise refusal(node, "a condition on several verdicts")
        return first, holds

    def comparison(self, left: Value, op: ast.cmpop, right: Value, node: ast.AST) -> bool | tuple[Flow, bool]:
        """Value of a comparison."""
        if isinstance(left, Constant) and isinstance(right, Constant):
            if type(op) in OPERATIONS:
                return bool(self.computed(OPERATIONS[type(op)], left.value, right.value, node))
        elif (
            isinstance(left, Flow)
            and isinstance(right, Constant)
            and isinstance(op, ast.Eq | ast.NotEq | ast.Is | ast.IsNot)
        ):
            same = isinstance(op, ast.Eq | ast.Is)
            if isinstance(right.value, bool):
                return self.verdict(left, node), right.value is same
            if right.value is None or (isinstance(right.value, str) and right.value.strip().lower() in FAILED_OUTPUTS):
                return self.output(left, node), not same
        elif isinstance(left, Constant) and isinstance(right, Flow) and isinstance(op, ast.In | ast.NotIn):
            text = left.value.strip(" :").lower() if isinstance(left.value, str) else ""
            if text and text in FAILED_OUTPUTS:
                return self.output(right, node), isinstance(op, ast.NotIn)
        raise refusal(node, "a condition that is not the verdict of an operator")

    def verdict(self, value: Value, node: ast.AST) -> Flow:
        """Flow whose last operator gives the verdict that `value` is."""
        if not isinstance(value, Flow) or not value.field or value.field != VERDICT_FIELDS.get(value.last):
            raise refusal(node, "a condition that is not the verdict of an operator")
        return value

    def output(self, value: Flow, node: ast.AST) -> Flow:
        """Flow whose last operator ran the program of which `value` is the output."""
        if value.last != "Programmer":
            raise refusal(node, "a condition that is not the verdict of an operator")
        return self.verdict(value, node)
