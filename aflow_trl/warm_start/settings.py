"""Settings of the warm start."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class WarmStartSettings:
    """
    Settings of the search and of the fine-tuning.

    Args:
        policy_samples (`int`, *optional*, defaults to `128`):
            Number of workflows sampled from the untrained policy.
        grammar_samples (`int`, *optional*, defaults to `64`):
            Number of random valid workflows.
        forms (`bool`, *optional*, defaults to `True`):
            Whether the common templates, filled with every operator, are candidates; see
            [`~aflow_trl.dsl.workflow_templates`].
        workflows (`tuple[str, ...]`, *optional*):
            Further candidates. They are dropped last where the budget is too small for all.
        max_calls (`int`, *optional*, defaults to `30000`):
            Maximum number of model calls of the search, over all groups of problems, without those of an LLM judge.
        winners (`int`, *optional*, defaults to `3`):
            Number of workflows per group that the policy is fine-tuned on.
        by_difficulty (`bool`, *optional*, defaults to `True`):
            Whether hard problems (`hard_from`) of a domain form a separate group, where rows have a difficulty.
        sft_steps (`int`, *optional*, defaults to `100`):
            Number of optimiser steps of the fine-tuning.
        sft_batch_size (`int`, *optional*, defaults to `8`):
            Number of examples per step and process.
        sft_learning_rate (`float`, *optional*, defaults to `1e-4`):
            Learning rate of the fine-tuning.
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
            raise ValueError(
                "warm_start: policy_samples and grammar_samples must be 0 or more and sft_learning_rate positive, got "
                f"{self.policy_samples}, {self.grammar_samples} and {self.sft_learning_rate:g}."
            )
        if not (self.policy_samples or self.grammar_samples or self.forms or self.workflows):
            raise ValueError(
                "warm_start has nothing to try: give policy_samples, grammar_samples, forms or workflows."
            )


def read_settings(value: object) -> WarmStartSettings | None:
    """
    Settings from the value of `warm_start` in a recipe or on the command line.

    Args:
        value (`bool`, `dict` or `str`, *optional*):
            `True` for the defaults, a mapping of the settings that differ from them, or either as JSON; `None` or
            `False` for no warm start.

    Returns:
        [`WarmStartSettings`], *optional*: `None` for no warm start.

    Raises:
        `ValueError`: The value is none of these, or holds an unknown or invalid setting.
    """
    # A flag is text; the value in a recipe is parsed already.
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(f"warm_start is {value!r}. Give true, or a JSON object of settings.") from None
    if value is None or value is False:
        return None
    if value is True:
        value = {}
    names = [item.name for item in fields(WarmStartSettings)]
    if not isinstance(value, Mapping) or (unknown := sorted(set(value) - set(names))):
        invalid = repr(unknown[0]) if isinstance(value, Mapping) else f"a {type(value).__name__}"
        raise ValueError(f"warm_start: {invalid} is no setting. Use some of {', '.join(names)}.")
    try:
        return WarmStartSettings(**dict(value) | {"workflows": tuple(value.get("workflows") or ())})
    except TypeError as error:
        raise ValueError(f"warm_start: {error}") from None
