"""TRL reward functions that execute workflows. All of them share one execution of the batch."""

from .compose import (
    DEFAULT_WEIGHTS,
    correctness_reward,
    efficiency_reward,
    format_reward,
    repetition_reward,
    reward_value,
    simplicity_reward,
    workflow_rewards,
)
from .improve import IMPROVE_WEIGHTS, Gain, Improvements, improvement_rewards
from .reason import REASON_WEIGHTS, reasoning_rewards, stated_answer

__all__ = [
    "DEFAULT_WEIGHTS",
    "IMPROVE_WEIGHTS",
    "REASON_WEIGHTS",
    "Gain",
    "Improvements",
    "correctness_reward",
    "efficiency_reward",
    "format_reward",
    "improvement_rewards",
    "reasoning_rewards",
    "repetition_reward",
    "reward_value",
    "simplicity_reward",
    "stated_answer",
    "workflow_rewards",
]
