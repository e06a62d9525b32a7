"""What was paid for, by operator and by domain, from each reply's own usage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields

from .types import ScoredRollout


@dataclass(slots=True)
class Account:
    """Sums of one operator or domain."""

    model_calls: int = 0
    """Calls paid for here."""
    shared_calls: int = 0
    """Calls that another rollout had paid for."""
    cached_calls: int = 0
    """Calls whose reply was on disk."""
    prompt_tokens: int = 0
    """Of the calls that were not shared; those on disk included."""
    completion_tokens: int = 0
    usd: float | None = 0.0
    """USD of the calls paid for; `None` if a price is unknown."""

    def add(self, other: Account) -> None:
        """Add the sums of another account."""
        for item in fields(self):
            ours, theirs = getattr(self, item.name), getattr(other, item.name)
            setattr(self, item.name, None if ours is None or theirs is None else ours + theirs)


@dataclass(slots=True)
class Ledger:
    """Accounts of a run, or of a part of it."""

    by_operator: dict[str, Account] = field(default_factory=dict)
    by_domain: dict[str, Account] = field(default_factory=dict)

    def record(self, rollouts: Sequence[ScoredRollout]) -> None:
        """Add what a batch paid."""
        for rollout in rollouts:
            for node in rollout.trace.nodes:
                if node.shared:
                    entry = Account(shared_calls=node.model_calls, usd=0.0)
                else:
                    paid = node.model_calls - node.cached_calls
                    tokens = node.prompt_tokens, node.completion_tokens
                    entry = Account(paid, 0, node.cached_calls, *tokens, node.paid_usd)
                self.by_operator.setdefault(node.operator, Account()).add(entry)
                self.by_domain.setdefault(rollout.domain, Account()).add(entry)

    @classmethod
    def sum(cls, ledgers: Iterable[Ledger]) -> Ledger:
        """One ledger for all processes."""
        total = cls()
        for ledger in ledgers:
            for ours, theirs in ((total.by_operator, ledger.by_operator), (total.by_domain, ledger.by_domain)):
                for name, account in theirs.items():
                    ours.setdefault(name, Account()).add(account)
        return total

    def to_json(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Plain data, names in order."""
        parts = {"by_operator": self.by_operator, "by_domain": self.by_domain}
        return {part: {name: asdict(own[name]) for name in sorted(own)} for part, own in parts.items()}
