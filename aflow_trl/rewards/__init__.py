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
from .improvement import IMPROVE_WEIGHTS, Gain, Improvements, improvement_rewards
from .ledger import Account, Ledger
from .metrics import METRIC_COLUMNS, batch_columns, batch_metrics, entropy, workflow_metrics
from .reasoning import REASON_WEIGHTS, reasoning_rewards, stated_answer
from .rollouts import Rollouts, completion_text
from .tracefile import TraceFile, read_rows
from .types import ScoredRollout, read_rollout

__all__ = [
    "DEFAULT_WEIGHTS",
    "IMPROVE_WEIGHTS",
    "METRIC_COLUMNS",
    "REASON_WEIGHTS",
    "Account",
    "Gain",
    "Improvements",
    "Ledger",
    "Rollouts",
    "ScoredRollout",
    "TraceFile",
    "batch_columns",
    "batch_metrics",
    "completion_text",
    "correctness_reward",
    "efficiency_reward",
    "entropy",
    "format_reward",
    "improvement_rewards",
    "read_rollout",
    "read_rows",
    "reasoning_rewards",
    "repetition_reward",
    "reward_value",
    "simplicity_reward",
    "stated_answer",
    "workflow_metrics",
    "workflow_rewards",
]
