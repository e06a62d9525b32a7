"""The normal form under which a vote counts answers as equal."""

from __future__ import annotations

from .forms import read_date
from .numbers import read_number
from .reader import bare_answer
from .text import normalize_text


def vote_key(answer: str, domain: str) -> str:
    """Normal form of an answer; answers with equal keys count as the same vote."""
    if domain == "code":
        # Programs are not compared by behaviour: that would mean running every candidate on inputs nobody has given.
        return "\n".join(line.rstrip() for line in answer.strip().splitlines())
    bare = bare_answer(answer, domain)
    # As fractions, so that 0.5, .50 and 1/2 agree; floats would merge answers that differ beyond 17 digits.
    number = read_number(bare)
    if number is not None:
        return f"{number.value}{'%' if number.percent else ''} {number.unit}".strip()
    if domain == "math":
        return "".join(bare.lower().split())
    date = read_date(bare)
    return normalize_text(bare) if date is None else "-".join(map(str, date))
