"""
The language as a regular expression, for constrained decoding.

Nesting is not regular, so it is expanded up to a fixed depth; the expression grows about tenfold with each level.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..text import HIDDEN_CHARACTERS
from .ast import MAX_REPEAT, MODEL, OperatorSpec
from .vocabulary import Vocabulary, builtin_vocabulary

MAX_REGEX_DEPTH = 3
"""Maximum depth; one level more and the expression has hundreds of thousands of characters."""
# Without characters that cannot be seen, which the parser refuses, and so without escapes by number.
_STRING = rf'"(?:[^"\\{HIDDEN_CHARACTERS}]|\\["\\/nt])*"'


def workflow_regex(depth: int = 2, *, vocabulary: Vocabulary | None = None, tags: bool = True) -> str:
    """
    Build a regular expression for workflows in canonical form.

    Everything it accepts is a workflow over the vocabulary, nested no deeper than `depth`; every workflow up to that
    depth is accepted in its canonical form. A regular expression cannot express the limits on the number of operators
    and of model calls: a matching text may still be too long or too expensive.

    Args:
        depth (`int`, *optional*, defaults to `2`):
            Maximum nesting of parallels, conditions and loops, counted as in [`Analysis`]: 1 is a plain chain. At
            most 3.
        vocabulary (`Mapping[str, OperatorSpec]`, *optional*):
            Operators the workflow may use. Defaults to the built-in ones.
        tags (`bool`, *optional*, defaults to `True`):
            Whether the workflow is enclosed in `<workflow>` tags, as in a completion.

    Returns:
        `str`: The expression, without anchors, look-around or back-references.

    Raises:
        `ValueError`: `depth` is not 1, 2 or 3.
    """
    if not 1 <= depth <= MAX_REGEX_DEPTH:
        raise ValueError(f"depth must be between 1 and {MAX_REGEX_DEPTH}, got {depth}.")
    vocabulary = builtin_vocabulary() if vocabulary is None else vocabulary
    operator = _any(map(_operator, vocabulary.values()))
    conditions = [_operator(spec) for spec in vocabulary.values() if spec.gives_verdict]
    condition = _any(conditions) if conditions else None
    step, bodies = operator, [operator]
    for _ in range(depth - 1):
        step, bodies = _deepen(step, bodies, operator, condition)
    chain = _chain(step)
    return f"<workflow>{chain}</workflow>" if tags else chain


def _deepen(step: str, bodies: list[str], operator: str, condition: str | None) -> tuple[str, list[str]]:
    """
    Add a level of nesting.

    Args:
        step (`str`):
            Expression for the steps of the level below.
        bodies (`list[str]`):
            Steps of the level below that can be repeated without parentheses.
        operator (`str`):
            Expression for an operator.
        condition (`str`, *optional*):
            Expression for an operator that gives a verdict; `None` if the vocabulary has none.

    Returns:
        `tuple[str, list[str]]`: `step` and `bodies` of the new level.
    """
    group = f"\\({_chain(step)}\\)"
    # A branch is a chain of steps, so within brackets the two separators may alternate freely.
    parallel = f"\\[{step}(?:(?:, | -> ){step})*\\]"
    # A character class, which is enough as long as MAX_REPEAT has a single digit.
    repeat = f"{_any([*bodies, group])} \\* [1-{MAX_REPEAT}]"
    parts = [operator, parallel, repeat]
    if condition is not None:
        branch = _any(["done", step, group])
        parts.append(f"{condition} \\? {branch} : {branch}")
    return _any(parts), [operator, parallel]


def _chain(step: str) -> str:
    return f"{step}(?: -> {step})*"


def _operator(spec: OperatorSpec) -> str:
    """An operator with any subset of its arguments, in the order of the canonical form."""
    values = dict.fromkeys(spec.parameters, _STRING)
    if spec.models:
        values[MODEL] = f'"{_any(map(re.escape, spec.models))}"'
    pairs = [f"{argument}={values[argument]}" for argument in sorted(values)]
    # One alternative for each possible first argument, so that the commas come out right without look-around.
    lists = [pair + "".join(f"(?:, {later})?" for later in pairs[index + 1 :]) for index, pair in enumerate(pairs)]
    return f"{spec.name}(?:\\({_any(lists)}\\))?" if lists else spec.name


def _any(alternatives: Iterable[str]) -> str:
    return f"(?:{'|'.join(alternatives)})"
