"""From free text to a bare answer, and the normal form under which answers are counted as equal in a vote."""

from __future__ import annotations

import re
import string
from fractions import Fraction

from .types import Candidate

_FENCED = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_STATED = re.compile(r"(?:final answer|answer)\s*(?:is\s*:?|:|=)\s*(.+)", re.IGNORECASE)
_PLAIN_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)(/\d+)?")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def final_answer(candidate: Candidate, domain: str) -> str:
    """The bare answer of a candidate: what its operator gave, else what its text states."""
    return candidate.answer if candidate.answer is not None else extract_answer(candidate.text, domain)


def extract_answer(text: str, domain: str) -> str:
    """
    The bare answer stated in free text.

    Code: the last fenced block, else the text. Otherwise, in this order: the last `\\boxed{…}`, `<answer>…</answer>`,
    `#### …`, "the answer is …"; else the whole text. A number somewhere in prose is no answer.

    Args:
        text (`str`):
            What an operator wrote.
        domain (`str`):
            `math`, `code` or `qa`.

    Returns:
        `str`: The answer, empty if the text states none.
    """
    if domain == "code":
        return code_block(text)
    if (boxed := last_boxed(text)) is not None:
        return boxed.strip()
    if tagged := _TAGGED.findall(text):
        return str(tagged[-1]).strip()
    if "####" in text:
        return text.rsplit("####", 1)[1].strip().split("\n")[0].strip()
    if stated := _STATED.findall(text):
        return _first_sentence(stated[-1])
    return text.strip()


def last_boxed(text: str) -> str | None:
    """Content of the last `\\boxed{…}` with balanced braces; `None` if there is none."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    begin, depth = start + len("\\boxed{"), 1
    for index in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return text[begin:index]
    return None


def code_block(text: str) -> str:
    """The last fenced block, else the text itself."""
    blocks = _FENCED.findall(text)
    return str(blocks[-1] if blocks else text).strip("\n")


def vote_key(answer: str, domain: str) -> str:
    """Normal form of an answer: equal keys are one vote."""
    if domain == "code":
        return "\n".join(line.rstrip() for line in answer.strip().splitlines())
    text = answer.strip().strip("$").rstrip(".").replace(",", "") if domain == "math" else answer
    if domain == "math":
        if _PLAIN_NUMBER.fullmatch(text) and not text.endswith("/0"):
            return str(_fraction(text))
        return re.sub(r"\s+", "", text.lower())
    return normalize_text(text)


def normalize_text(text: str) -> str:
    """SQuAD normalisation: lower case, no punctuation, no articles, single spaces."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def _fraction(text: str) -> Fraction | str:
    try:
        numerator, _, denominator = text.partition("/")
        return Fraction(numerator) / Fraction(denominator or 1)
    except (ValueError, ZeroDivisionError):
        return text


def _first_sentence(text: str) -> str:
    return re.split(r"\.(?:\s|$)|\n", text.strip(), maxsplit=1)[0].strip().strip("*").strip()
