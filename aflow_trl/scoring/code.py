"""Strict scorer for code: hidden tests, judged outside the solution's process."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import SandboxUnavailableError, ScorerError
from ..operators import extract_answer
from ..sandbox import judge
from .types import NO_ANSWER, WEAK_VERDICT, WRONG_TYPE, Score


async def score_code(
    solution: str,
    tests: Sequence[str],
    entry_point: str | None = None,
    *,
    partial_credit: bool = False,
    weak_verdict: bool = False,
) -> Score:
    """
    Run a solution against hidden tests.

    Args:
        solution (`str`):
            Code, or free text whose last fenced block is the code.
        tests (`Sequence[str]`):
            Hidden tests, in any form that [`~aflow_trl.sandbox.judge`] takes.
        entry_point (`str`, *optional*):
            Function under test.
        partial_credit (`bool`, *optional*, defaults to `False`):
            Whether the value is the share of tests passed instead of 0 where one fails.
        weak_verdict (`bool`, *optional*, defaults to `False`):
            Whether the tests need live objects and so run beside the solution; the score is labelled so.

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
        verdict = await judge(code, tests, entry_point=entry_point, weak=weak_verdict)
    except SandboxUnavailableError as error:
        raise ScorerError(str(error)) from error
    passed = verdict.passed == verdict.total
    value = verdict.share if partial_credit else float(passed)
    label = WRONG_TYPE if not verdict.compiles else WEAK_VERDICT if verdict.weak else ""
    return Score(value, "tests", code, label, verdict.share)
