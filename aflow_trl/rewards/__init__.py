"""TRL reward functions that execute workflows. All of them share one execution of the batch."""

from .functions import (
    DEFAULT_WEIGHTS,
    correctness_reward,
    efficiency_reward,
    format_reward,
    repetition_reward,
    reward_value,
    simplicity_reward,
    workflow_rewards,
)
from .ledger import Account, Ledger
from .metrics import batch_columns, batch_metrics, entropy
from .rollouts import Rollouts
from .tracefile import TraceFile, read_rows
from .types import ScoredRollout, read_rollout

__all__ = [
    "DEFAULT_WEIGHTS",
    "Account",
    "Ledger",
    "Rollouts",
    "ScoredRollout",
    "TraceFile",
    "batch_columns",
    "batch_metrics",
    "correctness_reward",
    "efficiency_reward",
    "entropy",
    "format_reward",
    "read_rollout",
    "read_rows",
    "repetition_reward",
    "reward_value",
    "simplicity_reward",
    "workflow_rewards",
]
