"""Data types of scored rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..engine import Outcome, Trace, read_trace
from ..scoring import NO_ANSWER, WRONG_TYPE, Score


@dataclass(frozen=True, slots=True)
class ScoredRollout:
    """A trace and the score of its answer."""

    trace: Trace
    domain: str
    score: Score | None
    """Score of the final answer; `None` if there is nothing to score (no valid execution) or the scorer failed."""
    first_score: Score | None
    """Score of the first candidate, before any operator improved on it."""
    correctness: float | None
    """Primary reward in [0, 1]; `None` means unscored: the infrastructure failed and nobody is to blame."""
    prompt_id: str
    """Identifies the problem: equal for all rollouts of one problem."""
    metadata: Mapping[str, Any]
    """`id`, `source`, `difficulty` and `budget` of the row."""
    scoring_s: float = 0.0
    """Seconds from the end of the workflow to its score."""

    @property
    def lost(self) -> bool:
        """Whether it says nothing about its workflow: it is unscored, or most of its requests were rejected."""
        rejected = sum(node.rejected for node in self.trace.nodes)
        return self.correctness is None or rejected > sum(node.model_calls for node in self.trace.nodes)

    @property
    def correct(self) -> bool:
        """Whether the answer is right."""
        return self.correctness == 1.0

    @property
    def revise_gain(self) -> float:
        """Score of the final answer minus score of the first candidate, in [-1, 1]."""
        if self.score is None or self.first_score is None:
            return 0.0
        return self.score.value - self.first_score.value

    @property
    def executed(self) -> float:
        """Share of operator runs that did not fail."""
        nodes = self.trace.nodes
        return sum(not node.failure for node in nodes) / len(nodes) if nodes else 0.0

    @property
    def progress(self) -> float:
        """
        How close a wrong rollout came, in [0, 1]: valid, ended with an answer of the right kind, partly right.

        Only the final answer counts. Merit on the way could be had for nothing, by operators that do nothing or by a
        first draft that is meant to be revised. Cost plays no part, or the cheapest wrong workflow would be the best
        of an all-wrong group.
        """
        if self.trace.outcome is Outcome.INVALID:
            return 0.0
        if self.score is None or self.score.label in (NO_ANSWER, WRONG_TYPE):
            return 0.25
        return 0.5 + 0.5 * self.score.partial

    def to_json(self) -> dict[str, Any]:
        """Plain data that [`read_rollout`] turns back into the rollout."""
        return {
            "domain": self.domain,
            "correctness": self.correctness,
            "score": None if self.score is None else asdict(self.score),
            "first_score": None if self.first_score is None else asdict(self.first_score),
            "prompt_id": self.prompt_id,
            "metadata": dict(self.metadata),
            "scoring_s": self.scoring_s,
            "trace": self.trace.to_json(),
        }


def read_rollout(fields: Mapping[str, Any]) -> ScoredRollout:
    """The rollout that [`ScoredRollout.to_json`] wrote."""
    score, first_score = (None if fields[name] is None else Score(**fields[name]) for name in ("score", "first_score"))
    return ScoredRollout(
        read_trace(fields["trace"]),
        fields["domain"],
        score,
        first_score,
        fields["correctness"],
        fields["prompt_id"],
        fields["metadata"],
        fields.get("scoring_s", 0.0),
    )
