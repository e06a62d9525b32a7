"""Strict scorer for math answers."""

from __future__ import annotations

import re

from ..answers import (
    RELATIVE_TOLERANCE,
    Interval,
    Number,
    extract_answer,
    gold_answer,
    is_bracketed,
    lists_in_words,
    read_based,
    read_interval,
    read_number,
    read_time,
    same_number,
    split_list,
    units_agree,
)
from .symbolic import symbolically_equal
from .types import NO_ANSWER, WRONG_TYPE, Score

MAX_ANSWER_CHARS = 500
"""Longer answers are wrong without being parsed, which bounds the time of a comparison."""
MAX_LIST_ITEMS = 32
PROSE_WORDS = 4
"""Number of words from which an answer counts as prose."""
_LETTER = re.compile(r"\(?([A-Z])\)?")
_CHOICE = re.compile(r"(?:option |choice )?\(?([A-Z])\)?(?:[.):]\s(?!or\b|and\b).*|[.):])?", re.DOTALL)
_NEGATION = re.compile(r"\b(?:not|never|no|nor|neither|cannot|doubt|isn't|aren't)\b", re.IGNORECASE)
_LEADING_NUMBER = re.compile(r"([-+]?\\?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?),\s+(?!or\b|and\b)[A-Za-z][A-Za-z' ]*")
"""A number followed by prose without any further number, operator or alternative."""
_EMPTY = {"", "{}", "[]", "()", "none", "null", "nan", "n/a"}
_NAME = r"(?:[A-Za-z]\w?|\\[a-z]+)(?:\([\w, ]{0,20}\))?"
_ASSIGNMENT = re.compile(rf"^({_NAME})\s*(?:=|\\in(?![a-z]))\s*(?=\S)")
_ARITHMETIC = re.compile(r"[\d\s+\-*/().,^{}!\\]+(?:\\(?:times|cdot|frac|dfrac)[\d\s+\-*/().,^{}!\\]+)*")
_CONSTANT = re.compile(r"-?(?:[\d./(){}\s]|\\[dt]?frac|\\sqrt|\\pi|\\cdot|\^\{?\d\}?|\be\b)+")
"""A single irrational constant without a sum, as an exact form of a decimal."""
_MATHEMATICAL = re.compile(r"[\\^_=+*/(){}\[\]<>|\d]|^-?[a-z]$")


def score_math(prediction: str, gold: str) -> Score:
    """
    Compare a prediction with the gold answer, by the kind of the gold.

    For a number only a number counts: integers and fractions exactly, decimals with a tolerance, with separators,
    currency, unit, per cent and "million" understood; an expression that restates the task is no answer. Lists are
    compared as sets, intervals by their ends. Everything else is compared symbolically, by math-verify in a worker
    process.

    Args:
        prediction (`str`):
            Free text or a bare answer, read by [`~aflow_trl.answers.extract_answer`]. A number somewhere in prose is
            not an answer.
        gold (`str`):
            Gold answer, or a solution that ends with `#### …` or a box.

    Returns:
        [`Score`]: 1.0 or 0.0; labelled `no_answer` if the prediction contains none.

    Raises:
        [`ScorerError`]: The comparison failed or timed out.
    """
    target, answer = gold_answer(gold, "math"), extract_answer(prediction, "math")
    if answer.lower() in _EMPTY:
        return Score(0.0, "none", answer, NO_ANSWER)
    if len(answer) > MAX_ANSWER_CHARS:
        return Score(0.0, "too_long", answer[:MAX_ANSWER_CHARS], NO_ANSWER)
    if answer == target:
        return _score(True, "exact", answer)
    if _NEGATION.match(answer) and not _NEGATION.search(target):
        return Score(0.0, "negation", answer, NO_ANSWER)
    if letter := _LETTER.fullmatch(target):
        choice = _CHOICE.fullmatch(answer)
        if choice is None:
            return Score(0.0, "choice", answer, WRONG_TYPE)
        return _score(choice[1] == letter[1], "choice", answer)
    return _compare(answer, target)


def _compare(answer: str, target: str) -> Score:
    # From cheap and certain to costly: whatever tells the answers apart by form must precede the symbolic comparison,
    # which ignores units and the difference between (0, 1) and [0, 1].
    based = read_based(answer), read_based(target)
    if any(based):
        return _score(based[0] == based[1], "base", answer)
    # `x = 5` answers `5`, but not `y = 5`.
    names = [match[1] for text in (answer, target) if (match := _ASSIGNMENT.match(text))]
    if len(set(names)) < 2:
        answer, target = (_ASSIGNMENT.sub("", text, count=1) for text in (answer, target))
    gold_number = read_number(target)
    if gold_number is not None:
        return _compare_number(answer, target, gold_number)
    times = read_time(answer), read_time(target)
    if times[1] is not None:
        return _score(times[0] == times[1], "time", answer)
    if (equal := _compare_lists(answer, target)) is not None:
        return _score(equal, "set", answer)
    if (equal := _compare_intervals(answer, target)) is not None:
        return _score(equal, "interval", answer)
    if _brackets(answer) and _brackets(target) and _brackets(answer) != _brackets(target):
        return Score(0.0, "structure", answer)
    if not _MATHEMATICAL.search(answer) or not _MATHEMATICAL.search(target):
        same = _plain_text(answer) == _plain_text(target)
        kinds_differ = bool(_MATHEMATICAL.search(answer)) != bool(_MATHEMATICAL.search(target))
        return Score(float(same), "text", answer, WRONG_TYPE if kinds_differ and not same else "", float(same))
    if _plain_text(answer) == _plain_text(target):
        return _score(True, "exact", answer)
    if "$" in answer or (_is_prose(answer) and not _is_prose(target)):
        return Score(0.0, "text", answer, WRONG_TYPE)
    if "=" in answer and "=" not in target:
        return Score(0.0, "equation", answer)
    number = read_number(answer)
    decimal = number is not None and number.decimals is not None
    equal = symbolically_equal(_latex(target), _latex(answer), float(RELATIVE_TOLERANCE) if decimal else 0.0)
    return _score(equal, "symbolic", answer)


def _compare_number(answer: str, target: str, gold: Number) -> Score:
    """Compare an answer with a gold that is a number."""
    value = _value_of_equation(answer) if "=" in answer else answer
    if value is None:
        return Score(0.0, "equation", answer)
    if gold.is_ratio and re.fullmatch(r"\d+\s?:\s?\d+", value):
        value = value.replace(":", "/")
    number = read_number(value)
    if number is None and (leading := _LEADING_NUMBER.fullmatch(value)):
        number = read_number(leading[1])
    if number is not None:
        # A division that is left undone is no whole number.
        undone = number.is_ratio and gold.value.denominator == 1 and gold.decimals is None and not gold.is_ratio
        correct = same_number(number, gold) and not undone
        method = "number" if units_agree(number, gold) else "unit"
        return _score(correct and method == "number", method, answer)
    if gold.decimals is not None and _CONSTANT.fullmatch(value) and re.search(r"\\sqrt|\\pi|\be\b", value):
        return _score(symbolically_equal(_latex(target), _latex(value), float(RELATIVE_TOLERANCE)), "symbolic", answer)
    return Score(0.0, "number", answer, WRONG_TYPE)


def _value_of_equation(text: str) -> str | None:
    """The last side of a chain such as `3 + 4 = 7`; `None` if a side that is arithmetic has another value."""
    *sides, value = (part.strip() for part in text.split("="))
    for side in sides:
        if _ARITHMETIC.fullmatch(side) and side and not symbolically_equal(_latex(value), _latex(side)):
            return None
        if not side or re.search(r"[<>]", side) or _NEGATION.search(side) or _is_prose(side):
            return None
    return value


def _compare_lists(answer: str, target: str) -> bool | None:
    """Compare `x=7 or x=5` with `5, 7` as sets; `None` if neither side is a list."""
    answers, targets = split_list(answer), split_list(target)
    if len(targets) < 2:
        # Several answers to a question that has one are wrong: otherwise listing candidates would pay.
        return False if len(answers) > 1 and lists_in_words(answer) else None
    if _MATHEMATICAL.search(target) is None and not lists_in_words(target):
        return None  # words with a comma, such as a name
    if len(answers) != len(targets) or len(answers) > MAX_LIST_ITEMS:
        return False
    unmatched = list(targets)
    for part in answers:
        for index, candidate in enumerate(unmatched):
            if part == candidate or _compare(part, candidate).value == 1.0:
                del unmatched[index]
                break
    return not unmatched


def _compare_intervals(answer: str, target: str) -> bool | None:
    """Compare intervals and inequalities by their ends; `None` if one side is neither, or both may be points."""
    left, right = read_interval(answer), read_interval(target)
    if left is None or right is None or (is_bracketed(answer) and is_bracketed(target)):
        return None
    # `(1, 2)` is a point as well, but no inequality is.
    return (
        left.low_closed == right.low_closed
        and left.high_closed == right.high_closed
        and _same_bound(left, right, "low")
        and _same_bound(left, right, "high")
    )


def _same_bound(left: Interval, right: Interval, end: str) -> bool:
    ours, gold = getattr(left, end), getattr(right, end)
    return ours == gold or ("infty" not in ours + gold and _compare(ours, gold).value == 1.0)


def _brackets(text: str) -> str:
    """Brackets that enclose a tuple, set or interval; empty if there are none."""
    match = re.fullmatch(r"(\(|\[|\\\{|\{).*,.*(\)|\]|\\\}|\})", text.strip())
    return "".join(match.groups()).replace("\\", "") if match else ""


def _is_prose(text: str) -> bool:
    """Whether a text consists of sentences, possibly with numbers in them."""
    return len(re.findall(r"(?<![\\A-Za-z{])[A-Za-z]{3,}\b", text)) >= PROSE_WORDS


def _plain_text(text: str) -> str:
    """The text without spaces and case."""
    return text.replace(" ", "").lower()


def _latex(text: str) -> str:
    """Rewrite plain-text roots and fractions as LaTeX."""
    text = re.sub(r"\bsqrt\(([^()]*)\)", r"\\sqrt{\1}", text)
    return re.sub(r"(?<![\w\\}])(\d+)/(\d+)(?![\w{])", r"\\frac{\1}{\2}", text)


def _score(correct: bool, method: str, answer: str) -> Score:
    return Score(float(correct), method, answer, "", float(correct))
