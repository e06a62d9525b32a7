"""Completion → workflow: where the workflow stands in free text, and the few repairs that are allowed."""

from __future__ import annotations

import re
from collections.abc import Callable

from ..errors import DSLError
from .analysis import DEFAULT_LIMITS
from .ast import Extraction, Limits
from .parser import parse
from .vocabulary import Vocabulary, builtin_vocabulary

CLOSING_TAG = "</workflow>"
"""Ends a completion: nothing is generated after it."""

_TAGGED = re.compile(r"<workflow>((?:(?!<workflow>).)*?)</workflow>", re.DOTALL | re.IGNORECASE)
_FENCED = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)
_STRING = re.compile(r'("(?:\\.|[^"\\])*")')
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUOTES = ("```", "`", '"', "'", "“", "‘")

REPAIRS = ("quotes", "label", "arrow", "trailing_done", "case")
"""Every repair there is, in the order they are tried."""


def extract(completion: str, *, vocabulary: Vocabulary | None = None, limits: Limits = DEFAULT_LIMITS) -> Extraction:
    """
    Find the workflow in a completion and parse it.

    The workflow is the content of the last `<workflow>…</workflow>`; else of the last fenced block; else the last
    non-empty line. A text that parses as it stands is never touched. Otherwise the repairs of [`REPAIRS`] that apply
    are made and recorded: surrounding quotes, a leading `workflow:`, `→` for `->`, a trailing `-> done`, operator name
    case. Names are never mapped to something near.

    Args:
        completion (`str`):
            Text the policy wrote.
        vocabulary (`Mapping[str, OperatorSpec]`, *optional*):
            Operators that may be named. Defaults to the built-in ones.
        limits ([`Limits`], *optional*):
            Static limits.

    Returns:
        [`Extraction`]: The workflow or the error, and the repairs made.
    """
    words = builtin_vocabulary() if vocabulary is None else vocabulary
    text = _locate(completion)
    try:
        return Extraction(parse(text, vocabulary=words, limits=limits), None, (), text)
    except DSLError as error:
        first_error = error
    repaired, repairs = _repair(text, words) if len(text) <= limits.max_source_chars else (text, ())
    if not repairs:
        return Extraction(None, first_error, (), text)
    try:
        return Extraction(parse(repaired, vocabulary=words, limits=limits), None, repairs, text)
    except DSLError as error:
        return Extraction(None, error, repairs, text)


def _locate(completion: str) -> str:
    for pattern in (_TAGGED, _FENCED):
        if found := pattern.findall(completion):
            return str(found[-1]).strip()
    lines = [line.strip() for line in completion.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _repair(text: str, vocabulary: Vocabulary) -> tuple[str, tuple[str, ...]]:
    made = []
    for name, step in zip(REPAIRS, (_unquote, _unlabel, _arrows, _drop_done), strict=False):
        repaired = step(text)
        if repaired != text:
            made.append(name)
            text = repaired
    cased = _fix_case(text, vocabulary)
    return cased, (*made, "case") if cased != text else tuple(made)


def _unquote(text: str) -> str:
    for mark in _QUOTES:
        if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(_CLOSING.get(mark, mark)):
            return _unquote(text[len(mark) : -len(mark)].strip())
    return text


_CLOSING = {"“": "”", "‘": "’"}


def _unlabel(text: str) -> str:
    return re.sub(r"^workflow\s*:\s*", "", text, flags=re.IGNORECASE)


def _arrows(text: str) -> str:
    return _outside_strings(text, lambda part: part.replace("→", "->"))


def _drop_done(text: str) -> str:
    return re.sub(r"\s*->\s*done\s*$", "", text)


def _fix_case(text: str, vocabulary: Vocabulary) -> str:
    by_lower = {name.lower(): name for name in vocabulary}

    def fix(match: re.Match[str]) -> str:
        word = match.group()
        return word if word in vocabulary else by_lower.get(word.lower(), word)

    return _outside_strings(text, lambda part: _WORD.sub(fix, part))


def _outside_strings(text: str, change: Callable[[str], str]) -> str:
    parts = _STRING.split(text)
    return "".join(part if index % 2 else change(part) for index, part in enumerate(parts))
