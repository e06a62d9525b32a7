"""
JSON encoding of plain Python values that keeps their types apart: `(1, 2)` and `[1, 2]` stay different.

Standard library only. Both the trusted tester and the untrusted solution use it. Not pickle: decoding what a solution
sent may build plain values only, never run code.
"""

import collections
import datetime
import decimal
import fractions
import json

MAX_DEPTH = 50
MAX_BYTES = 16 << 20
HEX_BITS = 30_000
"""Integers of more bits are sent in hexadecimal: reading it takes linear time, reading decimal digits quadratic."""
_VIEWS = {type({}.keys()): "keys", type({}.values()): "values", type({}.items()): "items"}
_ITERATOR_MODULES = ("builtins", "itertools")


class LiveObjectError(TypeError):
    """A value that is not plain data, such as a function or an instance of a class that the program defines."""


def dumps(value, keep=list):
    """
    JSON text of a plain value.

    Args:
        value:
            The value.
        keep (`Callable`, *optional*, defaults to `list`):
            What to send for an iterator, such as a number under which it is kept. By default, its items.

    Raises:
        `LiveObjectError`: The value is not plain data.
        `TypeError`: It is too large.
    """
    text = json.dumps(_encode(value, 0, keep))
    if len(text) > MAX_BYTES:
        raise TypeError("the value is too large to be sent")
    return text


def loads(text, iterate=iter):
    """Inverse of [`dumps`]; `iterate` turns what `keep` returned into an iterator. `ValueError` for any other text."""
    try:
        return _decode(json.loads(text), iterate)
    except (KeyError, TypeError, IndexError, RecursionError, OverflowError, ArithmeticError) as error:
        raise ValueError(f"not an encoded value: {error}") from None


def _encode(value, depth, keep):
    if depth > MAX_DEPTH:
        raise TypeError("the value is nested too deeply to be sent")

    def encode_all(items):
        return [_encode(item, depth + 1, keep) for item in items]

    # Exact types first; subclasses, whose methods may be overridden, are reduced to their base type further down.
    kind = type(value)
    if kind is int and value.bit_length() > HEX_BITS:
        return {"int": hex(value)}
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if value == value and abs(value) != float("inf") else {"float": repr(value)}
    if kind is list:
        return encode_all(value)
    if kind in (tuple, set, frozenset, collections.deque):
        return {kind.__name__: encode_all(value)}
    if kind in (dict, collections.OrderedDict, collections.Counter):
        return {kind.__name__: [encode_all(pair) for pair in value.items()]}
    if kind is range:
        return {"range": [value.start, value.stop, value.step]}
    if kind in _VIEWS:
        return {_VIEWS[kind]: encode_all(value)}
    if kind in (bytes, bytearray):
        return {kind.__name__: value.hex()}
    if kind is complex:
        return {"complex": encode_all((value.real, value.imag))}
    if kind is fractions.Fraction:
        return {"Fraction": encode_all((value.numerator, value.denominator))}
    if kind is decimal.Decimal:
        return {"Decimal": str(value)}
    if kind in (datetime.date, datetime.time) or (kind is datetime.datetime and type(value.tzinfo) in _ZONES):
        return {kind.__name__: value.isoformat()}
    if kind is datetime.timedelta:
        return {"timedelta": [value.days, value.seconds, value.microseconds]}
    if kind.__module__ in _ITERATOR_MODULES and hasattr(kind, "__next__"):
        return {"iterator": _encode(keep(value), depth + 1, keep)}
    for base in (dict, list, tuple, set, str, int, float):
        if isinstance(value, base):  # sent as its base type, without overridden methods
            return _encode(base(value), depth + 1, keep)
    if kind.__module__ == "numpy" and hasattr(value, "tolist"):
        return _encode(value.tolist(), depth + 1, keep)
    raise LiveObjectError(f"a value of type {kind.__name__} cannot be sent")


_ZONES = (type(None), datetime.timezone)
_FROM_ITEMS = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": collections.deque,
    "keys": lambda items: dict.fromkeys(items).keys(),
    "values": lambda items: dict(enumerate(items)).values(),
    "items": lambda items: dict(items).items(),
    "range": lambda items: range(*items),
    "complex": lambda items: complex(*items),
    "Fraction": lambda items: fractions.Fraction(*items),
    "timedelta": lambda items: datetime.timedelta(*items),
}
_FROM_PAIRS = {
    "dict": dict,
    "OrderedDict": collections.OrderedDict,
    "Counter": lambda pairs: collections.Counter(dict(pairs)),
}
_FROM_TEXT = {
    "int": lambda text: int(text, 16),
    "float": float,
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "Decimal": decimal.Decimal,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "datetime": datetime.datetime.fromisoformat,
}


def _decode(value, iterate):
    if isinstance(value, list):
        return [_decode(item, iterate) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, body),) = value.items()
    if tag in _FROM_ITEMS:
        return _FROM_ITEMS[tag]([_decode(item, iterate) for item in body])
    if tag in _FROM_PAIRS:
        return _FROM_PAIRS[tag]([(_decode(key, iterate), _decode(item, iterate)) for key, item in body])
    if tag == "iterator":
        return iterate(_decode(body, iterate))
    return _FROM_TEXT[tag](body)
