"""Reads numbers as exact fractions, and decides whether two of them are the same answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_NUMBER_CHARS = 4_000
"""Longer texts are not read as numbers: Python limits the digits of an integer, and no gold answer has as many."""
RELATIVE_TOLERANCE = Fraction(1, 10_000)
"""Tolerance of comparisons with a decimal; integers and fractions are compared exactly."""

_FRACTION = re.compile(r"^\\d?t?frac\{(\d+)\}\{(\d+)\}$|^\\[dt]?frac(\d)(\d)$")
_MIXED = re.compile(r"^(\d+)\s*\\[dt]?frac\{(\d+)\}\{(\d+)\}$|^(\d+)\s+(\d+)/(\d+)$")
_RATIO = re.compile(r"^(\d+)\s*/\s*(\d+)$")
_DECIMAL = re.compile(r"^\d+\.?\d*(?:e[-+]?\d{1,3})?$|^\.\d+$", re.IGNORECASE)
_SCIENTIFIC = re.compile(r"^(\d+(?:\.\d+)?)\s*(?:\\times|\\cdot|x|×|\*)\s*10\^\{?(-?\d{1,3})\}?$")
_THOUSANDS = re.compile(r"(?<=\d)(?:,|\\,|\{,\}|\\!,|,\\!)\s?(?=\d{3}(?:\D|$))")
_SPACED = re.compile(r"(?<!\S)\d{1,3}(?:[ \u00a0\u2009\u202f]\d{3})+(?!\S)")
_UNIT = re.compile(r"(?:\\(?:text|mathrm|textbf|mbox)\s*\{[^{}]*\}|\^\{?\\circ\}?|°|\\degree)(?:\^\{?\d\}?)?\s*$")
_NUMBER_AND_UNIT = re.compile(r"^([-+]?[\d.,/]+(?:\s\d+/\d+)?)\s+([A-Za-z]{2,}\.?(?:\s[A-Za-z]{2,}\.?){0,2})$")
# Words that change the value, or show that the text is more than a number with a unit.
_NOT_UNITS = re.compile(
    r"\b(?:pi|sqrt|sin|cos|tan|log|ln|exp|or|and|to|plus|minus|times|over|out|of|per|hundred|thousand|million|billion|"
    r"trillion|dozen|half|third|quarter)s?\b",
    re.IGNORECASE,
)
_MULTIPLIERS = re.compile(r"\b(hundred|thousand|million|billion|trillion|dozen)s?\b", re.IGNORECASE)
_CURRENCY = re.compile(r"^(-?)\s*(?:\\\$|[$€£¥])\s*")


@dataclass(frozen=True, slots=True)
class Number:
    """A number, and how it was written."""

    value: Fraction
    decimals: int | None
    """Digits after the point; `None` for an integer or a fraction."""
    percent: bool
    """Whether it had a per cent sign."""


def read_number(text: str) -> Number | None:
    """
    Read a text that is a single number, possibly with thousands separators, currency, unit or per cent sign.

    Args:
        text (`str`):
            Bare answer.

    Returns:
        [`Number`], *optional*: The exact number; `None` if the text is anything else.
    """
    bare = text.strip().strip("$").strip().rstrip(".").replace("\\!", "").replace("−", "-").replace("\\left", "")
    bare = _CURRENCY.sub(r"\1", bare)
    if _NOT_UNITS.search(bare):
        return None
    bare = _UNIT.sub("", bare).strip()
    percent = bare.endswith("%") or bare.endswith("\\%") or bare.lower().endswith(" percent")
    bare = re.sub(r"\s*(\\?%|percent)$", "", bare, flags=re.IGNORECASE)
    if match := _NUMBER_AND_UNIT.match(bare):
        bare = match.group(1)
    bare = _SPACED.sub(lambda match: re.sub(r"\s", "", match[0]), _THOUSANDS.sub("", bare)).rstrip(",").strip()
    # A second sign is an expression, which is not read as a number.
    sign = -1 if bare.startswith("-") else 1
    magnitude = _magnitude(bare.lstrip("+-").strip()) if not re.match(r"[-+]{2}", bare) else None
    if magnitude is None:
        return None
    value, decimals = magnitude
    return Number(sign * value, decimals, percent)


def _magnitude(text: str) -> tuple[Fraction, int | None] | None:
    """Value and number of decimals of a text without sign, unit and separators."""
    if len(text) > MAX_NUMBER_CHARS:
        return None
    if match := _FRACTION.match(text) or _RATIO.match(text):
        numerator, denominator = (int(group) for group in match.groups() if group is not None)
        return (Fraction(numerator, denominator), None) if denominator else None
    if match := _MIXED.match(text):
        whole, numerator, denominator = (int(group) for group in match.groups() if group is not None)
        return (whole + Fraction(numerator, denominator), None) if denominator else None
    if match := _SCIENTIFIC.match(text):
        return Fraction(match.group(1)) * Fraction(10) ** int(match.group(2)), None
    if _DECIMAL.match(text):
        mantissa = text.lower().split("e")[0]
        decimals = len(mantissa.split(".")[1]) if "." in mantissa else None
        return Fraction(text), decimals
    return None


def same_number(prediction: Number, gold: Number) -> bool:
    """
    Whether two numbers are the same answer.

    Integers and fractions are compared exactly. If either side is a decimal, they may differ by 1e-4 of the gold or,
    if the gold has at least two decimals, by half a unit in its last place. A per cent sign on only one side may mean
    / 100.
    """
    values = {prediction.value}
    golds = {gold.value}
    if prediction.percent and not gold.percent:
        values.add(prediction.value / 100)
    if gold.percent and not prediction.percent:
        golds.add(gold.value / 100)
    return any(_close(value, target, prediction, gold) for value in values for target in golds)


def _close(value: Fraction, target: Fraction, prediction: Number, gold: Number) -> bool:
    if value == target:
        return True
    if prediction.decimals is None and gold.decimals is None:
        return False
    if gold.decimals is None and target.denominator == 1:
        return False  # a gold answer that is a whole number is exact
    tolerance = abs(target) * RELATIVE_TOLERANCE
    # Half a unit in the last place is rounding only if the prediction has at least as many decimals.
    as_precise = prediction.decimals is None or prediction.decimals >= (gold.decimals or 0)
    if gold.decimals is not None and gold.decimals >= 2 and as_precise and target == gold.value:
        tolerance = max(tolerance, Fraction(1, 2 * 10**gold.decimals))
    return abs(value - target) <= tolerance


def multipliers(text: str) -> set[str]:
    """Words in a text that multiply a number, such as `million`; answers with different ones are different."""
    return {word.lower() for word in _MULTIPLIERS.findall(text)}
