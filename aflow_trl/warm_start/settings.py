"""Data shapes of the warm start."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class WarmStartSettings:
    """
    How the warm start searches and teaches.

    Args:
        policy_samples (`int`, *optional*, defaults to `128`):
            Workflows sampled from the untrained policy.
        grammar_samples (`int`, *optional*, defaults to `64`):
            Random valid workflows.
        forms (`bool`, *optional*, defaults to `True`):
            Whether the usual forms, filled with every operator, are tried as well; see [`~aflow_trl.dsl.forms`].
        workflows (`tuple[str, ...]`, *optional*):
            Workflows to try besides.
        max_calls (`int`, *optional*, defaults to `30000`):
            Most model calls of the search, over all groups of problems; those of an LLM judge come on top.
        winners (`int`, *optional*, defaults to `3`):
            Workflows of each group that the policy is taught.
        by_difficulty (`bool`, *optional*, defaults to `True`):
            Whether hard problems (`hard_from`) of a domain are a group of their own, where rows have a difficulty.
        sft_steps (`int`, *optional*, defaults to `100`):
            Optimiser steps of the fine-tuning.
        sft_batch_size (`int`, *optional*, defaults to `8`):
            Examples a step and process.
        sft_learning_rate (`float`, *optional*, defaults to `1e-4`):
            Its learning rate.
    """

    policy_samples: int = 128
    grammar_samples: int = 64
    forms: bool = True
    workflows: tuple[str, ...] = ()
    max_calls: int = 30_000
    winners: int = 3
    by_difficulty: bool = True
    sft_steps: int = 100
    sft_batch_size: int = 8
    sft_learning_rate: float = 1e-4

    def __post_init__(self) -> None:
        for name in ("max_calls", "winners", "sft_steps", "sft_batch_size"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"warm_start: {name} must be at least 1, got {getattr(self, name)}.")
        if min(self.policy_samples, self.grammar_samples) < 0 or self.sft_learning_rate <= 0:
            raise ValueError("warm_start: samples must be 0 or more and sft_learning_rate positive.")
        if not (self.policy_samples or self.grammar_samples or self.forms or self.workflows):
            raise ValueError(
                "warm_start has nothing to try: give policy_samples, grammar_samples, forms or workflows."
            )


def read_settings(given: Any) -> WarmStartSettings | None:
    """
    Settings from what a recipe or a flag says.

    Args:
        given (`bool`, `dict` or `str`):
            `True` for the defaults, what differs from them, or either as JSON; `None` or `False` for no warm start.

    Raises:
        `ValueError`: It is none of these, or holds an unknown or a wrong setting.
    """
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            raise ValueError(f"warm_start is {given!r}. Give true, or a JSON object of settings.") from None
    if given is None or given is False:
        return None
    if given is True:
        given = {}
    known = [item.name for item in fields(WarmStartSettings)]
    if not isinstance(given, dict) or (unknown := sorted(set(given) - set(known))):
        found = repr(unknown[0]) if isinstance(given, dict) else f"a {type(given).__name__}"
        raise ValueError(f"warm_start: {found} is no setting. Use some of {', '.join(known)}.")
    try:
        return WarmStartSettings(**given | {"workflows": tuple(given.get("workflows", ()))})
    except TypeError as error:
        raise ValueError(f"warm_start: {error}") from None


@dataclass(frozen=True, slots=True)
class Group:
    """Problems for which workflows are searched together."""

    domain: str
    level: str = ""
    """`easy` or `hard`; empty where difficulty plays no part."""

    def __str__(self) -> str:
        return f"{self.domain} {self.level}".strip()


@dataclass(slots=True)
class Candidate:
    """A workflow in the search and how it did."""

    workflow: str
    right: float = 0.0
    """Sum of correctness."""
    scored: int = 0
    """Problems it was scored on."""
    calls: int = 0
    """Model calls its runs used, shared ones included."""
    weight: float = 0.0
    """Share of the examples that teach it, if it won."""

    @property
    def accuracy(self) -> float:
        """Mean correctness; 0 if nothing was scored."""
        return self.right / self.scored if self.scored else 0.0

    @property
    def calls_per_problem(self) -> float:
        """Mean model calls."""
        return self.calls / self.scored if self.scored else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the means."""
        return asdict(self) | {"accuracy": self.accuracy, "calls_per_problem": self.calls_per_problem}
