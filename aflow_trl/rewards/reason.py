"""Rewards of plain reasoning: `<think>…</think><answer>…</answer>`, the answer checked by the strict scorers."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..rollouts import completion_text
from ..scoring import score_answer
from ..text import MAX_TEXT_CHARS, model_text
from .binding import RewardFunction

logger = logging.getLogger(__name__)

REASON_WEIGHTS = {"correctness_reward": 2.0, "digit_reward": 0.5, "hard_format_reward": 0.5, "mark_reward": 0.5}
"""Reward functions of `task: reason` with their default weights; each is in [0, 1]."""
MARKS = ("<think>", "</think>", "<answer>", "</answer>")
_INSIDE = r"(?:(?!</?(?:think|answer)>).)+"
_HARD = re.compile(rf"\s*<think>{_INSIDE}</think>\s*<answer>{_INSIDE}</answer>\s*", re.DOTALL)
_NUMBER = re.compile(r"[-+]?\d[\d,]*(\.\d+)?")


def stated_answer(text: str) -> str:
    """Content of the last `<answer>` tag of a completion; empty if there is none."""
    text = model_text(text)
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    return text[start + len("<answer>") : end].strip() if 0 <= start < end else ""


async def correctness_reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """
    Score of the stated answer, by the scorer of the row's domain.

    Args:
        prompts (`Sequence`):
            Prompts of the batch.
        completions (`Sequence`):
            Completions of the batch.
        **columns:
            Dataset columns (`answer`, `domain`, …) and the other arguments that TRL passes.

    Returns:
        `list[float | None]`: In [0, 1]; `None` if a scorer broke.
    """
    texts = [stated_answer(completion_text(completion)) for completion in completions]
    rows = [{name: cells[index] for name, cells in columns.items() if name in _READ} for index in range(len(texts))]
    rewards = list(await asyncio.gather(*(_score(text, row) for text, row in zip(texts, rows, strict=True))))
    scored = [reward for reward in rewards if reward is not None]
    if (log_metric := columns.get("log_metric")) is not None and scored:
        log_metric("accuracy/all", sum(reward == 1 for reward in scored) / len(scored))
    return rewards


async def digit_reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """1 if the stated answer is a number, which is what a math problem asks for. Other domains: always 1."""
    domains = columns.get("domain") or ["math"] * len(completions)
    return [
        float(domain != "math" or bool(_NUMBER.fullmatch(stated_answer(completion_text(completion)))))
        for completion, domain in zip(completions, domains, strict=True)
    ]


async def hard_format_reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """1 if the completion is `<think>…</think><answer>…</answer>` and nothing else."""
    return [float(bool(_HARD.fullmatch(completion_text(completion)[-MAX_TEXT_CHARS:]))) for completion in completions]


async def mark_reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """A quarter for each of the four tags that appears exactly once."""
    texts = [completion_text(completion) for completion in completions]
    return [sum(text.count(mark) == 1 for mark in MARKS) / len(MARKS) for text in texts]


_FUNCTIONS: Mapping[str, RewardFunction] = {
    function.__name__: function for function in (correctness_reward, digit_reward, hard_format_reward, mark_reward)
}
_READ = ("answer", "domain", "hidden_tests", "entry_point", "question", "weak_verdict")


def reasoning_rewards(names: Sequence[str]) -> list[RewardFunction]:
    """Reward functions of `task: reason`, in the order of names."""
    return [_FUNCTIONS[name] for name in names]


async def _score(answer: str, row: dict[str, Any]) -> float | None:
    if not answer:
        return 0.0
    golds = row["answer"] if isinstance(row["answer"], list | tuple) else [row["answer"]]
    try:
        score = await score_answer(
            answer,
            domain=row.get("domain") or "math",
            golds=golds,
            hidden_tests=row.get("hidden_tests") or (),
            entry_point=row.get("entry_point"),
            question=row.get("question") or "",
            weak_verdict=bool(row.get("weak_verdict")),
        )
    except Exception as error:  # whatever breaks in a scorer: the reply is unscored and the batch continues
        logger.error("an answer could not be scored: %s: %s", type(error).__name__, error)
        return None
    return score.value
