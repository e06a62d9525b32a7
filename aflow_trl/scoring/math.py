"""Strict scorer for math answers."""

from __future__ import annotations

import re
import unicodedata

from ..operators import extract_answer
from .numbers import RELATIVE_TOLERANCE, multipliers, read_number, same_number
from .symbolic import symbolically_equal
from .types import NO_ANSWER, WRONG_TYPE, Score
from .units import units_differ

MAX_ANSWER_CHARS = 500
"""Longer answers are wrong without being parsed, which bounds the time of a comparison."""
PROSE_WORDS = 4
"""Number of words from which an answer counts as prose."""
_CHOICE = re.compile(r"^\(?([A-Z])\)?(?:[.):]\s.*|[.):])?$", re.DOTALL)
_LEADING_NUMBER = re.compile(r"^([-+]?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?),\s+(?!or\b|and\b)[A-Za-z][A-Za-z' ]*$")
"""A number followed by prose without any further number, operator or alternative."""
_EMPTY = {"", "{}", "[]", "()", "none", "null", "nan", "n/a"}
_ASSIGNMENT = re.compile(r"^([A-Za-z]\w?)\s*(?:=|\\in)\s*(?=\S)")
_ALTERNATIVES = re.compile(r"\s+(?:or|and)\s+|\s*\\text\{\s*(?:or|and)\s*\}\s*")
_MATHEMATICAL = re.compile(r"[\\^_=+*/(){}\[\]<>|\d]|^-?[a-z]$")


def score_math(prediction: str, gold: str) -> Score:
    """
    Compare a prediction with the gold answer.

    Integers and fractions are compared exactly, decimals with a tolerance; units, currencies and thousands separators
    are understood. Everything else is compared symbolically, by math-verify in a worker process.

    Args:
        prediction (`str`):
            Free text or a bare answer. The answer is the last `\\boxed{…}`, `<answer>…</answer>`, `#### …` or "the
            answer is …", or else the whole text. A number somewhere in prose is not an answer.
        gold (`str`):
            Gold answer, extracted the same way.

    Returns:
        [`Score`]: 1.0 or 0.0; labelled `no_answer` if the prediction contains none.

    Raises:
        [`ScorerError`]: The comparison failed or timed out. Such an answer is unscored, never 0.
    """
    target = _clean(extract_answer(gold, "math"))
    answer = _clean(extract_answer(prediction, "math"))
    if answer.lower() in _EMPTY:
        return Score(0.0, "none", answer, NO_ANSWER)
    if len(answer) > MAX_ANSWER_CHARS:
        return Score(0.0, "too_long", answer[:MAX_ANSWER_CHARS], NO_ANSWER)
    if answer == target:
        return _score(True, "exact", answer)
    if letter := re.fullmatch(r"\(?([A-Z])\)?", target):
        choice = _CHOICE.match(answer)
        if choice is None:
            return Score(0.0, "choice", answer, WRONG_TYPE)
        return _score(choice.group(1) == letter.group(1), "choice", answer)
    if (equal := _compare_alternatives(answer, target)) is not None:
        return _score(equal, "set", answer)
    return _compare(answer, target)


def _compare(answer: str, target: str) -> Score:
    # From cheap and certain to costly: whatever tells the answers apart by form must precede the symbolic comparison,
    # which ignores units, the word "million", and the difference between (0, 1) and [0, 1].
    if units_differ(answer, target) and read_number(answer) and read_number(target):
        return Score(0.0, "unit", answer)
    answer, target = answer.replace("\\$", ""), target.replace("\\$", "")
    if "$" in answer and read_number(answer) is None:
        return Score(0.0, "malformed", answer, NO_ANSWER)
    # `x = 5` answers `5`, but not `y = 5`.
    names = [match.group(1) for text in (answer, target) if (match := _ASSIGNMENT.match(text))]
    if len(set(names)) < 2:
        answer, target = _ASSIGNMENT.sub("", answer), _ASSIGNMENT.sub("", target)
    if multipliers(answer) != multipliers(target):
        return Score(0.0, "multiplier", answer)
    if _brackets(answer) and _brackets(target) and _brackets(answer) != _brackets(target):
        return Score(0.0, "structure", answer)
    gold_number, number = read_number(target), read_number(answer)
    if gold_number and number is None and (leading := _LEADING_NUMBER.match(answer)):
        number = read_number(leading.group(1))
    if gold_number and number:
        return _score(same_number(number, gold_number), "number", answer)
    if not _MATHEMATICAL.search(answer) or not _MATHEMATICAL.search(target):
        same = _plain_text(answer) == _plain_text(target)
        kinds_differ = bool(_MATHEMATICAL.search(answer)) != bool(_MATHEMATICAL.search(target))
        return Score(float(same), "text", answer, WRONG_TYPE if kinds_differ and not same else "", float(same))
    if gold_number is None and number is None and _plain_text(answer) == _plain_text(target):
        return _score(True, "exact", answer)
    if _is_prose(answer) and not _is_prose(target):
        return Score(0.0, "text", answer, WRONG_TYPE)
    decimal = any(value is not None and value.decimals is not None for value in (gold_number, number))
    equal = symbolically_equal(_latex(target), _latex(answer), float(RELATIVE_TOLERANCE) if decimal else 0.0)
    return _score(equal, "symbolic", answer)


def _compare_alternatives(answer: str, target: str) -> bool | None:
    """Compare `x=7 or x=5` with `x=5 or x=7` as sets; `None` if neither side lists alternatives."""
    answers, targets = _ALTERNATIVES.split(answer), _ALTERNATIVES.split(target)
    if len(targets) < 2:
        # Several answers to a question that has one are wrong: otherwise listing candidates would pay.
        return False if len(answers) > 1 else None
    if len(answers) != len(targets):
        return False
    unmatched = list(targets)
    for part in answers:
        for index, candidate in enumerate(unmatched):
            if part == candidate or _compare(part, candidate).value == 1.0:
                del unmatched[index]
                break
    return not unmatched


def _clean(text: str) -> str:
    # Unicode category "Cf" holds invisible characters, such as the zero-width space.
    text = "".join(char for char in text if unicodedata.category(char) != "Cf").strip()
    if not re.match(r"\$\s?[\d.][^$]*$", text):  # `$5` is an amount of money, `$x$` is LaTeX
        text = text.removeprefix("$").removesuffix("$").strip()
    return text.rstrip(".").strip() if not text.endswith("...") else text


def _brackets(text: str) -> str:
    """Brackets that enclose a tuple, set or interval; empty if there are none."""
    match = re.fullmatch(
        r"(\(|\[|\\\{|\{).*,.*(\)|\]|\\\}|\})", text.replace("\\left", "").replace("\\right", "").strip()
    )
    return "".join(match.groups()).replace("\\", "") if match else ""


def _is_prose(text: str) -> bool:
    """Whether a text consists of sentences, possibly with numbers in them."""
    return len(re.findall(r"(?<![\\A-Za-z{])[A-Za-z]{3,}\b", text)) >= PROSE_WORDS


def _plain_text(text: str) -> str:
    """The text without `\\text{…}`, spaces and case."""
    return re.sub(r"\\text\{([^{}]*)\}", r"\1", text).replace("\\ ", " ").replace(" ", "").lower()


def _latex(text: str) -> str:
    """Rewrite plain-text roots and fractions as LaTeX."""
    text = re.sub(r"\bsqrt\(([^()]*)\)", r"\\sqrt{\1}", text)
    return re.sub(r"(?<![\w\\}])(\d+)/(\d+)(?![\w{])", r"\\frac{\1}{\2}", text)


def _score(correct: bool, method: str, answer: str) -> Score:
    return Score(float(correct), method, answer, "", float(correct))
