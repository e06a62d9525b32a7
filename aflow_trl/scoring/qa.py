"""Strict scorer for question answering."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from ..errors import ScorerError
from ..operators import extract_answer, normalize_text
from .numbers import read_number, same_number
from .types import NO_ANSWER, WRONG_TYPE, Score
from .units import units_differ

_UNANSWERABLE = {
    "",
    "unanswerable",
    "no answer",
    "not answerable",
    "cannot be answered",
    "not answerable from context",
}
_YES_NO = {"yes", "no", "true", "false"}
_NEGATIONS = {"not", "never", "no", "nor", "without", "none"}
_STOP_WORDS = {"of", "and", "or", "in", "on", "at", "to", "by", "for", "with", "from", "is", "was", "did", "it"}
NEVER_EXACT = 0.9
"""Most credit for words that are not the gold's in its order."""
NEARLY = 0.8
"""F1 from which an answer that says more than the gold still earns credit."""


def score_qa(prediction: str, golds: str | Sequence[str]) -> Score:
    """
    Compare a prediction with the gold answers: exact match after SQuAD normalisation, else token F1.

    Yes/no and numbers must match exactly. F1 counts only where one side's words contain the other's ("Obama" for
    "Barack Obama"): an answer that contradicts the gold in a word ("John Smith" for "Will Smith") earns nothing, and
    one that says more than the gold earns something from an F1 of 0.8 on, so that listing options does not pay.

    Args:
        prediction (`str`):
            Free text or a bare answer.
        golds (`str` or `Sequence[str]`):
            Gold answer or its aliases; an empty one means the question cannot be answered (SQuAD v2).

    Returns:
        [`Score`]: The best value over the aliases, in [0, 1].

    Raises:
        [`ScorerError`]: There is no gold answer.
    """
    aliases = [golds] if isinstance(golds, str) else list(golds)
    answer = extract_answer(prediction, "qa")
    bare = normalize_text(answer)
    if not aliases:
        raise ScorerError("there is no gold answer to score with")
    if not bare:
        return Score(0.0, "none", answer, NO_ANSWER)
    if not any(normalize_text(alias) for alias in aliases):
        return Score(float(bare in _UNANSWERABLE), "unanswerable", answer, "", 0.0)
    scores = [_score(answer, alias) for alias in aliases if normalize_text(alias)]
    return max(scores, key=lambda score: score.value)


def _score(answer: str, gold: str) -> Score:
    number, predicted = read_number(gold), read_number(answer)
    if number is not None or predicted is not None:
        # Punctuation decides between numbers, so they are compared before it is dropped.
        right = number is not None and predicted is not None and same_number(predicted, number)
        right = right and not units_differ(answer, gold)
        label = WRONG_TYPE if predicted is None else ""
        return Score(float(right), "number", answer, label, float(right))
    bare, target = normalize_text(answer), normalize_text(gold)
    if bare == target:
        return Score(1.0, "exact", answer, "", 1.0)
    if target in _YES_NO or bare in _YES_NO:
        return Score(0.0, "yes_no", answer, "" if bare in _YES_NO and target in _YES_NO else WRONG_TYPE)
    words, wanted = Counter(bare.split()), Counter(target.split())
    f1 = min(token_f1(bare, target), NEVER_EXACT)
    says_less, says_more = not words - wanted, not wanted - words
    contradicts = _figures(words) != _figures(wanted) or (words.keys() ^ wanted.keys()) & _NEGATIONS
    if contradicts or not (words & wanted).keys() - _STOP_WORDS or not (says_less or (says_more and f1 >= NEARLY)):
        return Score(0.0, "f1", answer)
    return Score(f1, "f1", answer, "", f1)


def token_f1(prediction: str, gold: str) -> float:
    """Token F1 of two normalised texts (SQuAD)."""
    words, wanted = prediction.split(), gold.split()
    common = sum((Counter(words) & Counter(wanted)).values())
    return 2 * common / (len(words) + len(wanted)) if common else 0.0


def _figures(words: Counter[str]) -> set[str]:
    return {word for word in words if re.search(r"\d", word)}
