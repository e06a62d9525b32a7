"""
Data types of an execution. A *rollout* is one completion with what became of it; its *trace* is plain data.

A *lane* is one candidate on its way through the workflow: a state with at most one candidate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from dataclasses import fields as dataclass_fields
from enum import Enum
from typing import Any

from ..dsl import Extraction, Workflow
from ..operators import Problem


class Outcome(str, Enum):
    """How a rollout ended, and so what its reward may be."""

    OK = "ok"
    """Executed; scored."""
    INVALID = "invalid"
    """The policy wrote no valid workflow; reward 0."""
    OVER_BUDGET = "over_budget"
    """The workflow spent more than its calls or tokens; reward 0."""
    UNAVAILABLE = "unavailable"
    """Infrastructure failed; no reward at all."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What one workflow may spend. Counted as if it ran alone, so sharing never changes an outcome."""

    max_calls: int = 40
    max_tokens: int = 100_000


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """One workflow to run on one problem. A text is taken for a completion."""

    workflow: Workflow | Extraction | str
    problem: Problem
    group: str = ""
    """Group it belongs to; matters only where calls are shared inside groups alone."""


@dataclass(slots=True)
class NodeRecord:
    """One run of an operator inside a rollout."""

    operator: str
    arguments: dict[str, Any]
    sample: int
    """How many equal calls the workflow made before this one."""
    key: str
    """Digest of operator, arguments, incoming state, sample and salt: equal keys are one execution."""
    text: str
    answer: str | None
    feedback: str
    verdict: bool | None
    model_calls: int
    prompt_tokens: int
    completion_tokens: int
    estimated_usage: bool
    usd: float | None
    wall_s: float
    shared: bool
    """Whether another rollout, or an earlier node, had paid for it."""
    parse_errors: int = 0
    asked_again: int = 0
    """Calls made because a reply was malformed; no part of the workflow's budget."""
    truncated: int = 0
    """Replies cut at the most tokens."""
    refused: int = 0
    """Replies without text: a refusal, a filter, nothing."""
    rejected: int = 0
    """Requests that the endpoint would not take: too long, against its policy."""
    cached_calls: int = 0
    """Model calls whose reply was on disk."""
    paid_usd: float | None = 0.0
    """USD of the others; `None` if a price is unknown."""
    failure: str = ""


@dataclass(slots=True)
class Trace:
    """
    What became of one completion. Calls, tokens and USD count what the workflow used; `paid_*` only what it caused.
    """

    outcome: Outcome
    problem: Problem
    workflow: str | None = None
    """Canonical text; parsing it gives the AST back."""
    label: str = ""
    """For an invalid workflow: the DSL error's label; else a short reason where there is one."""
    detail: str = ""
    repairs: tuple[str, ...] = ()
    answer: str = ""
    first_answer: str = ""
    """Answer of the first candidate the workflow had, before anything improved on it."""
    operators: tuple[str, ...] = ()
    """Operators written in the workflow."""
    depth: int = 0
    nodes: list[NodeRecord] = field(default_factory=list)
    wall_s: float = 0.0
    critical_path_s: float = 0.0
    """Seconds of the operator runs that had to follow one another."""

    @property
    def model_calls(self) -> int:
        """Model calls the workflow used."""
        return sum(node.model_calls for node in self.nodes)

    @property
    def paid_calls(self) -> int:
        """Model calls made for this rollout that nobody else had made."""
        return sum(node.model_calls - node.cached_calls for node in self.nodes if not node.shared)

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens the workflow used."""
        return sum(node.prompt_tokens + node.completion_tokens for node in self.nodes)

    @property
    def usd(self) -> float | None:
        """USD the workflow used; `None` if a price is unknown."""
        return total(node.usd for node in self.nodes)

    @property
    def paid_usd(self) -> float | None:
        """USD caused by this rollout; `None` if a price is unknown."""
        return total(node.paid_usd for node in self.nodes if not node.shared)

    @property
    def parse_errors(self) -> int:
        """Malformed replies of the executor."""
        return sum(node.parse_errors for node in self.nodes)

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the sums beside the nodes."""
        totals = {
            "model_calls": self.model_calls,
            "paid_calls": self.paid_calls,
            "tokens": self.tokens,
            "usd": self.usd,
        }
        return asdict(self) | {"outcome": self.outcome.value} | totals


def read_trace(fields: dict[str, Any]) -> Trace:
    """The trace that [`Trace.to_json`] wrote, its sums left out."""
    known = {item.name for item in dataclass_fields(Trace)}
    own = {name: value for name, value in fields.items() if name in known}
    own["outcome"] = Outcome(own["outcome"])
    own["problem"] = Problem(**own["problem"] | {"public_tests": tuple(own["problem"]["public_tests"])})
    own["repairs"], own["operators"] = tuple(own["repairs"]), tuple(own["operators"])
    own["nodes"] = [NodeRecord(**node) for node in own["nodes"]]
    return Trace(**own)


def total(costs: Iterable[float | None]) -> float | None:
    """Sum of costs; `None` if one is unknown."""
    known: list[float] = []
    for cost in costs:
        if cost is None:
            return None
        known.append(cost)
    return float(sum(known))
