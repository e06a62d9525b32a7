"""Strict scorer for question answering: exact match by kind, with token F1 as guarded partial credit."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Sequence

from ..answers import (
    Number,
    bare_answer,
    extract_answer,
    is_unit,
    normalize_text,
    read_date,
    read_number,
    read_time,
    same_number,
    units_agree,
)
from ..errors import ScorerError
from ..text import model_text
from .types import NO_ANSWER, WRONG_TYPE, Score

# Normalised replies that count as "the question cannot be answered" (SQuAD v2).
_UNANSWERABLE = {
    "",
    "unanswerable",
    "no answer",
    "not answerable",
    "cannot be answered",
    "not answerable from context",
    "question is unanswerable",
    "question cannot be answered",
    "question cannot be answered from context",
}
_YES_NO = {"yes", "no", "true", "false"}
_OPPOSITE = {"yes": {"no", "not", "never", "neither", "incorrect", "false"}, "no": {"yes", "true"}}
_NEGATIONS = {"not", "never", "no", "nor", "without", "none"}
_PREPOSITION = re.compile(
    r"(?:in|on|at|by|from|to|during|since|around|near|it is|it was|it's)\s+(?:the\s+)?", re.IGNORECASE
)
# Words that a name shares with many others: alone they answer nothing, and in addition they contradict nothing.
_GENERIC = frozenset(
    "of and or in on at to by for with from is was did it as de la le el von van der battle war siege treaty "
    "university college school institute academy city town county state republic kingdom empire province "
    "district island islands river lake mount mountain sea ocean north south east west northern southern "
    "eastern western new old great saint st king queen prince princess president minister prime chancellor "
    "general sir lord lady dr mr mrs ms professor company corporation inc ltd group association organization "
    "organisation party church temple museum street avenue road square park bridge airport station first "
    "second third years year people century day days month months award prize film band album song series book "
    "novel".split()
)
_ADDITIONS = frozenset(
    "of and in at sir lord lady dr mr mrs ms professor president king queen prince princess saint st city".split()
)
MAX_INEXACT = 0.9
"""Maximum credit without an exact match: the same words in another order may mean something else."""


def score_qa(prediction: str, golds: str | Sequence[str]) -> Score:
    """
    Compare a prediction with the gold answers: exact match after SQuAD normalisation, or else token F1.

    Numbers, dates, times and yes/no have to match exactly, and units agree. F1 counts only for a shorter form of the
    gold that keeps a word of its own ("Obama" for "Barack Obama", not "University" for "Stanford University"), and for
    one with a title in addition. An answer with any other word ("John Smith" for "Will Smith", "Paris Rome" for
    "Paris") earns nothing, so that listing candidates does not pay.

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
    targets = [target for target in map(_target, aliases) if normalize_text(target)]
    if not targets:
        return Score(float(bare in _UNANSWERABLE), "unanswerable", answer, "", 0.0)
    scores = [_score(answer, target) for target in targets]
    return max(scores, key=lambda score: score.value)


@functools.lru_cache(maxsize=4_096)
def _target(alias: str) -> str:
    return bare_answer(model_text(alias), "qa")


def _score(answer: str, gold: str) -> Score:
    bare, target = normalize_text(answer), normalize_text(gold)
    if (match := _PREPOSITION.match(answer)) and not _PREPOSITION.match(gold):
        answer, bare = answer[match.end() :], normalize_text(answer[match.end() :])
    for read in (read_date, read_time):
        if (kind := read(gold)) is not None:
            same = read(answer) == kind or bare == target
            return Score(float(same), read.__name__.removeprefix("read_"), answer, "", float(same))
    number, predicted = _quantity(gold), _quantity(answer)
    if number is not None or predicted is not None:
        # Before normalisation, which drops the punctuation that distinguishes 3.5 from 35.
        correct = number is not None and predicted is not None and same_number(predicted, number)
        correct = correct and predicted is not None and number is not None and units_agree(predicted, number)
        label = WRONG_TYPE if predicted is None else ""
        return Score(float(correct), "number", answer, label, float(correct))
    if bare == target:
        return Score(1.0, "exact", answer, "", 1.0)
    if target in _YES_NO:
        return _score_yes_no(answer, target)
    if bare in _YES_NO:
        return Score(0.0, "yes_no", answer, WRONG_TYPE)
    return _score_words(answer, bare, target)


def _quantity(text: str) -> Number | None:
    """A number with a known unit or none: `10 Downing Street` is no number."""
    number = read_number(text)
    return number if number is not None and (not number.unit or is_unit(number.unit)) else None


def _score_yes_no(answer: str, target: str) -> Score:
    """`Yes, it is` is yes, unless the rest says the opposite."""
    first, _, rest = answer.strip().lower().partition(" ")
    first = first.strip(".,;:!-")
    words = set(normalize_text(rest).split())
    is_clause = not rest or answer.strip()[len(first) : len(first) + 1] in {".", ",", ";", ":", "!", "-"}
    correct = first == target and is_clause and not words & _OPPOSITE.get(target, set())
    return Score(float(correct), "yes_no", answer, "" if first in _YES_NO else WRONG_TYPE, float(correct))


def _score_words(answer: str, bare: str, target: str) -> Score:
    """Guarded token F1."""
    tokens, gold_tokens = Counter(bare.split()), Counter(target.split())
    missing, additional = gold_tokens - tokens, tokens - gold_tokens
    if missing and additional:
        return Score(0.0, "f1", answer)
    if not missing and not additional:
        return Score(MAX_INEXACT, "f1", answer, "", MAX_INEXACT)
    # A different figure or an additional "not" reverses the meaning, however many words agree.
    changed = missing.keys() | additional.keys()
    contradicts = any(re.search(r"\d", word) or word in _NEGATIONS for word in changed)
    has_own_word = bool((tokens & gold_tokens).keys() - _GENERIC)
    if contradicts or not has_own_word or additional.keys() - _ADDITIONS:
        return Score(0.0, "f1", answer)
    f1 = min(token_f1(bare, target), MAX_INEXACT)
    return Score(f1, "f1", answer, "", f1)


def token_f1(prediction: str, gold: str) -> float:
    """Token F1 of two normalised texts, as SQuAD defines it."""
    tokens, gold_tokens = prediction.split(), gold.split()
    common = sum((Counter(tokens) & Counter(gold_tokens)).values())
    return 2 * common / (len(tokens) + len(gold_tokens)) if common else 0.0
