"""Chooses the strict scorer for a domain."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ..errors import ScorerError
from .code import score_code
from .math import score_math
from .qa import score_qa
from .types import Score


async def score_answer(
    answer: str,
    *,
    domain: str,
    golds: Sequence[str],
    hidden_tests: Sequence[str] = (),
    entry_point: str | None = None,
    weak_verdict: bool = False,
) -> Score:
    """
    Score an answer with the strict scorer of its domain.

    Args:
        answer (`str`):
            Final answer of a workflow.
        domain (`str`):
            `math`, `code` or `qa`.
        golds (`Sequence[str]`):
            Gold answers, any of which is correct.
        hidden_tests (`Sequence[str]`, *optional*):
            Hidden tests of a code task.
        entry_point (`str`, *optional*):
            Function that a code task asks for.
        weak_verdict (`bool`, *optional*, defaults to `False`):
            Whether the hidden tests need live objects, see [`score_code`].

    Returns:
        [`Score`]: The best score over the gold answers.

    Raises:
        [`ScorerError`]: The scorer failed, or there is nothing to score with. Such an answer is unscored, never 0.
    """
    if domain == "code":
        return await score_code(answer, hidden_tests, entry_point or None, weak_verdict=weak_verdict)
    if domain == "qa":
        return score_qa(answer, golds)
    if not golds:
        raise ScorerError("there is no gold answer; give at least one")
    # In a thread, because it blocks on a worker process; one at a time, to leave workers to other rollouts.
    scores = [await asyncio.to_thread(score_math, answer, gold) for gold in golds]
    return max(scores, key=lambda score: score.value)
