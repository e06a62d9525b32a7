"""Other forms of an answer: dates, times of day, lists, intervals, numerals with a base."""

from __future__ import annotations

import re
from dataclasses import dataclass

_MONTH_NAMES = (
    *("january jan", "february feb", "march mar", "april apr", "may", "june jun", "july jul", "august aug"),
    *("september sept sep", "october oct", "november nov", "december dec"),
)
_MONTHS = {name: number for number, names in enumerate(_MONTH_NAMES, start=1) for name in names.split()}
_MONTH = "|".join(sorted(_MONTHS, key=len, reverse=True))
_DAY_FIRST = re.compile(rf"(\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?({_MONTH})\.?,?\s+(-?\d{{3,4}})", re.IGNORECASE)
_MONTH_FIRST = re.compile(rf"({_MONTH})\.?\s+(\d{{1,2}})(?:st|nd|rd|th)?,?\s+(\d{{3,4}})", re.IGNORECASE)
_ISO = re.compile(r"(\d{4})-(\d{2})-(\d{2})")
_TIME = re.compile(r"(\d{1,2})(?::(\d{2}))?\s?(a\.?m\.?|p\.?m\.?|o'clock)", re.IGNORECASE)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})")
_BASE = re.compile(r"([\dA-Fa-f]+)\s?_\s?(?:\{\s?(?:\\text\s?\{)?\s?(\w+)\s?\}?\s?\}|(\d+))")
_SEPARATORS = re.compile(r"\s*[,;]?\s+(?:or|and)\s+|\s*[,;]\s*|\s*\\\\\s*")
_WORD_SEPARATORS = re.compile(r"\s+(?:or|and)\s+|\s*\\cup\s*")
_BOUND = r"(-?\s?(?:\\infty|[\w\\.{}/^ ]{1,60}?|[\w\\.{}/^ ]{0,30}\([^()<>]{1,30}\)))"
_LESS = r"\s?(<|\\le(?:q|qslant)?(?![a-z])|\\lt(?![a-z])|<=)\s?"
_GREATER = r"\s?(>|\\ge(?:q|qslant)?(?![a-z])|\\gt(?![a-z])|>=)\s?"
_VARIABLE = r"([A-Za-z]|\\theta|\\alpha|\\lambda)"
_ONE_SIDED = [
    (re.compile(rf"{_VARIABLE}{_LESS}{_BOUND}"), "upper"),
    (re.compile(rf"{_VARIABLE}{_GREATER}{_BOUND}"), "lower"),
    (re.compile(rf"{_BOUND}{_LESS}{_VARIABLE}"), "lower reversed"),
    (re.compile(rf"{_BOUND}{_GREATER}{_VARIABLE}"), "upper reversed"),
]
_TWO_SIDED = re.compile(rf"{_BOUND}{_LESS}{_VARIABLE}{_LESS}{_BOUND}")
_INTERVAL = re.compile(r"(?:[A-Za-z]\s?\\in\s?)?([(\[])\s?([^,;]{1,80})\s?[,;]\s?([^,;]{1,80})\s?([)\]])")
_REALS = re.compile(r"(?:all )?(?:the )?real numbers|\\mathbb\s?\{?\s?R\s?\}?|all reals", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval of the real line; the ends are LaTeX."""

    low: str
    low_closed: bool
    high: str
    high_closed: bool


def read_date(text: str) -> tuple[int, int, int] | None:
    """Year, month and day of a text that is a full date; `None` if it is anything else."""
    text = text.strip().rstrip(".")
    if match := _DAY_FIRST.fullmatch(text):
        return int(match[3]), _MONTHS[match[2].lower()], int(match[1])
    if match := _MONTH_FIRST.fullmatch(text):
        return int(match[3]), _MONTHS[match[1].lower()], int(match[2])
    if match := _ISO.fullmatch(text):
        return int(match[1]), int(match[2]), int(match[3])
    return None


def read_time(text: str) -> int | None:
    """Minutes since midnight of a text that is a time of day; `None` if it is anything else."""
    text = re.sub(r"^(?:at|around|by)\s+", "", text.strip().lower())
    if match := _TIME.fullmatch(text) or _CLOCK.fullmatch(text):
        hour, minute = int(match[1]), int(match[2] or 0)
        half = match[3][0] if match.re is _TIME else ""
        if hour > (12 if half in ("a", "p") else 24) or minute > 59:
            return None
        return (hour % 12 + 12 * (half == "p") if half in ("a", "p") else hour) * 60 + minute
    return None


def read_based(text: str) -> tuple[str, str] | None:
    """Digits and base of a numeral such as `2516_8`; `None` if it has no base."""
    match = _BASE.fullmatch(text.strip())
    return (match[1].lower().lstrip("0"), (match[2] or match[3]).lower()) if match else None


def split_list(text: str) -> list[str]:
    """
    Items of a list such as `1, 4`, `x = 1 or x = 4` or `1, 2, and 3`; the text alone if it is none.

    What stands in brackets or braces is not split.
    """
    items, start, position, depth = [], 0, 0, 0
    while position < len(text):
        char = text[position]
        depth += (char in "([{") - (char in ")]}")
        if depth == 0 and (match := _SEPARATORS.match(text, position)) and match.end() > match.start():
            items.append(text[start:position])
            start = position = match.end()
            continue
        position += 1
    items.append(text[start:])
    return [item.strip() for item in items if item.strip()] or [text]


def lists_in_words(text: str) -> bool:
    """Whether a text separates alternatives by a word."""
    return _WORD_SEPARATORS.search(text) is not None


def read_interval(text: str) -> Interval | None:
    """An interval in brackets, an inequality, or the real line; `None` if the text is anything else."""
    text = text.strip().replace("\\leqslant", "\\le").replace("\\geqslant", "\\ge")
    if _REALS.fullmatch(text):
        return Interval("-\\infty", False, "\\infty", False)
    if match := _INTERVAL.fullmatch(text):
        return Interval(_bound(match[2]), match[1] == "[", _bound(match[3]), match[4] == "]")
    if match := _TWO_SIDED.fullmatch(text):
        return Interval(_bound(match[1]), _is_closed(match[2]), _bound(match[5]), _is_closed(match[4]))
    for pattern, kind in _ONE_SIDED:
        if match := pattern.fullmatch(text):
            bound = _bound(match[1] if kind.endswith("reversed") else match[3])
            if kind.startswith("upper"):
                return Interval("-\\infty", False, bound, _is_closed(match[2]))
            return Interval(bound, _is_closed(match[2]), "\\infty", False)
    return None


def is_bracketed(text: str) -> bool:
    """Whether a text is an interval in brackets, rather than an inequality; `(1, 2)` may be a point as well."""
    return _INTERVAL.fullmatch(text.strip()) is not None


def _bound(text: str) -> str:
    return text.strip().replace("+\\infty", "\\infty").replace("- ", "-").replace(" ", "")


def _is_closed(relation: str) -> bool:
    return relation.startswith("\\le") or relation.startswith("\\ge") or relation.endswith("=")
