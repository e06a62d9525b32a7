"""The answer of a candidate."""

from __future__ import annotations

from ..answers import extract_answer
from .types import Candidate


def final_answer(candidate: Candidate, domain: str) -> str:
    """Bare answer of a candidate: the one its operator returned, else the one its text states."""
    return candidate.answer if candidate.answer is not None else extract_answer(candidate.text, domain)
