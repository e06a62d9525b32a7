"""The five reward functions of workflow composition, in the form TRL calls them; all share one execution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..dsl import Limits, Vocabulary
from ..errors import RecipeError
from ..rollouts import Rollouts, ScoredRollout
from . import values
from .binding import RewardBinding, RewardFunction, bind

DEFAULT_WEIGHTS = {
    "correctness_reward": 0.65,
    "efficiency_reward": 0.15,
    "simplicity_reward": 0.10,
    "format_reward": 0.05,
    "repetition_reward": 0.05,
}
"""Reward functions by name, with their default weights; the first is primary."""


def reward_values(
    name: str, rollouts: Sequence[ScoredRollout], *, gate_secondary: bool, vocabulary: Vocabulary, limits: Limits
) -> list[float | None]:
    """
    Values of one reward function for a batch. Training and replay both call it.

    Args:
        name (`str`):
            Reward function.
        rollouts (`Sequence[ScoredRollout]`):
            The batch.
        gate_secondary (`bool`):
            Whether the secondary rewards count only where the answer is right.
        vocabulary (`Mapping[str, OperatorSpec]`):
            Operators that a workflow may name.
        limits ([`~aflow_trl.dsl.Limits`]):
            Static limits of a workflow.

    Returns:
        `list[float | None]`: In [0, 1]; `None` where the infrastructure failed.
    """

    def value(rollout: ScoredRollout) -> float | None:
        if rollout.correctness is None or name == "correctness_reward":
            return rollout.correctness
        # A secondary term: nothing without a valid workflow, and by default nothing without a right answer, so that a
        # cheap wrong workflow never outranks a costly right one.
        if not (rollout.correct if gate_secondary else rollout.trace.workflow is not None):
            return 0.0
        if name == "repetition_reward":
            return values.novelty(rollout, vocabulary, limits)
        return _SECONDARY[name](rollout)

    return [value(rollout) for rollout in rollouts]


_SECONDARY: dict[str, Callable[[ScoredRollout], float]] = {
    "efficiency_reward": values.efficiency,
    "simplicity_reward": values.simplicity,
    "format_reward": values.format_quality,
}


async def correctness_reward(
    prompts: Sequence[Any], completions: Sequence[Any], *, rollouts: Rollouts, **columns: Any
) -> list[float | None]:
    """
    Score of the answer the workflow gave: in [0, 1], `None` if infrastructure failed.

    Args:
        prompts (`Sequence`):
            Prompts of the batch.
        completions (`Sequence`):
            Completions of the batch.
        rollouts ([`~aflow_trl.rollouts.Rollouts`]):
            Shared execution; [`workflow_rewards`] binds it.
        **columns:
            Dataset columns (`question`, `answer`, `domain`, …) and the other arguments that TRL passes.

    Returns:
        `list[float | None]`: One reward for each completion.
    """
    return await _rewards("correctness_reward", completions, rollouts, columns)


async def efficiency_reward(
    prompts: Sequence[Any], completions: Sequence[Any], *, rollouts: Rollouts, **columns: Any
) -> list[float | None]:
    """Falls with the model calls and tokens the workflow spent. Arguments as in [`correctness_reward`]."""
    return await _rewards("efficiency_reward", completions, rollouts, columns)


async def simplicity_reward(
    prompts: Sequence[Any], completions: Sequence[Any], *, rollouts: Rollouts, **columns: Any
) -> list[float | None]:
    """Falls with the size and depth of the workflow. Arguments as in [`correctness_reward`]."""
    return await _rewards("simplicity_reward", completions, rollouts, columns)


async def format_reward(
    prompts: Sequence[Any], completions: Sequence[Any], *, rollouts: Rollouts, **columns: Any
) -> list[float | None]:
    """1 clean, 0.5 repaired, 0 invalid. Arguments as in [`correctness_reward`]."""
    return await _rewards("format_reward", completions, rollouts, columns)


async def repetition_reward(
    prompts: Sequence[Any], completions: Sequence[Any], *, rollouts: Rollouts, **columns: Any
) -> list[float | None]:
    """1 minus the share of steps that repeat. Arguments as in [`correctness_reward`]."""
    return await _rewards("repetition_reward", completions, rollouts, columns)


async def _rewards(
    name: str, completions: Sequence[Any], rollouts: Rollouts, columns: Mapping[str, Any]
) -> list[float | None]:
    batch = await rollouts.batch(completions, columns)
    return reward_values(
        name,
        batch.rollouts,
        gate_secondary=rollouts.gate_secondary,
        vocabulary=rollouts.engine.vocabulary,
        limits=rollouts.engine.limits,
    )


_FUNCTIONS: dict[str, RewardFunction] = {
    function.__name__: function
    for function in (correctness_reward, efficiency_reward, simplicity_reward, format_reward, repetition_reward)
}


def workflow_rewards(rollouts: Rollouts, names: Sequence[str] | None = None) -> list[RewardFunction]:
    """
    Reward functions bound to one execution, for any TRL trainer that takes reward functions.

    Args:
        rollouts ([`~aflow_trl.rollouts.Rollouts`]):
            Execution that they share.
        names (`Sequence[str]`, *optional*):
            Which of them, in which order. Defaults to all five; the first is primary.

    Returns:
        `list[Callable]`: Async functions `f(prompts, completions, **columns) -> list[float | None]`.

    Raises:
        [`RecipeError`]: There is no reward function of that name.

    Example:

    ```python
    trainer = GRPOTrainer(model, reward_funcs=workflow_rewards(Rollouts(engine)), args=args, train_dataset=dataset)
    ```
    """
    return [_bound(name, rollouts) for name in (DEFAULT_WEIGHTS if names is None else names)]


def _bound(name: str, rollouts: Rollouts) -> RewardFunction:
    if name not in _FUNCTIONS:
        raise RecipeError(f"unknown reward function {name!r}. Use some of {', '.join(_FUNCTIONS)}.")
    function = _FUNCTIONS[name]

    async def bound(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        return await function(prompts, completions, rollouts=rollouts, **columns)

    return bind(
        bound, name, RewardBinding(rollouts, rollouts.score_probe, DEFAULT_WEIGHTS[name], ("question", "answer"))
    )
