"""Data types of operators. A *candidate* is one solution of the problem; a *state* is what flows along `->`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    """What the executor may know of a problem. Gold answers and hidden tests are never in here."""

    question: str
    domain: str = "math"
    """`math`, `code` or `qa`."""
    context: str = ""
    """Passages the question is about."""
    entry_point: str | None = None
    """Function a code task asks for."""
    public_tests: tuple[str, ...] = ()
    """Tests that may be shown, for the `Test` operator."""

    @property
    def statement(self) -> str:
        """Context and question, as every prompt shows them."""
        return f"{self.context}\n\n{self.question}" if self.context else self.question


@dataclass(frozen=True, slots=True)
class Candidate:
    """One solution: the text later operators see, and the bare answer where the operator gave one."""

    text: str
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class State:
    """What an operator starts from and what it leaves."""

    problem: Problem
    candidates: tuple[Candidate, ...] = ()
    feedback: str = ""
    verdict: bool | None = None
    """Last verdict: `False` is negative, `None` means there is none."""

    @property
    def solution(self) -> str:
        """Text of the current solution, empty if there is none yet."""
        return self.candidates[0].text if self.candidates else ""

    def with_candidate(self, candidate: Candidate) -> State:
        """The state after a new solution: feedback and verdict on the old one are gone."""
        return replace(self, candidates=(candidate,), feedback="", verdict=None)

    def fingerprint(self) -> dict[str, Any]:
        """Plain data that decides whether two states are equal for sharing (the problem is keyed apart)."""
        return {
            "candidates": [[candidate.text, candidate.answer] for candidate in self.candidates],
            "feedback": self.feedback,
            "verdict": self.verdict,
        }
