"""WA-GRPO: configuration, trainer, advantages, evaluation."""

from .callbacks import ConsoleProgress, StopRun
from .config import ESTIMATORS, TRL_ESTIMATORS, WorkflowGRPOConfig
from .estimate import FEATURE_COLUMNS, EstimatorSettings, estimate_advantages
from .evaluation import (
    Accuracy,
    Evaluator,
    Mean,
    accuracy,
    mean_interval,
    sample_policy,
    share_of,
    valid_share,
    wilson_interval,
    workflow_counts,
)
from .workflow_grpo_trainer import REWARDS_FILE, WorkflowGRPOTrainer

__all__ = [
    "ESTIMATORS",
    "FEATURE_COLUMNS",
    "REWARDS_FILE",
    "TRL_ESTIMATORS",
    "Accuracy",
    "ConsoleProgress",
    "EstimatorSettings",
    "Evaluator",
    "Mean",
    "StopRun",
    "WorkflowGRPOConfig",
    "WorkflowGRPOTrainer",
    "accuracy",
    "estimate_advantages",
    "mean_interval",
    "sample_policy",
    "share_of",
    "valid_share",
    "wilson_interval",
    "workflow_counts",
]
