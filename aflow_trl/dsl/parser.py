"""Text → AST. The grammar is `grammar.lark`; this module builds the nodes and turns lark's errors into ours."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any, cast

from lark import Lark, Token, Transformer, v_args
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from ..errors import DSLError
from .analysis import DEFAULT_LIMITS, check
from .ast import Conditional, Done, Limits, Literal, Node, Operator, Parallel, Position, Repeat, Workflow, chain
from .traversal import rewrite
from .vocabulary import Vocabulary, builtin_vocabulary

_HUMAN_TERMINALS = {
    "NAME": "an operator",
    "LSQB": "'['",
    "RSQB": "']'",
    "LPAR": "'('",
    "RPAR": "')'",
    "COMMA": "','",
    "COLON": "':'",
    "EQUAL": "'='",
    "QMARK": "'?'",
    "_STAR": "'*'",
    "DONE": "'done'",
    "INT": "a whole number",
    "NUMBER": "a number",
    "STRING": "a quoted text",
    "BOOLEAN": "true or false",
    "$END": "the end",
}
_CLOSERS = {"[": "]", "(": ")"}


def parse(source: str, *, vocabulary: Vocabulary | None = None, limits: Limits = DEFAULT_LIMITS) -> Workflow:
    """
    Parse a workflow, strictly: nothing is repaired, nothing is mapped to something near.

    Args:
        source (`str`):
            Text of the workflow.
        vocabulary (`Mapping[str, OperatorSpec]`, *optional*):
            Operators that may be named. Defaults to the built-in ones.
        limits ([`Limits`], *optional*):
            Static limits.

    Returns:
        [`Workflow`]: The workflow, ready to run.

    Raises:
        [`DSLError`]: The text is not a workflow, names an unknown operator or exceeds a limit.

    Example:

    ```python
    >>> parse("Custom -> Review ? Revise : done").root.steps[0]
    Operator(name='Custom', arguments=())
    ```
    """
    words = builtin_vocabulary() if vocabulary is None else vocabulary
    if len(source) > limits.max_source_chars:
        message = f"{len(source)} characters, more than the {limits.max_source_chars} allowed"
        raise DSLError(message, source=source[:80], line=1, column=1, label="too_long")
    if not source.strip():
        raise DSLError("there is no workflow", source="", line=1, column=1, label="empty")
    try:
        root = cast(Node, _LARK.parse(source))
    except UnexpectedInput as error:
        raise _translate(error, source) from None
    if '"' in source:
        root = _name_positional(root, words)
    workflow = Workflow(root, source)
    check(workflow, vocabulary=words, limits=limits)
    return workflow


@v_args(inline=True)
class _Build(Transformer[Token, Any]):
    """Callbacks of the LALR parser: no tree is built in between."""

    def workflow(self, root: Node) -> Node:
        return root

    def sequence(self, *steps: Node) -> Node:
        return chain(*steps, position=steps[0].position)

    def group(self, inner: Node) -> Node:
        return inner

    def plain(self, inner: Node) -> Node:
        return inner

    def repeat(self, body: Node, times: Token) -> Node:
        return Repeat(body, int(times), body.position)

    def conditional(self, condition: Node, negative: Node, otherwise: Node) -> Node:
        return Conditional(condition, negative, otherwise, condition.position)

    def repeated_conditional(self, condition: Node, negative: Node, otherwise: Node, times: Token) -> Node:
        return self.repeat(self.conditional(condition, negative, otherwise), times)

    def parallel(self, bracket: Token, *branches: Node) -> Node:
        return Parallel(branches, _position(bracket))

    def done(self, word: Token) -> Node:
        return Done(_position(word))

    def bare(self, name: Token) -> Node:
        return Operator(str(name), (), _position(name))

    def positional(self, name: Token, value: Token) -> Node:
        return Operator(str(name), (("", json.loads(value)),), _position(name))

    def keywords(self, name: Token, *pairs: tuple[str, Literal]) -> Node:
        arguments = dict(pairs)
        if len(arguments) < len(pairs):
            raise _DuplicateArgument(name)
        return Operator(str(name), tuple(sorted(arguments.items())), _position(name))

    def keyword(self, name: Token, value: Literal) -> tuple[str, Literal]:
        return str(name), value

    def literal(self, token: Token) -> Literal:
        value: Literal = json.loads(_strip_zeros(token))
        return value


class _DuplicateArgument(UnexpectedInput):
    """An argument is given twice; lark's grammar cannot say so."""

    def __init__(self, operator: Token) -> None:
        super().__init__(f"an argument of {operator} is given twice")
        at = _position(operator)
        self.line, self.column = at.line, at.column


def _position(token: Token) -> Position:
    return Position(token.line or 1, token.column or 1)


def _strip_zeros(token: Token) -> str:
    """JSON knows no leading zeros; the language does."""
    if token.type != "NUMBER":
        return str(token)
    sign, digits = ("-", token[1:]) if token.startswith("-") else ("", str(token))
    stripped = digits.lstrip("0")
    return sign + (stripped if stripped[:1].isdigit() else "0" + stripped)


_LARK: Lark = Lark(
    files("aflow_trl.dsl").joinpath("grammar.lark").read_text(encoding="utf-8"),
    start="workflow",
    parser="lalr",
    transformer=_Build(),
)


def _name_positional(root: Node, vocabulary: Vocabulary) -> Node:
    """Give positional strings (stored under the name "") the name of their operator's first argument."""

    def named(node: Node) -> Node:
        if not isinstance(node, Operator) or not node.arguments or node.arguments[0][0]:
            return node
        spec = vocabulary.get(node.name)
        if spec is None or not spec.arguments:
            return node
        return Operator(node.name, ((spec.arguments[0], node.arguments[0][1]),), node.position)

    return rewrite(root, named)


def _translate(error: UnexpectedInput, source: str) -> DSLError:
    if isinstance(error, _DuplicateArgument):
        label = "duplicate_argument"
        return DSLError(str(error), source=source, line=error.line, column=error.column, label=label)
    at = (error.line, error.column)
    if isinstance(error, UnexpectedCharacters):
        message, expected = f"unexpected character {error.char!r}", _expected(error.allowed or set())
        label = "unexpected_character"
        return DSLError(message, source=source, line=at[0], column=at[1], label=label, expected=expected)
    assert isinstance(error, UnexpectedToken)
    expected = _expected(error.accepts or error.expected)
    if error.token.type != "$END":
        message = f"unexpected {str(error.token)!r}"
        return DSLError(message, source=source, line=at[0], column=at[1], label="unexpected_token", expected=expected)
    line, column = source.count("\n") + 1, len(source) - (source.rfind("\n") + 1) + 1
    if (opener := _last_open(source)) is not None:
        message, label = f"'{opener}' is never closed", "unclosed"
    else:
        message, label = "the workflow ends too early", "incomplete"
    return DSLError(message, source=source, line=line, column=column, label=label, expected=expected)


def _expected(terminals: Any) -> tuple[str, ...]:
    # Anonymous terminals ("->") keep lark's generated names.
    return tuple(sorted({_HUMAN_TERMINALS.get(name, "'->'") for name in terminals}))


def _last_open(source: str) -> str | None:
    stack: list[str] = []
    for token in _LARK.lex(source, dont_ignore=False):
        if token in _CLOSERS:
            stack.append(str(token))
        elif stack and token == _CLOSERS[stack[-1]]:
            stack.pop()
    return stack[-1] if stack else None
