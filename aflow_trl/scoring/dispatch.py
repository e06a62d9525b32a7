"""
Chooses the strict scorer for a domain, and decides who is to blame where it fails.

An answer is unscored only if the infrastructure fails for the gold too: text of a model must not make its own rollout
unscored, or failing would be better than being wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from ..answers import gold_answer, read_number
from ..errors import ScorerError
from .code import score_code
from .domains import custom_domain
from .math import MAX_ANSWER_CHARS, score_math
from .qa import score_qa
from .symbolic import symbolically_equal
from .types import TOO_COMPLEX, Score


async def score_answer(
    answer: str,
    *,
    domain: str,
    golds: Sequence[str],
    hidden_tests: Sequence[str] = (),
    entry_point: str | None = None,
    question: str = "",
    weak_verdict: bool = False,
) -> Score:
    """
    Score an answer with the strict scorer of its domain.

    Args:
        answer (`str`):
            Final answer of a workflow.
        domain (`str`):
            `math`, `code`, `qa`, or one that [`~aflow_trl.scoring.scorer`] has added.
        golds (`Sequence[str]`):
            Gold answers, any of which is correct.
        hidden_tests (`Sequence[str]`, *optional*):
            Hidden tests of a code task.
        entry_point (`str`, *optional*):
            Function that a code task asks for.
        question (`str`, *optional*):
            Text of the problem; a code answer may rely on the imports of the prompt in it.
        weak_verdict (`bool`, *optional*, defaults to `False`):
            Whether the hidden tests need live objects, see [`score_code`].

    Returns:
        [`Score`]: The best score over the gold answers; 0 labelled `too_complex` if the scorer fails for this answer,
            but not for the gold.

    Raises:
        [`ScorerError`]: The scorer fails for the gold too, or there is nothing to score with. Such an answer is
            unscored, never 0.
    """
    if domain == "code":
        return await score_code(
            answer, hidden_tests, entry_point or None, question=question, weak_verdict=weak_verdict
        )
    if not golds:
        raise ScorerError("there is no gold answer; give at least one")
    if (custom := custom_domain(domain)) is not None:
        return await custom.score(answer, golds=golds, question=question)
    if domain == "qa":
        return await _blame(partial(score_qa, golds=golds), answer, golds[0])
    # One at a time, to leave workers of the symbolic comparison to other rollouts.
    scores = [await _blame(partial(score_math, gold=gold), answer, gold) for gold in golds]
    return max(scores, key=lambda score: score.value)


async def _blame(scorer: partial[Score], answer: str, gold: str) -> Score:
    """Score an answer; if the scorer fails for it and not for the gold, the answer is to blame."""
    try:
        # In a thread, because it may block on a worker process.
        return await asyncio.to_thread(scorer, answer)
    except Exception as error:  # of any kind: whatever a text of a model makes a scorer raise
        try:
            # In braces, so that a symbolic comparison does not end with equal texts.
            await asyncio.to_thread(scorer, gold)
            if read_number(bare := gold_answer(gold, "math")) is None and scorer.func is score_math:
                await asyncio.to_thread(symbolically_equal, bare, f"{{{bare}}}")
        except Exception as failure:
            raise ScorerError(f"the scorer fails for the gold {gold[:80]!r} too: {failure}") from error
        return Score(0.0, "failed", answer[:MAX_ANSWER_CHARS], TOO_COMPLEX)
