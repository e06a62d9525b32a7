"""Strict scorer for code: hidden tests, run outside the solution's process."""

from __future__ import annotations

from collections.abc import Sequence

from ..answers import extract_answer, with_prompt_imports
from ..errors import SandboxUnavailableError, ScorerError
from ..sandbox import run_tests
from .types import NO_ANSWER, WEAK_VERDICT, WRONG_TYPE, Score


async def score_code(
    solution: str,
    tests: Sequence[str],
    entry_point: str | None = None,
    *,
    question: str = "",
    partial_credit: bool = False,
    weak_verdict: bool = False,
) -> Score:
    """
    Score a solution by its hidden tests.

    Args:
        solution (`str`):
            Code, or text whose last fenced block is the code.
        tests (`Sequence[str]`):
            Hidden tests, in any form that [`~aflow_trl.sandbox.run_tests`] accepts.
        entry_point (`str`, *optional*):
            Function under test.
        question (`str`, *optional*):
            Text of the problem; the solution may rely on the imports of the prompt in it.
        partial_credit (`bool`, *optional*, defaults to `False`):
            Whether the value is the share of tests passed, rather than 0 if any test fails.
        weak_verdict (`bool`, *optional*, defaults to `False`):
            Whether the tests need live objects and so have to run in the solution's process, where a hostile solution
            can forge the verdict. The score is labelled accordingly.

    Returns:
        [`Score`]: 1.0 if every test passes; `partial` is the share of tests passed.

    Raises:
        [`ScorerError`]: The sandbox failed, or there are no tests. Such an answer is unscored, never 0.
    """
    if not tests:
        raise ScorerError("there are no hidden tests; give at least one")
    code = extract_answer(solution, "code")
    if not code.strip():
        return Score(0.0, "none", code, NO_ANSWER)
    try:
        verdict = await run_tests(
            with_prompt_imports(code, question), tests, entry_point=entry_point, weak=weak_verdict
        )
    except SandboxUnavailableError as error:
        raise ScorerError(str(error)) from error
    passed = verdict.passed == verdict.total
    value = verdict.share if partial_credit else float(passed)
    label = ""
    if not verdict.compiles:
        label = WRONG_TYPE
    elif verdict.weak:
        label = WEAK_VERDICT
    return Score(value, "tests", code, label, verdict.share)
