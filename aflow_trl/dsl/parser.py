"""Parser: text → AST. The grammar is `grammar.lark`; this module builds the nodes and translates lark's errors."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.resources import files
from typing import cast

from lark import Lark, Token, Transformer, v_args
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from ..errors import DSLError
from ..text import hidden_character
from .analysis import DEFAULT_LIMITS, check, check_depth
from .ast import ArgumentValue, Conditional, Done, Limits, Node, Operator, Parallel, Position, Repeat, Workflow, chain
from .traversal import rewrite
from .vocabulary import Vocabulary, builtin_vocabulary

_TERMINAL_DESCRIPTIONS = {
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
    "INT": "an integer",
    "NUMBER": "a number",
    "STRING": "a quoted string",
    "BOOLEAN": "true or false",
    "$END": "the end",
}
_CLOSERS = {"[": "]", "(": ")"}
_POSITIONAL = ""
"""Name of a positional argument until the vocabulary supplies that of its parameter."""
_EXCERPT_CHARS = 80
"""Part of an over-long source that its error shows."""


def parse(source: str, *, vocabulary: Vocabulary | None = None, limits: Limits = DEFAULT_LIMITS) -> Workflow:
    """
    Parse a workflow strictly: nothing is repaired, and no unknown name is replaced by a similar one.

    Args:
        source (`str`):
            Text of the workflow.
        vocabulary (`Mapping[str, OperatorSpec]`, *optional*):
            Operators the workflow may use. Defaults to the built-in ones.
        limits ([`Limits`], *optional*):
            Static limits.

    Returns:
        [`Workflow`]: The workflow, ready to run.

    Raises:
        [`DSLError`]: The text is not a workflow, uses an unknown operator or exceeds a limit.

    Example:

    ```python
    >>> parse("Custom -> Review ? Revise : done").root.steps[0]
    Operator(name='Custom', arguments=())
    ```
    """
    vocabulary = builtin_vocabulary() if vocabulary is None else vocabulary
    # First, so that neither lexing nor the error message handles a text of unbounded length.
    if len(source) > limits.max_source_chars:
        message = f"{len(source)} characters, more than the {limits.max_source_chars} allowed"
        raise DSLError(message, source=source[:_EXCERPT_CHARS], line=1, column=1, label="too_long")
    if not source.strip():
        raise DSLError("the workflow is empty", source="", line=1, column=1, label="empty")
    try:
        # lark types the result as a tree, but with a transformer it is what the transformer returns.
        root = cast(Node, _LARK.parse(source))
    except UnexpectedInput as error:
        raise _translate(error, source) from None
    workflow = Workflow(root, source)
    # Without a string there is no positional argument, and rewriting copies the whole tree.
    if '"' in source:
        # Rewriting recurses: brackets nested a thousand deep would exceed Python's recursion limit.
        check_depth(workflow, limits)
        workflow = Workflow(_name_positional(root, vocabulary), source)
    check(workflow, vocabulary=vocabulary, limits=limits)
    return workflow


@v_args(inline=True)
class _Build(Transformer[Token, Node]):
    """Callbacks of the LALR parser, one for each rule; lark calls them while it parses and builds no parse tree."""

    def workflow(self, root: Node) -> Node:
        return root

    def chain(self, *steps: Node) -> Node:
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

    def done(self, keyword: Token) -> Node:
        return Done(_position(keyword))

    def bare(self, name: Token) -> Node:
        return Operator(str(name), (), _position(name))

    def positional(self, name: Token, value: Token) -> Node:
        return Operator(str(name), ((_POSITIONAL, _text(value)),), _position(name))

    def keywords(self, name: Token, *pairs: tuple[str, ArgumentValue]) -> Node:
        arguments = dict(pairs)
        if len(arguments) < len(pairs):
            raise _RefusedError(f"an argument of {name} is repeated", "duplicate_argument", name)
        return Operator(str(name), tuple(sorted(arguments.items())), _position(name))

    def keyword(self, name: Token, value: ArgumentValue) -> tuple[str, ArgumentValue]:
        return str(name), value

    def literal(self, token: Token) -> ArgumentValue:
        value: ArgumentValue = _text(token) if token.type == "STRING" else json.loads(_strip_zeros(token))
        return value


class _RefusedError(UnexpectedInput):
    """Something that a context-free grammar cannot rule out."""

    # Derived from lark's error because lark wraps any other exception of a callback in a `VisitError`.

    def __init__(self, message: str, label: str, token: Token) -> None:
        super().__init__(message)
        position = _position(token)
        self.label, self.line, self.column = label, position.line, position.column


def _text(token: Token) -> str:
    """Value of a string."""
    value: str = json.loads(token)
    if hidden := hidden_character(value):
        message = f"a string holds the character U+{ord(hidden):04X}, which cannot be seen"
        raise _RefusedError(message, "hidden_character", token)
    return value


def _position(token: Token) -> Position:
    return Position(token.line or 1, token.column or 1)


def _strip_zeros(token: Token) -> str:
    """Drop leading zeros of a number, which the language accepts and JSON does not."""
    if token.type != "NUMBER":
        return str(token)
    sign, digits = ("-", token[1:]) if token.startswith("-") else ("", str(token))
    stripped = digits.lstrip("0")
    return sign + (stripped if stripped[:1].isdigit() else "0" + stripped)


# LALR with an embedded transformer: parsing is on the path of every rollout, and takes well under a millisecond.
_LARK: Lark = Lark(
    files("aflow_trl.dsl").joinpath("grammar.lark").read_text(encoding="utf-8"),
    start="workflow",
    parser="lalr",
    transformer=_Build(),
)


def _name_positional(root: Node, vocabulary: Vocabulary) -> Node:
    """Store positional strings under the name of their operator's first parameter."""

    def name_argument(node: Node) -> Node:
        if not isinstance(node, Operator) or not node.arguments or node.arguments[0][0] != _POSITIONAL:
            return node
        spec = vocabulary.get(node.name)
        # Left as it is, the static check reports the unknown operator or argument.
        if spec is None or not spec.arguments:
            return node
        return Operator(node.name, ((spec.arguments[0], node.arguments[0][1]),), node.position)

    return rewrite(root, name_argument)


def _translate(error: UnexpectedInput, source: str) -> DSLError:
    line, column = error.line, error.column
    expected: tuple[str, ...] = ()
    if isinstance(error, _RefusedError):
        message, label = str(error), error.label
    elif isinstance(error, UnexpectedCharacters):
        message, label = f"unexpected character {error.char!r}", "unexpected_character"
        expected = _describe(error.allowed or ())
    else:
        assert isinstance(error, UnexpectedToken)
        expected = _describe(error.accepts or error.expected)
        if error.token.type != "$END":
            message, label = f"unexpected {str(error.token)!r}", "unexpected_token"
        else:
            # lark places the end at the last token; the caret belongs behind the text, where something is missing.
            line, column = source.count("\n") + 1, len(source) - source.rfind("\n")
            if (opener := _last_open(source)) is not None:
                message, label = f"'{opener}' is never closed", "unclosed"
            else:
                message, label = "the workflow is incomplete", "incomplete"
    return DSLError(message, source=source, line=line, column=column, label=label, expected=expected)


def _describe(terminals: Iterable[str]) -> tuple[str, ...]:
    # Only "->" has no name in the grammar; lark generates one for it.
    return tuple(sorted({_TERMINAL_DESCRIPTIONS.get(name, "'->'") for name in terminals}))


def _last_open(source: str) -> str | None:
    stack: list[str] = []
    for token in _LARK.lex(source, dont_ignore=False):
        if token in _CLOSERS:
            stack.append(str(token))
        elif stack and token == _CLOSERS[stack[-1]]:
            stack.pop()
    return stack[-1] if stack else None
