"""Strict scorer for question answering: exact match, with token F1 as guarded partial credit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from ..errors import ScorerError
from ..operators import extract_answer, normalize_text
from .numbers import read_number, same_number
from .types import NO_ANSWER, WRONG_TYPE, Score
from .units import units_differ

# Normalised replies that count as "the question cannot be answered" (SQuAD v2).
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
MAX_INEXACT = 0.9
"""Maximum credit without an exact match: the same words in another order may mean something else."""
MIN_F1_OF_LONGER = 0.8
"""Minimum F1 at which an answer with more words than the gold earns credit."""


def score_qa(prediction: str, golds: str | Sequence[str]) -> Score:
    """
    Compare a prediction with the gold answers: exact match after SQuAD normalisation, or else token F1.

    Numbers and yes/no have to match exactly. F1 counts only if the words of one side contain those of the other
    ("Obama" for "Barack Obama"). An answer that contradicts the gold in any word ("John Smith" for "Will Smith") earns
    nothing. One with additional words needs an F1 of at least 0.8, so that listing options does not pay.

    Args:
        prediction (`str`):
            Free text or a bare answer.
        golds (`str` or `Sequence[str]`):
            Gold answer or its aliases; an empty string means that the question cannot be answered (SQuAD v2).

    Returns:
        [`Score`]: The best value over the aliases, in [0, 1].

    Raises:
        [`ScorerError`]: There is no gold answer.
    """
    aliases = [golds] if isinstance(golds, str) else list(golds)
    answer = extract_answer(prediction, "qa")
    bare = normalize_text(answer)
    if not aliases:
        raise ScorerError("there is no gold answer; give at least one")
    if not bare:
        return Score(0.0, "none", answer, NO_ANSWER)
    if not any(normalize_text(alias) for alias in aliases):
        return Score(float(bare in _UNANSWERABLE), "unanswerable", answer, "", 0.0)
    scores = [_score(answer, alias) for alias in aliases if normalize_text(alias)]
    return max(scores, key=lambda score: score.value)


def _score(answer: str, gold: str) -> Score:
    number, predicted = read_number(gold), read_number(answer)
    if number is not None or predicted is not None:
        # Before normalisation, which drops the punctuation that distinguishes 3.5 from 35.
        correct = number is not None and predicted is not None and same_number(predicted, number)
        correct = correct and not units_differ(answer, gold)
        label = WRONG_TYPE if predicted is None else ""
        return Score(float(correct), "number", answer, label, float(correct))
    bare, target = normalize_text(answer), normalize_text(gold)
    if bare == target:
        return Score(1.0, "exact", answer, "", 1.0)
    if target in _YES_NO or bare in _YES_NO:
        return Score(0.0, "yes_no", answer, "" if bare in _YES_NO and target in _YES_NO else WRONG_TYPE)
    tokens, gold_tokens = Counter(bare.split()), Counter(target.split())
    f1 = min(token_f1(bare, target), MAX_INEXACT)
    is_shorter, is_longer = not tokens - gold_tokens, not gold_tokens - tokens
    # A different figure or an additional "not" reverses the meaning, however many words agree.
    contradicts = _figures(tokens) != _figures(gold_tokens) or (tokens.keys() ^ gold_tokens.keys()) & _NEGATIONS
    shares_content = (tokens & gold_tokens).keys() - _STOP_WORDS
    if contradicts or not shares_content or not (is_shorter or (is_longer and f1 >= MIN_F1_OF_LONGER)):
        return Score(0.0, "f1", answer)
    return Score(f1, "f1", answer, "", f1)


def token_f1(prediction: str, gold: str) -> float:
    """Token F1 of two normalised texts, as SQuAD defines it."""
    tokens, gold_tokens = prediction.split(), gold.split()
    common = sum((Counter(tokens) & Counter(gold_tokens)).values())
    return 2 * common / (len(tokens) + len(gold_tokens)) if common else 0.0


def _figures(tokens: Counter[str]) -> set[str]:
    """Tokens that contain a digit."""
    return {token for token in tokens if re.search(r"\d", token)}
