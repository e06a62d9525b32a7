"""Rows that copy others: exactly, or nearly by the Jaccard similarity of their word shingles."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from .schema import Row

SHINGLE_WORDS = 3
NEAR = 0.8
"""Similarity from which two texts are near copies."""
_WORD = re.compile(r"\w+")

Shingles = frozenset[str]


def normal_form(row: Row) -> str:
    """Statement of a row without case, punctuation and spacing: equal forms are one problem."""
    return " ".join(_WORD.findall(f"{row.context} {row.question}".lower()))


def shingles(text: str) -> Shingles:
    """Runs of three words of a text; a shorter text is one shingle."""
    words = _WORD.findall(text.lower())
    count = max(1, len(words) - SHINGLE_WORDS + 1)
    return frozenset(" ".join(words[start : start + SHINGLE_WORDS]) for start in range(count))


def near_copies(rows: Sequence[Row], near: float = NEAR) -> Iterator[tuple[int, int]]:
    """
    Pairs of rows whose questions and contexts are both near copies. Exact: every such pair is found.

    Args:
        rows (`Sequence[Row]`):
            Rows, in any order.
        near (`float`, *optional*, defaults to `0.8`):
            Least Jaccard similarity of a near copy.

    Yields:
        `tuple[int, int]`: Indices, the smaller one first, ordered by the larger.
    """
    questions = [shingles(row.question) for row in rows]
    frequency = Counter(shingle for own in questions for shingle in own)
    # Two sets this similar share one of the rarest few members of each.
    seen: defaultdict[str, list[int]] = defaultdict(list)
    for index, own in enumerate(questions):
        rarest = sorted(own, key=lambda shingle: (frequency[shingle], shingle))
        prefix = rarest[: len(own) - math.ceil(near * len(own)) + 1]
        for other in sorted({known for shingle in prefix for known in seen[shingle]}):
            if similarity(own, questions[other]) >= near and _same_context(rows[index], rows[other], near):
                yield other, index
        for shingle in prefix:
            seen[shingle].append(index)


def similarity(left: Shingles, right: Shingles) -> float:
    """Jaccard similarity of two sets, in [0, 1]."""
    return len(left & right) / len(left | right)


def _same_context(left: Row, right: Row, near: float) -> bool:
    if left.context == right.context:
        return True
    return similarity(shingles(left.context), shingles(right.context)) >= near
