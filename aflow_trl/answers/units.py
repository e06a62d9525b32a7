"""Units of measurement, currencies and counted things: what may follow or precede a number."""

from __future__ import annotations

import re

# Unit → its symbols and names; symbols keep their case. Plurals in -s are recognised without an entry.
_NAMES = {
    # length
    "millimeter": "mm millimeter millimetre",
    "centimeter": "cm centimeter centimetre",
    "meter": "m meter metre",
    "kilometer": "km kilometer kilometre",
    "inch": "in inch inche",
    "foot": "ft foot feet",
    "yard": "yd yard",
    "mile": "mi mile",
    # time
    "millisecond": "ms millisecond",
    "second": "s sec second",
    "minute": "min minute",
    "hour": "h hr hour",
    "day": "day",
    "week": "wk week",
    "month": "month",
    "year": "yr year",
    # mass
    "milligram": "mg milligram",
    "gram": "g gram",
    "kilogram": "kg kilogram kilo",
    "ounce": "oz ounce",
    "pound": "lb pound",
    "ton": "ton tonne",
    # volume
    "milliliter": "ml mL milliliter millilitre",
    "liter": "l L liter litre",
    "gallon": "gal gallon",
    # speed
    "mile/hour": "mph",
    "kilometer/hour": "kph kmh",
    # money
    "cent": "cent ¢",
    "dollar": "$ dollar usd USD",
    "euro": "€ euro eur EUR",
    "pound sterling": "£ gbp GBP",
    "yen": "¥ yen",
    # angle
    "degree": "° degree deg",
    "radian": "rad radian",
    # electricity, force, energy, power
    "newton": "N newton",
    "joule": "J joule",
    "watt": "W watt",
    "kilowatt": "kW kilowatt",
    "volt": "V volt",
    "ampere": "A ampere amp",
}
_UNIT_OF = {name: unit for unit, names in _NAMES.items() for name in names.split()}
CURRENCIES = "$€£¥"
_SQUARE_CUBIC = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}
MAX_UNIT_WORDS = 4
_WORD = re.compile(r"[A-Za-z]+|[$€£¥¢°]")


def canonical_unit(text: str) -> str | None:
    """
    Canonical form of what follows a number: a unit, possibly with an exponent or "per …", or the words of a thing.

    Args:
        text (`str`):
            Text after the number, such as `km`, `cm^2`, `dollars per day`, `m/s`, `eggs`.

    Returns:
        `str`, *optional*: Equal for equal units, in lower case; `None` if the text is too long to be one.
    """
    text = re.sub(r"\^\s?\{?\s?\\circ\s?\}?|\\circ|\\degree", "°", text)
    words: list[str] = []
    for token in re.findall(r"[A-Za-z]+\.?|[$€£¥¢°]|\^\s?\{?\s?-?\d\s?\}?|/", text.strip()):
        if token.startswith("^"):
            if not words:
                return None
            words[-1] += re.sub(r"[^\d-]", "", token)
        elif token in ("/", "per"):
            words.append("/")
        elif words and words[-1] in _SQUARE_CUBIC:
            words[-1] = _single(token) + _SQUARE_CUBIC[words[-1]]
        elif token in ("each", "in", "of", "a", "an", "the", "total") and (words or token in ("in", "of")):
            continue
        else:
            words.append(token if token in _SQUARE_CUBIC else _single(token))
    if not words or len(words) > MAX_UNIT_WORDS:
        return None
    return " ".join(words)


def is_unit(text: str) -> bool:
    """Whether every part of a canonical unit is in the table."""
    units = set(_UNIT_OF.values())
    return all(re.sub(r"-?\d$", "", part) in units for part in text.replace("/", " ").split())


def _single(word: str) -> str:
    """Canonical form of one word: a unit of the table, or the word in the singular."""
    word = word.rstrip(".") or word
    for form in (word, word.lower(), word.lower().removesuffix("s"), word.lower().removesuffix("es")):
        if form in _UNIT_OF:
            return _UNIT_OF[form]
    lowered = word.lower()
    if len(lowered) > 3 and lowered.endswith("ies"):
        return lowered[:-3] + "y"
    return lowered[:-1] if len(lowered) > 3 and lowered.endswith("s") and not lowered.endswith("ss") else lowered
