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
from .resume import is_complete, last_checkpoint
from .watchdog import COLLAPSE_GUARDS, CollapseGuard, Probe, Share
from .workflow_grpo_trainer import REWARDS_FILE, WorkflowGRPOTrainer

__all__ = [
    "COLLAPSE_GUARDS",
    "ESTIMATORS",
    "FEATURE_COLUMNS",
    "REWARDS_FILE",
    "TRL_ESTIMATORS",
    "Accuracy",
    "CollapseGuard",
    "ConsoleProgress",
    "EstimatorSettings",
    "Evaluator",
    "Mean",
    "Probe",
    "Share",
    "StopRun",
    "WorkflowGRPOConfig",
    "WorkflowGRPOTrainer",
    "accuracy",
    "estimate_advantages",
    "is_complete",
    "last_checkpoint",
    "mean_interval",
    "sample_policy",
    "share_of",
    "valid_share",
    "wilson_interval",
    "workflow_counts",
]
