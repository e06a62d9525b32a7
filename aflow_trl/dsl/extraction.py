"""Extraction of the workflow from a completion: where it is in the free text, and the few repairs that are allowed."""

from __future__ import annotations

import re
from collections.abc import Callable

from ..errors import DSLError
from ..text import MAX_TEXT_CHARS
from .analysis import DEFAULT_LIMITS
from .ast import Extraction, Limits
from .parser import parse
from .vocabulary import Vocabulary, builtin_vocabulary

CLOSING_TAG = "</workflow>"
"""Stop string of a completion: nothing is generated after it."""

# No `<workflow>` inside: with an unclosed tag before a closed pair, the closed pair is the workflow.
_TAGGED = re.compile(r"<workflow>((?:(?!<workflow>).)*?)</workflow>", re.DOTALL | re.IGNORECASE)
_FENCED = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)
_STRING = re.compile(r'("(?:\\.|[^"\\])*")')
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# The three-backtick fence comes before the single backtick, which is a prefix of it.
_CLOSING_QUOTES = {"```": "```", "`": "`", '"': '"', "'": "'", "“": "”", "‘": "’"}

REPAIRS = ("quotes", "label", "arrow", "trailing_done", "case")
"""All repairs, in the order they are applied."""


def extract(completion: str, *, vocabulary: Vocabulary | None = None, limits: Limits = DEFAULT_LIMITS) -> Extraction:
    """
    Find the workflow in a completion and parse it.

    The workflow is the content of the last `<workflow>…</workflow>`; else of the last fenced block; else the last
    non-empty line. Text that parses is never modified. Otherwise the applicable repairs of [`REPAIRS`] are made and
    recorded: surrounding quotes, a leading `workflow:`, `→` for `->`, a trailing `-> done`, the case of operator
    names. A misspelt name is never replaced by a similar one.

    Args:
        completion (`str`):
            Text the policy generated.
        vocabulary (`Mapping[str, OperatorSpec]`, *optional*):
            Operators the workflow may use. Defaults to the built-in ones.
        limits ([`Limits`], *optional*):
            Static limits.

    Returns:
        [`Extraction`]: The workflow or the error, and the repairs made.
    """
    vocabulary = builtin_vocabulary() if vocabulary is None else vocabulary
    text = _locate(completion)
    try:
        return Extraction(parse(text, vocabulary=vocabulary, limits=limits), None, (), text)
    except DSLError as error:
        first_error = error
    # No repair can make an over-long text valid, and scanning one of unbounded length costs time.
    repaired, repairs = _repair(text, vocabulary) if len(text) <= limits.max_source_chars else (text, ())
    if not repairs:
        return Extraction(None, first_error, (), text)
    try:
        return Extraction(parse(repaired, vocabulary=vocabulary, limits=limits), None, repairs, text)
    except DSLError as error:
        return Extraction(None, error, repairs, text)


def _locate(completion: str) -> str:
    # A workflow is short: what is far from the end of a completion is none.
    completion = completion[-MAX_TEXT_CHARS:]
    for pattern in (_TAGGED, _FENCED):
        if matches := pattern.findall(completion):
            return str(matches[-1]).strip()
    lines = [line.strip() for line in completion.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _repair(text: str, vocabulary: Vocabulary) -> tuple[str, tuple[str, ...]]:
    repairs: dict[str, Callable[[str], str]] = {
        "quotes": _unquote,
        "label": _drop_label,
        "arrow": _replace_arrows,
        "trailing_done": _drop_trailing_done,
        "case": lambda text: _fix_case(text, vocabulary),
    }
    applied = []
    for name in REPAIRS:
        repaired = repairs[name](text)
        if repaired != text:
            applied.append(name)
            text = repaired
    return text, tuple(applied)


def _unquote(text: str) -> str:
    for opening, closing in _CLOSING_QUOTES.items():
        if len(text) > 2 * len(opening) and text.startswith(opening) and text.endswith(closing):
            return _unquote(text[len(opening) : -len(closing)].strip())
    return text


def _drop_label(text: str) -> str:
    return re.sub(r"^workflow\s*:\s*", "", text, flags=re.IGNORECASE)


def _replace_arrows(text: str) -> str:
    return _outside_strings(text, lambda part: part.replace("→", "->"))


def _drop_trailing_done(text: str) -> str:
    return re.sub(r"\s*->\s*done\s*$", "", text)


def _fix_case(text: str, vocabulary: Vocabulary) -> str:
    names_by_lower_case = {name.lower(): name for name in vocabulary}

    def fix(match: re.Match[str]) -> str:
        name = match.group()
        return name if name in vocabulary else names_by_lower_case.get(name.lower(), name)

    return _outside_strings(text, lambda part: _NAME.sub(fix, part))


def _outside_strings(text: str, change: Callable[[str], str]) -> str:
    # `split` with a capturing group returns the strings at the odd indices; an instruction must stay as written.
    parts = _STRING.split(text)
    return "".join(part if index % 2 else change(part) for index, part in enumerate(parts))
