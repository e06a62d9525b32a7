"""What was paid for, by operator, by domain and by model, from the usage of each reply."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from .types import ScoredRollout

PARTS = ("by_operator", "by_domain", "by_model")


@dataclass(slots=True)
class Account:
    """Totals of one operator, domain or model."""

    model_calls: int = 0
    """Calls paid for here."""
    shared_calls: int = 0
    """Calls that another rollout had paid for."""
    cached_calls: int = 0
    """Calls whose reply was on disk."""
    prompt_tokens: int = 0
    """Prompt tokens of the calls that were not shared, those answered from disk included."""
    completion_tokens: int = 0
    usd: float | None = 0.0
    """USD of the calls paid for; `None` if a price is unknown."""

    def add(self, other: Account) -> None:
        """Add the totals of another account."""
        self.model_calls += other.model_calls
        self.shared_calls += other.shared_calls
        self.cached_calls += other.cached_calls
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        # An unknown price makes the sum unknown, never 0.
        self.usd = None if self.usd is None or other.usd is None else self.usd + other.usd


@dataclass(slots=True)
class Ledger:
    """Accounts of a run, or of a part of it."""

    by_operator: dict[str, Account] = field(default_factory=dict)
    by_domain: dict[str, Account] = field(default_factory=dict)
    by_model: dict[str, Account] = field(default_factory=dict)

    def record(self, rollouts: Sequence[ScoredRollout]) -> None:
        """Add what a batch paid."""
        for rollout in rollouts:
            for node in rollout.trace.nodes:
                if node.shared:
                    entry = Account(shared_calls=node.model_calls, usd=0.0)
                else:
                    entry = Account(
                        model_calls=node.model_calls - node.cached_calls,
                        cached_calls=node.cached_calls,
                        prompt_tokens=node.prompt_tokens,
                        completion_tokens=node.completion_tokens,
                        usd=node.paid_usd,
                    )
                self.by_operator.setdefault(node.operator, Account()).add(entry)
                self.by_domain.setdefault(rollout.domain, Account()).add(entry)
                self.by_model.setdefault(node.model, Account()).add(entry)

    @classmethod
    def sum(cls, ledgers: Iterable[Ledger]) -> Ledger:
        """One ledger for all processes."""
        total = cls()
        for ledger in ledgers:
            for part in PARTS:
                accounts: dict[str, Account] = getattr(total, part)
                for name, account in getattr(ledger, part).items():
                    accounts.setdefault(name, Account()).add(account)
        return total

    def to_json(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Plain data, names in order."""
        return {
            part: {name: asdict(account) for name, account in sorted(getattr(self, part).items())} for part in PARTS
        }
