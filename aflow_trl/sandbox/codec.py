"""
JSON encoding of plain Python values that keeps their types apart: `(1, 2)` and `[1, 2]` stay different.

Standard library only. Both the trusted tester and the untrusted solution use it. Not pickle: decoding what a solution
sent may build plain values only, never run code.
"""

import json

MAX_DEPTH = 50
MAX_BYTES = 16 << 20
MAX_VIEW = 1_000_000
"""Maximum length of a `range` or dictionary view, which is sent as a list; `range(10**12)` must not be expanded."""


class LiveObjectError(TypeError):
    """A value that is not plain data, such as a function or an instance of a class that the program defines."""


def dumps(value):
    """JSON text of a plain value. Raises `LiveObjectError` for any other value, `TypeError` if it is too large."""
    text = json.dumps(_encode(value, 0))
    if len(text) > MAX_BYTES:
        raise TypeError("the value is too large to be sent")
    return text


def loads(text):
    """Inverse of [`dumps`]; raises `ValueError` for any other text."""
    try:
        return _decode(json.loads(text))
    except (KeyError, TypeError, IndexError, RecursionError) as error:
        raise ValueError(f"not an encoded value: {error}") from None


def _encode(value, depth):
    if depth > MAX_DEPTH:
        raise TypeError("the value is nested too deeply to be sent")
    # Exact types first; subclasses, whose methods may be overridden, are reduced to their base type further down.
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if value == value and abs(value) != float("inf") else {"float": repr(value)}
    if kind is list:
        return [_encode(item, depth + 1) for item in value]
    if kind in (tuple, set, frozenset):
        return {kind.__name__: [_encode(item, depth + 1) for item in value]}
    if kind is dict:
        return {"dict": [[_encode(k, depth + 1), _encode(v, depth + 1)] for k, v in value.items()]}
    if kind in (type({}.keys()), type({}.values()), type({}.items()), range) and len(value) <= MAX_VIEW:
        return [_encode(item, depth + 1) for item in value]
    if kind in (bytes, bytearray):
        return {kind.__name__: value.hex()}
    if kind is complex:
        return {"complex": [_encode(value.real, depth + 1), _encode(value.imag, depth + 1)]}
    for base in (dict, list, tuple, set, str, int, float):
        if isinstance(value, base):  # sent as its base type, without overridden methods
            return _encode(base(value), depth + 1)
    if kind.__module__ == "numpy" and hasattr(value, "tolist"):
        return _encode(value.tolist(), depth + 1)
    raise LiveObjectError(f"a value of type {kind.__name__} cannot be sent")


def _decode(value):
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, body),) = value.items()
    if tag == "dict":
        return {_decode(k): _decode(v) for k, v in body}
    if tag in ("tuple", "set", "frozenset"):
        return {"tuple": tuple, "set": set, "frozenset": frozenset}[tag](_decode(item) for item in body)
    if tag in ("bytes", "bytearray"):
        return {"bytes": bytes, "bytearray": bytearray}[tag].fromhex(body)
    if tag == "complex":
        return complex(_decode(body[0]), _decode(body[1]))
    if tag == "float" and body in ("nan", "inf", "-inf"):
        return float(body)
    raise KeyError(tag)
