"""Strict scorer for code: hidden tests, judged outside the solution's process."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import SandboxUnavailableError, ScorerError
from ..operators import extract_answer
from ..sandbox import judge
from .types import NO_ANSWER, Score


async def score_code(
    solution: str, tests: Sequence[str], entry_point: str | None = None, *, partial_credit: bool = False
) -> Score:
    """
    Run a solution against hidden tests.

    Args:
        solution (`str`):
            Code, or free text whose last fenced block is the code.
        tests (`Sequence[str]`):
            Hidden tests: assert statements, or a text that defines `check(candidate)`.
        entry_point (`str`, *optional*):
            Function under test.
        partial_credit (`bool`, *optional*, defaults to `False`):
            Whether the value is the share of tests passed instead of 0 where one fails.

    Returns:
        [`Score`]: 1.0 if every test passes.

    Raises:
        [`ScorerError`]: The sandbox broke. Never a reason for a 0.
    """
    if not tests:
        raise ScorerError("there are no hidden tests to score with")
    code = extract_answer(solution, "code")
    if not code.strip():
        return Score(0.0, "none", code, NO_ANSWER)
    try:
        verdict = await judge(code, tests, entry_point=entry_point)
    except SandboxUnavailableError as error:
        raise ScorerError(str(error)) from error
    passed = verdict.passed == verdict.total
    value = verdict.share if partial_credit else float(passed)
    return Score(value, "tests", code, "", verdict.share)
