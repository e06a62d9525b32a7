"""Scorer calls per second: mathematics (numbers, and expressions by math-verify), question answering, code."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from aflow_trl.scoring import score_code, score_math, score_qa

TESTS = ["assert double(1) == 2", "assert double(2) == 4", "assert double(3) == 6"]


def rate(call: Callable[[int], object], count: int) -> float:
    """Calls per second, one after another."""
    # The first call starts workers and loads libraries.
    call(0)
    started = time.perf_counter()
    for number in range(1, count + 1):
        call(number)
    return count / (time.perf_counter() - started)


async def code_rate(count: int) -> float:
    """Calls per second, started at once; the sandbox runs as many of them at a time as there are cores."""
    await score_code("def double(x): return 2 * x", TESTS, "double")
    started = time.perf_counter()
    await asyncio.gather(*(score_code(f"def double(x): return 2 * x  # {n}", TESTS, "double") for n in range(count)))
    return count / (time.perf_counter() - started)


def main() -> None:
    """Print all rates."""
    numbers = rate(lambda n: score_math(f"The answer is {n:,}.", str(n)), 5_000)
    expressions = rate(lambda n: score_math(rf"\frac{{x+{n}}}{{2}}", rf"\frac{{{n}+x}}{{2}}"), 200)
    answers = rate(lambda n: score_qa(f"Barack Obama {n}", ["Barack Hussein Obama", f"Obama {n}"]), 5_000)
    print(f"scoring, math, numbers: {numbers:,.0f} per second")
    print(f"scoring, math, expressions: {expressions:,.0f} per second in one worker")
    print(f"scoring, qa: {answers:,.0f} per second")
    print(f"scoring, code, 3 tests: {asyncio.run(code_rate(300)):,.0f} per second")


if __name__ == "__main__":
    main()
