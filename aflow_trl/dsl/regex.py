"""
The language as a regular expression, for constrained decoding.

Nesting is not regular, so it is written out up to a depth; the expression grows about tenfold with each level.
"""

from __future__ import annotations

from collections.abc import Iterable

from .ast import MAX_REPEAT
from .vocabulary import Vocabulary, builtin_vocabulary

MAX_REGEX_DEPTH = 3
"""Beyond it the expression has hundreds of thousands of characters."""
_STRING = r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*"'


def workflow_regex(depth: int = 2, *, vocabulary: Vocabulary | None = None, tags: bool = True) -> str:
    """
    A regular expression for workflows in canonical form.

    Everything it accepts is a workflow of known operators, nested no deeper than `depth`; every workflow up to that
    depth is accepted in its canonical form. The limits on the number of operators and of model calls cannot be said in
    a regular expression: a text within it may still be too long or too expensive.

    Args:
        depth (`int`, *optional*, defaults to `2`):
            Nesting of parallels, conditions and loops, as [`Analysis`] counts it: 1 is a plain chain. At most 3.
        vocabulary (`Mapping[str, OperatorSpec]`, *optional*):
            Operators that may be named. Defaults to the built-in ones.
        tags (`bool`, *optional*, defaults to `True`):
            Whether the workflow stands between `<workflow>` tags, as in a completion.

    Returns:
        `str`: The expression, without anchors, look-around or back-references.

    Raises:
        `ValueError`: `depth` is not 1, 2 or 3.
    """
    if not 1 <= depth <= MAX_REGEX_DEPTH:
        raise ValueError(f"depth must be between 1 and {MAX_REGEX_DEPTH}, got {depth}.")
    words = builtin_vocabulary() if vocabulary is None else vocabulary
    operator = _any(_operator(name, spec.arguments) for name, spec in words.items())
    judges = [_operator(name, spec.arguments) for name, spec in words.items() if spec.gives_verdict]
    judge = _any(judges) if judges else None
    step, bodies = operator, [operator]
    for _ in range(depth - 1):
        step, bodies = _deeper(step, bodies, operator, judge)
    sequence = _chain(step)
    return f"<workflow>{sequence}</workflow>" if tags else sequence


def _deeper(step: str, bodies: list[str], operator: str, judge: str | None) -> tuple[str, list[str]]:
    """Steps that hold `step` one level down, and what of them may be repeated without parentheses."""
    inside = f"\\({_chain(step)}\\)"
    parallel = f"\\[{step}(?:(?:, | -> ){step})*\\]"
    repeat = f"{_any([*bodies, inside])} \\* [1-{MAX_REPEAT}]"
    parts = [operator, parallel, repeat]
    if judge is not None:
        # One level down like the rest: what stands in a branch is a step, or a sequence in parentheses.
        branch = _any(["done", step, inside])
        parts.append(f"{judge} \\? {branch} : {branch}")
    return _any(parts), [operator, parallel]


def _chain(step: str) -> str:
    return f"{step}(?: -> {step})*"


def _operator(name: str, arguments: tuple[str, ...]) -> str:
    """An operator with any of its arguments, in the order of the canonical form."""
    pairs = [f"{argument}={_STRING}" for argument in sorted(arguments)]
    given = [pair + "".join(f"(?:, {later})?" for later in pairs[place + 1 :]) for place, pair in enumerate(pairs)]
    return f"{name}(?:\\({_any(given)}\\))?" if given else name


def _any(choices: Iterable[str]) -> str:
    return f"(?:{'|'.join(choices)})"
