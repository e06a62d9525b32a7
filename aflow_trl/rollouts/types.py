"""Data types of rewards."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..engine import Outcome, Trace, read_trace
from ..scoring import Score


@dataclass(frozen=True, slots=True)
class ScoredRollout:
    """A trace with what its answer is worth."""

    trace: Trace
    domain: str
    score: Score | None
    """Score of the final answer; `None` if there is none to give (no valid execution, or unscored)."""
    first_score: Score | None
    """Score of the first candidate, before Revise, Test and the like."""
    correctness: float | None
    """Primary reward in [0, 1]; `None` means unscored: infrastructure failed, nobody is to blame."""
    prompt_id: str
    """Same for every rollout of one problem."""
    metadata: dict[str, Any]

    @property
    def correct(self) -> bool:
        """Whether the answer is right."""
        return self.correctness == 1.0

    @property
    def revise_gain(self) -> float:
        """How much better the final answer is than the first one, in [-1, 1]."""
        if self.score is None or self.first_score is None:
            return 0.0
        return self.score.value - self.first_score.value

    @property
    def executed(self) -> float:
        """Share of operator runs that ended without a failure of their own."""
        nodes = self.trace.nodes
        return sum(not node.failure for node in nodes) / len(nodes) if nodes else 0.0

    @property
    def progress(self) -> float:
        """
        How far a rollout that is not right has come, in [0, 1]: valid, executed, partly right. Being cheap is no part
        of it.
        """
        if self.trace.outcome is Outcome.INVALID:
            return 0.0
        partial = self.score.partial if self.score else 0.0
        return 0.25 + 0.25 * self.executed + 0.4 * partial + 0.1 * max(0.0, self.revise_gain)

    def to_json(self) -> dict[str, Any]:
        """Plain data, enough to compute every reward again."""
        return {
            "domain": self.domain,
            "correctness": self.correctness,
            "score": None if self.score is None else asdict(self.score),
            "first_score": None if self.first_score is None else asdict(self.first_score),
            "prompt_id": self.prompt_id,
            "metadata": self.metadata,
            "trace": self.trace.to_json(),
        }


def read_rollout(fields: dict[str, Any]) -> ScoredRollout:
    """The rollout that [`ScoredRollout.to_json`] wrote."""
    score, first = (None if fields[name] is None else Score(**fields[name]) for name in ("score", "first_score"))
    trace = read_trace(fields["trace"])
    own = (fields["correctness"], fields["prompt_id"], fields["metadata"])
    return ScoredRollout(trace, fields["domain"], score, first, *own)
