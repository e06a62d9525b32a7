"""Data types of the search: groups of problems, candidates, requests and their results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Group:
    """Problems for which workflows are searched together."""

    domain: str
    level: str = ""
    """`easy` or `hard`; empty where difficulty is ignored."""

    def __str__(self) -> str:
        return f"{self.domain} {self.level}".strip()


@dataclass(slots=True)
class Candidate:
    """A workflow in the search and its results so far."""

    workflow: str
    right: float = 0.0
    """Sum of correctness."""
    scored: int = 0
    """Number of problems that it was scored on."""
    calls: int = 0
    """Model calls that its runs used, shared ones included."""
    weight: float = 0.0
    """Share of the fine-tuning examples that show it, if it won."""

    @property
    def accuracy(self) -> float:
        """Mean correctness; 0 if nothing was scored."""
        return self.right / self.scored if self.scored else 0.0

    @property
    def calls_per_problem(self) -> float:
        """Mean number of model calls."""
        return self.calls / self.scored if self.scored else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the means."""
        return asdict(self) | {"accuracy": self.accuracy, "calls_per_problem": self.calls_per_problem}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Candidate:
        """The candidate that [`Candidate.to_json`] wrote."""
        return cls(**{item.name: content[item.name] for item in fields(cls)})


@dataclass(frozen=True, slots=True)
class EvalRequest:
    """A workflow to run on a problem."""

    group: Group
    row: int
    """Index of the problem in its group."""
    workflow: str


@dataclass(frozen=True, slots=True)
class EvalResult:
    """Result of a request."""

    correctness: float | None
    """`None` if the infrastructure failed."""
    calls: int
    """Model calls used."""
    paid: int
    """Model calls made for it; the others were shared."""
