"""Reads quantities as exact fractions with their unit, and decides whether two of them are the same answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from .units import CURRENCIES, canonical_unit, is_unit

MAX_NUMBER_CHARS = 400
"""Longer texts are not read as numbers, which bounds the time of the arithmetic; no gold answer is as long."""
RELATIVE_TOLERANCE = Fraction(1, 10_000)
"""Tolerance of comparisons with a decimal; integers and fractions are compared exactly."""
ROUNDING_TOLERANCE = Fraction(1, 1_000)
"""The same for a prediction that rounds to the gold: 3.14159 for 3.14, but not 0.458 for 0.46."""

_FRACTION = re.compile(r"\\[dtc]?frac\s?\{\s?(-?\d+)\s?\}\s?\{\s?(-?\d+)\s?\}|\\[dtc]?frac\s?(\d)\s?(\d)")
_MIXED = re.compile(r"(\d+)\s*\\[dtc]?frac\s?\{(\d+)\}\s?\{(\d+)\}|(\d+)(?:\s+|-|\s?\+\s?(?=\d+/))(\d+)\s?/\s?(\d+)")
_RATIO = re.compile(r"(\d+)\s?/\s?(-?\d+)")
_DECIMAL = re.compile(r"\d+\.?\d*(?:e[-+]?\d{1,3})?|\.\d+", re.IGNORECASE)
_SCIENTIFIC = re.compile(
    r"(\d+(?:\.\d+)?)\s*(?:\\times|\\cdot|x|\*)\s*10\s?\^\s?(?:\{\s?(-?\d{1,3})\s?\}|(-?\d{1,3}))"
)
_NUMERALS = (_FRACTION, _MIXED, _SCIENTIFIC, _RATIO, _DECIMAL)
_CONTINUED = re.compile(r"[\d.,/:_!]*[\d/:_!]|\^(?!\s?\{?\s?\\circ)")
"""What follows a numeral that is only the beginning of an expression."""
_THOUSANDS = re.compile(r"(?<![\d,])\d{1,3}(?:(?:,|\\,|\{,\}|\\!,|,\\!)\d{3})+(?![\d,])")
_SPACED = re.compile(r"(?<!\S)\d{1,3}(?: \d{3})+(?!\S)")
_MULTIPLIERS = {
    "dozen": 12,
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_MULTIPLIER = re.compile(rf"\s{{0,2}}({'|'.join(_MULTIPLIERS)})\b", re.IGNORECASE)
_PERCENT = re.compile(r"\s{0,2}(?:\\?%|percent\b|per cent\b)", re.IGNORECASE)
_CURRENCY = re.compile(rf"([-+]?)\s{{0,2}}(?:\\?([{CURRENCIES}]))\s{{0,2}}(?=[-+.\d])")
# Words after a number that say more than what is counted.
_NO_UNIT = re.compile(
    r"\b(?:pi|sqrt|sin|cos|tan|log|ln|exp|or|and|to|plus|minus|times|over|out|hundred|thousand|million|billion|"
    r"trillion|dozen|half|third|quarter|mod|modulo|more|less|fewer|not|but|if|about|approximately|with|remainder)s?\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Number:
    """A number with its unit, and how it was written."""

    value: Fraction
    decimals: int | None = None
    """Digits after the point; `None` for an integer or a fraction."""
    percent: bool = False
    """Whether it had a per cent sign."""
    unit: str = ""
    """Canonical unit, currency or counted thing; empty if there is none."""
    is_ratio: bool = False
    """Whether it was written as one integer over another."""


def read_number(text: str) -> Number | None:
    """
    Read a text that is a single number, possibly with separators, a currency, a unit, "million" or a per cent sign.

    Args:
        text (`str`):
            Bare answer.

    Returns:
        [`Number`], *optional*: The exact number; `None` if the text is anything else.
    """
    text = text.strip()
    if not text or len(text) > MAX_NUMBER_CHARS:
        return None
    if text.isascii() and text.isdecimal():
        return Number(Fraction(int(text)))
    currency = ""
    if match := _CURRENCY.match(text):
        text, currency = match[1] + text[match.end() :], match[2]
    # A second sign is an expression, which is not read as a number.
    signs = re.match(r"[-+]?\s?", text)
    assert signs is not None
    sign, rest = -1 if signs[0].startswith("-") else 1, text[signs.end() :]
    if inner := re.fullmatch(rf"\\?([{CURRENCIES}])\s?(.+)", rest):
        currency, rest = inner[1], inner[2]
    rest = _THOUSANDS.sub(lambda found: re.sub(r"\D", "", found[0]), rest)
    rest = _SPACED.sub(lambda found: found[0].replace(" ", ""), rest)
    numeral = _numeral(rest)
    if numeral is None:
        return None
    value, decimals, is_ratio, end = numeral
    rest = rest[end:]
    while match := _MULTIPLIER.match(rest):
        value, decimals, rest = value * _MULTIPLIERS[match[1].lower()], None, rest[match.end() :]
    percent = bool(match := _PERCENT.match(rest))
    if match:
        rest = rest[match.end() :]
    unit = _unit(rest)
    if unit is None or (unit and currency and not unit.startswith(("/", _currency(currency)))):
        return None
    if currency and not unit.startswith(_currency(currency)):
        unit = f"{_currency(currency)} {unit}".strip()
    return Number(sign * value, decimals, percent, unit, is_ratio)


def _currency(symbol: str) -> str:
    unit = canonical_unit(symbol)
    assert unit is not None
    return unit


def _unit(text: str) -> str | None:
    """Canonical unit of the text after a number; empty if there is none, `None` if it is no unit."""
    if not text.strip():
        return ""
    # A single letter right after the number is a variable; `7th` is an ordinal.
    if _NO_UNIT.search(text) or re.match(r"[A-Za-z](?![A-Za-z.])|(?:st|nd|rd|th)\b", text):
        return None
    if not re.fullmatch(r"\s?(?:[A-Za-z./ $€£¥¢°\\-]|\^\s?\{?\s?(?:-?\d|\\circ)\s?\}?)+", text) or text.count("-"):
        return None
    return canonical_unit(text)


def _numeral(text: str) -> tuple[Fraction, int | None, bool, int] | None:
    """Value, number of decimals, whether it is a ratio, and end of the numeral at the start of a text."""
    for pattern in _NUMERALS:
        match = pattern.match(text)
        if match is None or _CONTINUED.match(text, match.end()):
            continue
        groups = [group for group in match.groups() if group is not None]
        if pattern is _DECIMAL:
            mantissa = match[0].lower().split("e")[0]
            return Fraction(match[0]), len(mantissa.split(".")[1]) if "." in mantissa else None, False, match.end()
        if pattern is _SCIENTIFIC:
            return Fraction(groups[0]) * Fraction(10) ** int(groups[1]), None, False, match.end()
        *whole, numerator, denominator = map(int, groups)
        if not denominator:
            return None
        return sum(whole) + Fraction(numerator, denominator), None, not whole, match.end()
    return None


def same_number(prediction: Number, gold: Number) -> bool:
    """
    Whether two numbers are the same answer; units are compared by [`units_agree`].

    Integers and fractions are compared exactly. If either side is a decimal, they may differ by 1e-4 of the gold; a
    prediction that rounds to the gold by 1e-3. A per cent sign means / 100; a prediction with one may also be a gold
    that counts per cent (`50%` for 50), but not the other way round (`50` for 50 %).
    """
    values = {prediction.value / 100 if prediction.percent else prediction.value}
    if prediction.percent and not gold.percent:
        values.add(prediction.value)
    target = gold.value / 100 if gold.percent else gold.value
    return any(_close(value, target, prediction, gold) for value in values)


def units_agree(prediction: Number, gold: Number) -> bool:
    """Whether the units of two numbers are the same, or one of them has none."""
    left, right = prediction.unit, gold.unit
    if not left or not right or left == right:
        return True
    # `$7` and `$7 per day`: what is the same in both has to come first.
    shorter, longer = sorted((left, right), key=len)
    return longer.startswith(f"{shorter} /") or (is_unit(shorter) and longer.startswith(f"{shorter} "))


def _close(value: Fraction, target: Fraction, prediction: Number, gold: Number) -> bool:
    if value == target:
        return True
    if prediction.decimals is None and gold.decimals is None:
        return False
    if gold.decimals is None and target.denominator == 1:
        return False  # a gold answer that is a whole number is exact
    tolerance = RELATIVE_TOLERANCE
    if gold.decimals and not gold.percent and round(value, gold.decimals) == target:
        tolerance = ROUNDING_TOLERANCE
    return abs(value - target) <= abs(target) * tolerance
