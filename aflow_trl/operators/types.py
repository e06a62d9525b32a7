"""Data types of operators. A *candidate* is a solution of the problem; a *state* is what flows along `->`."""

from __future__ import annotations

from dataclasses import dataclass, replace


# Gold answers and hidden tests have no field here: an operator cannot leak what it never receives.
@dataclass(frozen=True, slots=True)
class Problem:
    """The part of a problem that the executor may see."""

    question: str
    domain: str = "math"
    """`math`, `code` or `qa`."""
    context: str = ""
    """Passages the question refers to."""
    entry_point: str | None = None
    """Name of the function that a programming task asks for."""
    public_tests: tuple[str, ...] = ()
    """Tests that the `Test` operator runs and may show to the model."""

    @property
    def statement(self) -> str:
        """Context and question, as every prompt presents them."""
        return f"{self.context}\n\n{self.question}" if self.context else self.question


@dataclass(frozen=True, slots=True)
class Candidate:
    """A solution: the text that later operators see, and the bare answer if the operator returned one separately."""

    text: str
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class State:
    """Input and output of an operator."""

    problem: Problem
    candidates: tuple[Candidate, ...] = ()
    feedback: str = ""
    verdict: bool | None = None
    """Latest verdict on the current solution: `False` is negative, `None` means there is none."""

    @property
    def solution(self) -> str:
        """Text of the current solution, empty if there is none yet."""
        return self.candidates[0].text if self.candidates else ""

    def with_candidate(self, candidate: Candidate) -> State:
        """State with a new solution; feedback and verdict are cleared, since they judged the previous one."""
        return replace(self, candidates=(candidate,), feedback="", verdict=None)

    def fingerprint(self) -> dict[str, object]:
        """Plain data that is equal for equal states of the same problem; the problem itself is keyed separately."""
        return {
            "candidates": [[candidate.text, candidate.answer] for candidate in self.candidates],
            "feedback": self.feedback,
            "verdict": self.verdict,
        }
