"""
AFlow's published metrics (arXiv 2410.10762, §4.1), for tables that compare with AFlow. Too lenient to be a reward.

The published evaluation passes model output to a parser that evaluates Python; this module uses math-verify instead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..answers import last_boxed, normalize_text
from ..errors import ScorerError
from .code import score_code
from .qa import token_f1
from .symbolic import symbolically_equal
from .types import NO_ANSWER, Score

BENCHMARKS = ("gsm8k", "math", "humaneval", "mbpp", "hotpotqa", "drop")
_LAST_NUMBER = re.compile(r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?|\d+\.\d+")
# Absolute tolerances of the published code, so that numbers here are comparable with AFlow's tables.
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
            Answer of the workflow.
        benchmark (`str`):
            `gsm8k` (last number), `math` (boxed equality), `humaneval` or `mbpp` (pass@1), `hotpotqa` or `drop` (token
            F1; a gold may list alternatives with `|`).
        golds (`Sequence[str]`, *optional*):
            Gold answers, any of which is correct.
        hidden_tests (`Sequence[str]`, *optional*):
            Hidden tests of a code task.
        entry_point (`str`, *optional*):
            Function that a code task asks for.

    Returns:
        [`Score`]: The best value over the golds, in [0, 1].

    Raises:
        [`ScorerError`]: The scorer failed, there is no gold answer, or the benchmark is unknown.
    """
    if benchmark not in BENCHMARKS:
        raise ScorerError(f"unknown benchmark {benchmark!r}; use one of {', '.join(BENCHMARKS)}")
    if benchmark in ("humaneval", "mbpp"):
        return await score_code(prediction, hidden_tests, entry_point)
    if not golds:
        raise ScorerError("there is no gold answer; give at least one")
    metric = {"gsm8k": _last_number, "math": _boxed_equality}.get(benchmark, _alternatives_f1)
    return max((metric(prediction, gold) for gold in golds), key=lambda score: score.value)


def _last_number(prediction: str, gold: str) -> Score:
    predicted, expected = _number(prediction), _number(gold)
    if expected is None:
        raise ScorerError(f"the gold answer {gold!r} contains no number")
    if predicted is None:
        return Score(0.0, "last_number", "", NO_ANSWER)
    return Score(float(abs(predicted - expected) <= NUMBER_TOLERANCE), "last_number", str(predicted))


def _number(text: str) -> float | None:
    matches = _LAST_NUMBER.findall(text)
    return float(matches[-1].replace(",", "")) if matches else None


def _boxed_equality(prediction: str, gold: str) -> Score:
    answer, target = _model_answer(prediction), _model_answer(gold)
    if not answer:
        return Score(0.0, "boxed", "", NO_ANSWER)
    predicted, expected = _plain_number(answer), _plain_number(target)
    if answer == target:
        correct = True
    elif predicted is not None and expected is not None:
        correct = abs(predicted - expected) <= MATH_TOLERANCE
    else:
        # The worker process comes last: it costs milliseconds, and math-verify would not apply the tolerance.
        correct = symbolically_equal(target, answer)
    return Score(float(correct), "boxed", answer)


def _model_answer(text: str) -> str:
    """The last boxed expression, or else the last sentence."""
    if (boxed := last_boxed(text)) is not None:
        return boxed.strip()
    # A period after a digit is a decimal point, not the end of a sentence.
    sentences = [sentence for sentence in re.split(r"(?<!\d)[.!?]\s+", text) if sentence.strip()]
    return sentences[-1].strip() if sentences else ""


def _plain_number(text: str) -> float | None:
    """The text as a number, a per cent sign meaning / 100; `None` if it is anything else."""
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
