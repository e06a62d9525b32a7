"""TRL reward functions that execute workflows. All of them share one execution of the batch."""

from .functions import (
    DEFAULT_WEIGHTS,
    correctness_reward,
    efficiency_reward,
    format_reward,
    repetition_reward,
    simplicity_reward,
    workflow_rewards,
)
from .ledger import Account, Ledger
from .metrics import batch_metrics, entropy
from .rollouts import Rollouts
from .types import ScoredRollout

__all__ = [
    "DEFAULT_WEIGHTS",
    "Account",
    "Ledger",
    "Rollouts",
    "ScoredRollout",
    "batch_metrics",
    "correctness_reward",
    "efficiency_reward",
    "entropy",
    "format_reward",
    "repetition_reward",
    "simplicity_reward",
    "workflow_rewards",
]
