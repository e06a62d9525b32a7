"""Finds rows that copy others: exactly, or nearly by the Jaccard similarity of their word shingles."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from ..answers import vote_key
from .schema import Row

SHINGLE_WORDS = 3
NEAR_COPY_SIMILARITY = 0.8
"""Minimum Jaccard similarity of near copies."""
ROUNDING_ERROR = 1e-9
"""Slack for products of a similarity and a count, which floating point may put just above a whole number."""
_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r"\w+|[^\w\s,;:?.'\"]")
"""In mathematics and code a sign makes another problem, unlike the punctuation of a sentence: 7 - 3 is not 7 + 3."""

Shingles: TypeAlias = frozenset[str]


def normal_form(row: Row) -> str:
    """
    Context and question without case and spacing, and without punctuation unless it is mathematics or code. Rows with
    equal forms are the same problem.
    """
    return " ".join(_tokens(f"{row.context} {row.question}", row.domain))


def _tokens(text: str, domain: str) -> list[str]:
    return (_WORD if domain == "qa" else _TOKEN).findall(text if domain == "code" else text.lower())


def shingles(text: str, domain: str = "qa") -> Shingles:
    """Set of all runs of three words (or signs, see [`normal_form`]). A shorter text is a single shingle."""
    tokens = _tokens(text, domain)
    count = max(1, len(tokens) - SHINGLE_WORDS + 1)
    return frozenset(" ".join(tokens[index : index + SHINGLE_WORDS]) for index in range(count))


def near_copies(rows: Sequence[Row], min_similarity: float = NEAR_COPY_SIMILARITY) -> Iterator[tuple[int, int]]:
    """
    Find all pairs of rows whose questions and contexts are both near copies, and that have an answer in common.

    The search is exact. Rows of code have no answers; theirs may be any.

    Args:
        rows (`Sequence[Row]`):
            Rows, in any order.
        min_similarity (`float`, *optional*, defaults to `0.8`):
            Minimum Jaccard similarity of near copies, in (0, 1].

    Yields:
        `tuple[int, int]`: Indices of a pair, the smaller one first, ordered by the larger one.
    """
    questions = [shingles(row.question, row.domain) for row in rows]
    frequency = Counter(shingle for question in questions for shingle in question)
    # Prefix filter: similar sets share at least `min_similarity * len` elements of either, so in a common order at
    # most `len - min_overlap` elements precede the first shared one. Comparing prefixes of that length and one more
    # finds every pair. The order is by rarity, which keeps the lists of candidates short.
    rows_by_shingle: defaultdict[str, list[int]] = defaultdict(list)
    for index, question in enumerate(questions):
        by_rarity = sorted(question, key=lambda shingle: (frequency[shingle], shingle))
        min_overlap = math.ceil(min_similarity * len(question) - ROUNDING_ERROR)
        prefix = by_rarity[: len(question) - min_overlap + 1]
        for candidate in sorted({earlier for shingle in prefix for earlier in rows_by_shingle[shingle]}):
            left, right = rows[index], rows[candidate]
            is_near = similarity(question, questions[candidate]) >= min_similarity
            if is_near and _same_answer(left, right) and _same_context(left, right, min_similarity):
                yield candidate, index
        for shingle in prefix:
            rows_by_shingle[shingle].append(index)


def similarity(left: Shingles, right: Shingles) -> float:
    """Jaccard similarity of two sets, in [0, 1]."""
    return len(left & right) / len(left | right)


def _same_answer(left: Row, right: Row) -> bool:
    """Whether two rows have an answer in common; a problem with other numbers has another one."""
    keys = [{vote_key(answer, row.domain) for answer in row.answer} for row in (left, right)]
    return not all(keys) or bool(keys[0] & keys[1])


def _same_context(left: Row, right: Row, min_similarity: float) -> bool:
    # The usual case, a shared passage or none at all, needs no shingles.
    if left.context == right.context:
        return True
    return similarity(shingles(left.context), shingles(right.context)) >= min_similarity
