"""Extraction of a bare answer from free text, and the normal form under which a vote counts answers as equal."""

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
# ASCII only, as in the SQuAD evaluation script, so that scores are comparable.
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def final_answer(candidate: Candidate, domain: str) -> str:
    """Bare answer of a candidate: the one its operator returned, else the one its text states."""
    return candidate.answer if candidate.answer is not None else extract_answer(candidate.text, domain)


def extract_answer(text: str, domain: str) -> str:
    """
    Extract the bare answer that a text states.

    For code it is the last fenced block, else the whole text. Otherwise it is the first of these that occurs: the last
    `\\boxed{…}`, `<answer>…</answer>`, `#### …`, "the answer is …"; else the whole text. A number that merely occurs
    in prose is not an answer.

    Args:
        text (`str`):
            Output of an operator.
        domain (`str`):
            `math`, `code` or `qa`.

    Returns:
        `str`: The answer, empty if the text is empty.
    """
    if domain == "code":
        return code_block(text)
    # From the most explicit marker to the least: "answer is" also occurs in the middle of a derivation.
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
    opening = text.rfind("\\boxed{")
    if opening < 0:
        return None
    begin, depth = opening + len("\\boxed{"), 1
    # Counted by hand: LaTeX nests braces (`\boxed{\frac{1}{2}}`), which a regular expression cannot match.
    for index in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return text[begin:index]
    return None


def code_block(text: str) -> str:
    """Content of the last fenced block, else the text itself."""
    blocks = _FENCED.findall(text)
    return str(blocks[-1] if blocks else text).strip("\n")


def vote_key(answer: str, domain: str) -> str:
    """Normal form of an answer; answers with equal keys count as the same vote."""
    if domain == "code":
        # Programs are not compared by behaviour: that would mean running every candidate on inputs nobody has given.
        return "\n".join(line.rstrip() for line in answer.strip().splitlines())
    if domain != "math":
        return normalize_text(answer)
    text = answer.strip().strip("$").rstrip(".").replace(",", "")
    # As fractions, so that 0.5, .50 and 1/2 agree; floats would merge answers that differ beyond 17 digits.
    if _PLAIN_NUMBER.fullmatch(text) and not text.endswith("/0"):
        return str(_fraction(text))
    return re.sub(r"\s+", "", text.lower())


def normalize_text(text: str) -> str:
    """SQuAD normalisation: lower case, no punctuation, no articles, single spaces."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def _fraction(text: str) -> Fraction | str:
    # Split by hand: `Fraction` accepts "1/2", but not "0.5/2".
    try:
        numerator, _, denominator = text.partition("/")
        return Fraction(numerator) / Fraction(denominator or 1)
    except (ValueError, ZeroDivisionError):
        return text


def _first_sentence(text: str) -> str:
    # A period ends the sentence only before white space: "The answer is 3.5." keeps its decimals.
    return re.split(r"\.(?:\s|$)|\n", text.strip(), maxsplit=1)[0].strip().strip("*").strip()
