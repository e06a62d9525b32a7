"""
Worker process of the symbolic comparison. math-verify sets alarms, which needs the main thread, and it can hang.

Reads a JSON list `[gold, prediction, tolerance]` per line and writes a JSON object per line. Model output is parsed as
LaTeX only; it never reaches a parser that evaluates Python.
"""

import json
import sys

import sympy
from math_verify import LatexExtractionConfig, parse, verify
from math_verify.errors import TimeoutException

CONFIG = (LatexExtractionConfig(),)
TIMEOUT_S = 5
"""Limit for parsing and for comparing, in whole seconds as math-verify requires."""


def equal(gold: str, prediction: str, tolerance: float) -> bool:
    """Whether two LaTeX expressions are equal, or numbers whose difference is at most `tolerance` times the gold."""
    parsed = [
        parse(f"${text}$", CONFIG, parsing_timeout=TIMEOUT_S, raise_on_error=False) for text in (gold, prediction)
    ]
    if not parsed[0]:
        raise ValueError(f"the gold answer {gold!r} cannot be parsed")
    if not parsed[1]:
        return False
    try:
        if verify(parsed[0], parsed[1], strict=True, timeout_seconds=TIMEOUT_S, raise_on_error=True):
            return True
        return tolerance > 0 and close(parsed[0][0], parsed[1][0], tolerance)
    except TimeoutException:
        raise
    except Exception:
        # sympy raises on comparisons without a meaning, such as an interval with a matrix: those are not equal.
        return False


def close(gold: sympy.Expr, prediction: sympy.Expr, tolerance: float) -> bool:
    """Whether two parsed expressions are real numbers whose difference is at most `tolerance` times the first."""
    target, value = (complex(sympy.N(expression)) for expression in (gold, prediction))
    return target.imag == value.imag == 0 and abs(target - value) <= tolerance * abs(target)


def main() -> None:
    """Answer requests until standard input closes."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        try:
            reply: dict[str, object] = {"equal": equal(*json.loads(line))}
        # `TimeoutException` is no `Exception`, and its alarm may go off anywhere.
        # Reported, so that the parent can distinguish a failed scorer from a wrong answer.
        except (Exception, TimeoutException) as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
