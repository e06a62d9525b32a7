"""
AFlow's published metrics, for tables that compare with it (arXiv 2410.10762, §4.1). Not for rewards: they are lenient.

Where the published evaluation hands model text to a parser that evaluates Python, math-verify compares instead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import ScorerError
from ..operators import last_boxed, normalize_text
from .code import score_code
from .qa import token_f1
from .symbolic import symbolically_equal
from .types import NO_ANSWER, Score

BENCHMARKS = ("gsm8k", "math", "humaneval", "mbpp", "hotpotqa", "drop")
_LAST_NUMBER = re.compile(r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?|\d+\.\d+")
NUMBER_TOLERANCE = 1e-6
MATH_TOLERANCE = 1e-3


async def score_aflow(
    prediction: str,
    *,
    benchmark: str,
    golds: Sequence[str] = (),
    hidden_tests: Sequence[str] = (),
    entry_point: str | None = None,
) -> Score:
    """
    Score a prediction as AFlow's tables do.

    Args:
        prediction (`str`):
            What the workflow answered, as text.
        benchmark (`str`):
            `gsm8k` (last number), `math` (boxed equality), `humaneval` or `mbpp` (pass@1), `hotpotqa` or `drop` (token
            F1; a gold may list alternatives with `|`).
        golds (`Sequence[str]`, *optional*):
            Gold answers; any of them is right.
        hidden_tests (`Sequence[str]`, *optional*):
            Tests of a code task.
        entry_point (`str`, *optional*):
            Function a code task asks for.

    Returns:
        [`Score`]: The best value over the golds, in [0, 1].

    Raises:
        [`ScorerError`]: The scorer broke, there is no gold, or the benchmark is unknown.
    """
    if benchmark not in BENCHMARKS:
        raise ScorerError(f"unknown benchmark {benchmark!r}; AFlow's metrics are known for {', '.join(BENCHMARKS)}")
    if benchmark in ("humaneval", "mbpp"):
        return await score_code(prediction, hidden_tests, entry_point)
    if not golds:
        raise ScorerError("there is no gold answer to score with")
    metric = {"gsm8k": _last_number, "math": _boxed_equality}.get(benchmark, _alternatives_f1)
    return max((metric(prediction, gold) for gold in golds), key=lambda score: score.value)


def _last_number(prediction: str, gold: str) -> Score:
    found, wanted = _number(prediction), _number(gold)
    if wanted is None:
        raise ScorerError(f"the gold answer {gold!r} holds no number")
    if found is None:
        return Score(0.0, "last_number", "", NO_ANSWER)
    return Score(float(abs(found - wanted) <= NUMBER_TOLERANCE), "last_number", str(found))


def _number(text: str) -> float | None:
    matches = _LAST_NUMBER.findall(text)
    return float(matches[-1].replace(",", "")) if matches else None


def _boxed_equality(prediction: str, gold: str) -> Score:
    answer, target = _model_answer(prediction), _model_answer(gold)
    if not answer:
        return Score(0.0, "boxed", "", NO_ANSWER)
    numbers = [_whole_number(text) for text in (answer, target)]
    if answer == target:
        right = True
    elif numbers[0] is not None and numbers[1] is not None:
        right = abs(numbers[0] - numbers[1]) <= MATH_TOLERANCE
    else:
        right = symbolically_equal(target, answer)
    return Score(float(right), "boxed", answer)


def _model_answer(text: str) -> str:
    """The last boxed expression, else the last sentence."""
    if (boxed := last_boxed(text)) is not None:
        return boxed.strip()
    sentences = [sentence for sentence in re.split(r"(?<!\d)[.!?]\s+", text) if sentence.strip()]
    return sentences[-1].strip() if sentences else ""


def _whole_number(text: str) -> float | None:
    percent = text.endswith("\\%") or text.endswith("%")
    try:
        value = float(text.replace(",", "").rstrip("%").rstrip("\\"))
    except ValueError:
        return None
    return value / 100 if percent else value


def _alternatives_f1(prediction: str, gold: str) -> Score:
    answer = normalize_text(prediction)
    value = max(token_f1(answer, normalize_text(alternative)) for alternative in gold.split("|"))
    return Score(value, "f1", answer, "" if answer else NO_ANSWER, value)
