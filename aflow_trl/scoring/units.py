"""Units that distinguish answers: 5 km is not 5 miles. A unit that is not in the table agrees with any other."""

from __future__ import annotations

import re

# Unit → its symbols and names. Plurals in -s are recognised without an entry; "inche" is what remains of "inches".
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
    "kilogram": "kg kilogram",
    "ounce": "oz ounce",
    "pound": "lb pound",
    "ton": "ton tonne",
    # volume
    "milliliter": "ml milliliter millilitre",
    "liter": "l liter litre",
    "gallon": "gal gallon",
    # money
    "cent": "cent ¢",
    "dollar": "$ dollar usd",
    "euro": "€ euro eur",
    "yen": "¥ yen",
    # angle
    "degree": "° degree",
    "radian": "rad radian",
}
_UNIT_OF = {name: unit for unit, names in _NAMES.items() for name in names.split()}
_WORD = re.compile(r"[A-Za-z]+|[$€¥¢°]")


def units_differ(left: str, right: str) -> bool:
    """Whether two texts name different units. A missing or unknown unit differs from no other."""
    left_units, right_units = _units(left), _units(right)
    return bool(left_units and right_units and left_units != right_units)


def _units(text: str) -> list[str]:
    text = text.replace("\\circ", "°").replace("\\$", "$")
    names = [name.lower() for name in _WORD.findall(text)]
    return [unit for name in names if (unit := _UNIT_OF.get(name) or _UNIT_OF.get(name.rstrip("s")))]
