"""
Worker of the symbolic comparison: a process of its own, because math-verify needs the main thread and can hang.

Reads one JSON list `[gold, prediction, tolerance]` a line, writes one JSON object a line. Only LaTeX is parsed; text
never reaches a parser that evaluates Python.
"""

import json
import sys
from typing import Any

import sympy
from math_verify import LatexExtractionConfig, parse, verify
from math_verify.errors import TimeoutException

CONFIG = (LatexExtractionConfig(),)
SECONDS = 5


def equal(gold: str, prediction: str, tolerance: float) -> bool:
    """Whether two LaTeX expressions are equal, or are numbers that differ by no more than `tolerance` of the gold."""
    parsed = [parse(f"${text}$", CONFIG, parsing_timeout=SECONDS, raise_on_error=False) for text in (gold, prediction)]
    if not parsed[0]:
        raise ValueError(f"the gold answer {gold!r} cannot be parsed")
    if not parsed[1]:
        return False
    try:
        if verify(parsed[0], parsed[1], strict=True, timeout_seconds=SECONDS, raise_on_error=True):
            return True
        return tolerance > 0 and close(parsed[0][0], parsed[1][0], tolerance)
    except TimeoutException:
        raise
    except Exception:
        # Expressions that cannot be compared are different.
        return False


def close(gold: Any, prediction: Any, tolerance: float) -> bool:
    """Whether two parsed expressions are real numbers that differ by no more than `tolerance` of the first."""
    target, value = (complex(sympy.N(expression)) for expression in (gold, prediction))
    return target.imag == value.imag == 0 and abs(target - value) <= tolerance * abs(target)


def main() -> None:
    """Answer questions until standard input closes."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        try:
            reply: dict[str, object] = {"equal": equal(*json.loads(line))}
        except Exception as error:  # the parent tells a broken scorer from a wrong answer
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
