"""Reward functions in the form TRL calls them: composing workflows, improving them, plain reasoning."""

from .binding import ProbeScorer, RewardBinding, RewardFunction, reward_binding
from .compose import (
    DEFAULT_WEIGHTS,
    correctness_reward,
    efficiency_reward,
    format_reward,
    repetition_reward,
    reward_values,
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
    "ProbeScorer",
    "RewardBinding",
    "RewardFunction",
    "correctness_reward",
    "efficiency_reward",
    "format_reward",
    "improvement_rewards",
    "reasoning_rewards",
    "repetition_reward",
    "reward_binding",
    "reward_values",
    "simplicity_reward",
    "stated_answer",
    "workflow_rewards",
]
