"""
AFlow's metrics (arXiv 2410.10762, §4.1), for tables that compare with AFlow. Too lenient, or too strict, for a reward.

`published` gives each prediction the score that AFlow's code gives it. That code passes model output to a parser that
evaluates Python, which here happens in the sandbox. On MATH it reads no LaTeX unless an optional parser is installed,
so that most right answers that are spelled differently count as wrong; `fair` reads them with math-verify.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from ..answers import last_boxed, normalize_text
from ..errors import SandboxUnavailableError, ScorerError
from ..sandbox import Status, run
from .code import score_code
from .qa import token_f1
from .symbolic import symbolically_equal
from .types import NO_ANSWER, Score

BENCHMARKS = ("gsm8k", "math", "humaneval", "mbpp", "hotpotqa", "drop")
Variant: TypeAlias = Literal["published", "fair"]
_LAST_NUMBER = re.compile(r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?|\d+\.\d+")
_BOXED = re.compile(r"\\boxed{((?:[^{}]|{[^{}]*})*)}", re.DOTALL)
"""The published pattern: at most one pair of braces inside."""
_ARTICLES = re.compile(r"\b(a|an|the)\b")
# Absolute tolerances of the published code, so that numbers here are comparable with AFlow's tables.
NUMBER_TOLERANCE = 1e-6
MATH_TOLERANCE = 1e-3
SYMPY_TIMEOUT_S = 20.0
SYMPY_MEMORY_MB = 2048
_SYMPY_EQUAL = """
import json, math, sys
from sympy import N, simplify
from sympy.parsing.sympy_parser import parse_expr

def parsed(text):
    try:
        return parse_expr(text)
    except Exception:
        return text

left, right = map(parsed, json.loads(sys.stdin.readline()))
equal = False
try:
    equal = bool(simplify(left - right) == 0)
except Exception:
    pass
if not equal:
    try:
        equal = math.isclose(N(left), N(right), abs_tol=1e-3)
    except Exception:
        pass
print("equal" if equal else "different")
"""


async def score_aflow(
    prediction: str,
    *,
    benchmark: str,
    golds: Sequence[str] = (),
    hidden_tests: Sequence[str] = (),
    entry_point: str | None = None,
    question: str = "",
    variant: Variant = "published",
) -> Score:
    """
    Score a prediction as AFlow's tables do.

    Args:
        prediction (`str`):
            Answer of the workflow.
        benchmark (`str`):
            `gsm8k` (last number), `math` (boxed equality), `humaneval` or `mbpp` (pass@1), `hotpotqa` or `drop` (token
            F1; a gold of DROP may list alternatives with `|`).
        golds (`Sequence[str]`, *optional*):
            Gold answers, any of which is correct. For MATH, answers or whole solutions.
        hidden_tests (`Sequence[str]`, *optional*):
            Hidden tests of a code task.
        entry_point (`str`, *optional*):
            Function that a code task asks for.
        question (`str`, *optional*):
            Text of the problem, for the imports that an answer may rely on.
        variant (`"published"` or `"fair"`, *optional*, defaults to `"published"`):
            The score that AFlow's code gives, or one that reads LaTeX on MATH, and in QA typographic characters, but
            no list of candidates.

    Returns:
        [`Score`]: The best value over the golds, in [0, 1].

    Raises:
        [`ScorerError`]: The scorer failed, there is no gold answer, or the benchmark or variant is unknown.
    """
    if benchmark not in BENCHMARKS:
        raise ScorerError(f"unknown benchmark {benchmark!r}; use one of {', '.join(BENCHMARKS)}")
    if variant not in ("published", "fair"):
        raise ScorerError(f"unknown variant {variant!r}; use published or fair")
    if benchmark in ("humaneval", "mbpp"):
        return await score_code(prediction, hidden_tests, entry_point, question=question)
    if not golds:
        raise ScorerError("there is no gold answer; give at least one")
    if benchmark == "math" and variant == "published":
        return _best([await _published_equality(prediction, gold) for gold in golds])
    if benchmark in ("gsm8k", "math"):
        compare = _last_number if benchmark == "gsm8k" else _boxed_equality
        return _best([compare(prediction, gold) for gold in golds])
    if variant == "fair":
        return _best([_f1([prediction], gold.split("|"), normalize_text) for gold in golds])
    # On DROP, a prediction that lists candidates earns the best of them.
    parts, separator = (prediction.split("|"), "|") if benchmark == "drop" else ([prediction], None)
    return _best([_f1(parts, gold.split(separator) if separator else [gold], _published_normal) for gold in golds])


def _best(scores: Sequence[Score]) -> Score:
    return max(scores, key=lambda score: score.value)


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
    return _last_sentence(text)


def _last_sentence(text: str) -> str:
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


async def _published_equality(prediction: str, gold: str) -> Score:
    answer = _published_answer(prediction)
    target = _published_answer(gold if "\\boxed" in gold else f"\\boxed{{{gold}}}")
    predicted, expected = _plain_number(answer), _plain_number(target)
    if answer == target:
        correct = True
    elif predicted is not None and expected is not None:
        correct = abs(predicted - expected) <= max(MATH_TOLERANCE, 1e-9 * max(abs(predicted), abs(expected)))
    else:
        correct = await _sympy_equal(answer, target)
    return Score(float(correct), "published", answer, "" if answer else NO_ANSWER)


def _published_answer(text: str) -> str:
    if matches := _BOXED.findall(text):
        return str(matches[-1]).strip()
    return _last_sentence(text)


async def _sympy_equal(left: str, right: str) -> bool:
    try:
        result = await run(
            _SYMPY_EQUAL,
            stdin=json.dumps([left, right]) + "\n",
            timeout_s=SYMPY_TIMEOUT_S,
            memory_mb=SYMPY_MEMORY_MB,
        )
    except SandboxUnavailableError as error:
        raise ScorerError(str(error)) from error
    # A text that hangs sympy, or that exits, is not equal to anything.
    return result.status is Status.OK and result.stdout == "equal\n"


def _f1(predictions: Sequence[str], golds: Sequence[str], normalize: Callable[[str], str]) -> Score:
    """Best token F1 of a pair."""
    pairs = [(normalize(prediction), normalize(gold)) for prediction in predictions for gold in golds if gold.strip()]
    value, answer = max(((token_f1(prediction, gold), prediction) for prediction, gold in pairs), default=(0.0, ""))
    return Score(value, "f1", answer, "" if answer else NO_ANSWER, value)


def _published_normal(text: str) -> str:
    """The published normal form: lower case, without ASCII punctuation and articles."""
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", kept).split())
