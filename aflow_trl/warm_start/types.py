"""Data types of the search: groups of problems, candidates, requests and their results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Group:
    """A group of problems that share a search."""

    domain: str
    level: str = ""
    """`easy` or `hard`; empty where difficulty is ignored."""
    budget: str = ""
    """Budget that its workflows are chosen for; empty where there are none."""

    def __str__(self) -> str:
        name = f"{self.domain} {self.level}".strip()
        return f"{name}, {self.budget} budget" if self.budget else name


@dataclass(slots=True)
class Candidate:
    """A workflow in a search, with its results so far."""

    workflow: str
    right: float = 0.0
    """Sum of correctness over the scored problems."""
    scored: int = 0
    """Number of problems on which it was scored."""
    calls: int = 0
    """Model calls that its runs used, shared ones included."""
    usd: float = 0.0
    """Cost of its runs in USD, shared calls included."""
    weight: float = 0.0
    """Share of the fine-tuning examples with this workflow, if it won."""

    @property
    def accuracy(self) -> float:
        """Mean correctness; 0 if no problem was scored."""
        return self.right / self.scored if self.scored else 0.0

    @property
    def calls_per_problem(self) -> float:
        """Mean number of model calls; 0 if no problem was scored."""
        return self.calls / self.scored if self.scored else 0.0

    def cost(self, unit: str) -> float:
        """Mean cost of a run in `model_calls` or `usd`; 0 if no problem was scored."""
        if unit == "model_calls":
            return self.calls_per_problem
        return self.usd / self.scored if self.scored else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain data, including the means."""
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
    """Model calls made for it, without those shared with other runs."""
    usd: float | None = None
    """Cost of the calls used; `None` if a price is unknown."""
