"""
Reward functions that belong to a rollout service.

TRL wants plain functions. What the trainer has to know beside them (which service executes, the default weight, how to
score a probe) is attached to the function as a [`RewardBinding`].
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from ..errors import DataError
from ..rollouts import Rollouts, RowColumns
from ..scoring import domain_remedy, known_domains

RewardFunction: TypeAlias = Callable[..., Coroutine[Any, Any, list[float | None]]]
"""`async f(prompts, completions, **columns) -> list[float | None]`, as TRL calls it."""


class ProbeScorer(Protocol):
    """Scores completions of a probe; see [`~aflow_trl.rollouts.Rollouts.score_probe`]."""

    def __call__(
        self, texts: Sequence[str], rows: Sequence[RowColumns], *, seed: int, step: int
    ) -> Awaitable[dict[str, list[bool]]]: ...


@dataclass(frozen=True, slots=True)
class RewardBinding:
    """What a reward function of this package is bound to."""

    rollouts: Rollouts
    """Service that executes the batch."""
    score_probe: ProbeScorer
    default_weight: float
    """Weight where `reward_weights` is not given."""
    columns: tuple[str, ...]
    """Columns of the dataset that it cannot do without."""

    def check(self, dataset: Any) -> None:
        """
        Refuse a dataset that it cannot score; one that is read as a stream is not looked at.

        Raises:
            [`DataError`]: A column is missing, or nothing scores the domain of a row.
        """
        names = getattr(dataset, "column_names", None)
        if not isinstance(names, list):
            return
        if missing := sorted(set(self.columns) - set(names)):
            raise DataError(
                f"the dataset has no column {missing[0]!r}. Rewards that execute workflows need "
                f"{', '.join(self.columns)}; docs/data.md describes the columns."
            )
        if "domain" not in names or not hasattr(dataset, "unique"):
            return
        for domain in dataset.unique("domain"):
            if domain and domain not in known_domains():
                raise DataError(f"the dataset has rows of the domain {domain!r}. {domain_remedy()}")


def bind(function: RewardFunction, name: str, binding: RewardBinding) -> RewardFunction:
    """Name a reward function, as TRL's metrics will, and attach its binding."""
    function.__name__ = function.__qualname__ = name
    function.__dict__["binding"] = binding
    return function


def reward_binding(function: object) -> RewardBinding | None:
    """The binding of a reward function; `None` for a function from elsewhere."""
    binding = getattr(function, "__dict__", {}).get("binding")
    return binding if isinstance(binding, RewardBinding) else None
