"""
Worker of the symbolic comparison: a process of its own, because math-verify needs the main thread and can hang.

Reads one JSON list `[gold, prediction]` a line, writes one JSON object a line. Only LaTeX is parsed; text never
reaches a parser that evaluates Python.
"""

import json
import sys

from math_verify import LatexExtractionConfig, parse, verify
from math_verify.errors import TimeoutException

CONFIG = (LatexExtractionConfig(),)
SECONDS = 5


def equal(gold: str, prediction: str) -> bool:
    """Whether two LaTeX expressions are equal."""
    parsed = [parse(f"${text}$", CONFIG, parsing_timeout=SECONDS, raise_on_error=False) for text in (gold, prediction)]
    if not parsed[0]:
        raise ValueError(f"the gold answer {gold!r} cannot be parsed")
    if not parsed[1]:
        return False
    try:
        return bool(verify(parsed[0], parsed[1], strict=True, timeout_seconds=SECONDS, raise_on_error=True))
    except TimeoutException:
        raise
    except Exception:
        # Expressions that cannot be compared are different.
        return False


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
