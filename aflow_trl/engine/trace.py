"""
Data types of an execution: requests, outcomes, and the trace that records a rollout as plain data.

A *rollout* is one completion together with its execution. A *lane* is one candidate on its path through the workflow:
a state with at most one candidate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from dataclasses import fields as dataclass_fields
from enum import Enum
from typing import Any

from ..dsl import ArgumentValue, Extraction, Workflow
from ..operators import Problem


# A string as well, so that it can be serialised and compared with the values in a trace file.
class Outcome(str, Enum):
    """How a rollout ended, which decides what its reward can be."""

    OK = "ok"
    """Executed; scored."""
    INVALID = "invalid"
    """The policy wrote no valid workflow; reward 0."""
    OVER_BUDGET = "over_budget"
    """The workflow exceeded its budget of calls or tokens; reward 0."""
    UNAVAILABLE = "unavailable"
    """The infrastructure failed; no reward at all."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Budget of one workflow. Usage counts as if the workflow ran alone, so sharing never changes an outcome."""

    max_calls: int = 40
    """Maximum number of model calls, without those that repeat a malformed reply."""
    max_tokens: int = 100_000
    """Maximum number of prompt and completion tokens."""


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """A workflow to run on a problem."""

    workflow: Workflow | Extraction | str
    """Workflow; a string is read as a completion."""
    problem: Problem
    group: str = ""
    """Group of the rollout; it matters only where calls are shared within groups."""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """Record of one run of an operator: what it returned, used and cost."""

    operator: str
    arguments: dict[str, ArgumentValue]
    sample: int
    """Number of equal calls that the workflow made before this one."""
    key: str
    """Digest of operator, arguments, problem, incoming state, sample and salt; equal keys are one execution."""
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
    model: str = ""
    """Model of the executor that it called."""
    queued_s: float = 0.0
    """Seconds of them that its calls waited for our own limits on requests."""
    calls_s: float = 0.0
    """Seconds that its calls were with the endpoint."""
    shared: bool = False
    """Whether another rollout or an earlier node started this execution, and so pays for it."""
    parse_errors: int = 0
    asked_again: int = 0
    """Calls made because of a malformed reply; they do not count towards the workflow's budget."""
    truncated: int = 0
    """Replies cut at the maximum number of tokens."""
    refused: int = 0
    """Replies without text: a refusal, a content filter, an empty reply."""
    thought_out: int = 0
    """Replies of which all tokens went into thinking."""
    thinking: str = ""
    """What the model thought before its last reply, where the endpoint shows it."""
    rejected: int = 0
    """Requests that the endpoint rejected: too long, or against its content policy."""
    cached_calls: int = 0
    """Model calls answered from the disk cache."""
    paid_usd: float | None = 0.0
    """USD of the calls that were sent; `None` if a price is unknown."""
    failure: str = ""
    """Error of an operator that failed, empty otherwise."""


@dataclass(slots=True)
class Trace:
    """
    Record of one rollout.

    Calls, tokens and USD count what the workflow used; `paid_*` count only what it caused, without the executions it
    shares and the replies from the disk cache.
    """

    outcome: Outcome
    problem: Problem
    workflow: str | None = None
    """Canonical text, from which the AST can be parsed; `None` if the workflow is invalid."""
    label: str = ""
    """Label of the DSL error of an invalid workflow; for other failures, a short reason."""
    detail: str = ""
    repairs: tuple[str, ...] = ()
    answer: str = ""
    first_answer: str = ""
    """Answer of the first candidate, before any operator improved on it."""
    operators: tuple[str, ...] = ()
    """Operators written in the workflow, with repetition."""
    depth: int = 0
    nodes: list[NodeRecord] = field(default_factory=list)
    wall_s: float = 0.0
    critical_path_s: float = 0.0
    """Seconds of the operator runs that had to run one after the other, without the waits for our own limits."""

    @property
    def model_calls(self) -> int:
        """Model calls the workflow used."""
        return sum(node.model_calls for node in self.nodes)

    @property
    def paid_calls(self) -> int:
        """Model calls sent for this rollout."""
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
        """USD of the calls sent for this rollout; `None` if a price is unknown."""
        return total(node.paid_usd for node in self.nodes if not node.shared)

    @property
    def parse_errors(self) -> int:
        """Malformed replies of the executor."""
        return sum(node.parse_errors for node in self.nodes)

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON-serialisable data; [`read_trace`] inverts it."""
        # For readers of the file; `read_trace` ignores them and computes them from the nodes again.
        totals = {
            "model_calls": self.model_calls,
            "paid_calls": self.paid_calls,
            "tokens": self.tokens,
            "usd": self.usd,
        }
        return asdict(self) | {"outcome": self.outcome.value} | totals


def read_trace(data: Mapping[str, Any]) -> Trace:
    """
    Restore a trace from the data that [`Trace.to_json`] returned.

    Args:
        data (`Mapping[str, Any]`):
            Parsed JSON; keys that are not fields of a trace are ignored.

    Returns:
        [`Trace`]: The trace.
    """
    names = {item.name for item in dataclass_fields(Trace)}
    fields = {name: value for name, value in data.items() if name in names}
    # JSON has neither enums nor tuples nor dataclasses.
    fields["outcome"] = Outcome(fields["outcome"])
    fields["problem"] = Problem(**fields["problem"] | {"public_tests": tuple(fields["problem"]["public_tests"])})
    fields["repairs"], fields["operators"] = tuple(fields["repairs"]), tuple(fields["operators"])
    fields["nodes"] = [NodeRecord(**node) for node in fields["nodes"]]
    return Trace(**fields)


def total(costs: Iterable[float | None]) -> float | None:
    """Sum of costs; `None` if any of them is unknown."""
    costs = list(costs)
    known_costs = [cost for cost in costs if cost is not None]
    return float(sum(known_costs)) if len(known_costs) == len(costs) else None
