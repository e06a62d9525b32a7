"""WA-GRPO: configuration, trainer, advantages, evaluation."""

from .callbacks.collapse_guard import COLLAPSE_GUARDS, CollapseGuard, Probe, Share
from .callbacks.stop_conditions import ConsoleProgress, StopRun
from .checkpoint import is_complete, last_checkpoint
from .estimation import FEATURE_COLUMNS, EstimatorSettings, estimate_advantages
from .workflow_grpo_config import ESTIMATORS, TRL_ESTIMATORS, WorkflowGRPOConfig
from .workflow_grpo_trainer import REWARDS_FILE, WorkflowGRPOTrainer

__all__ = [
    "COLLAPSE_GUARDS",
    "ESTIMATORS",
    "FEATURE_COLUMNS",
    "REWARDS_FILE",
    "TRL_ESTIMATORS",
    "CollapseGuard",
    "ConsoleProgress",
    "EstimatorSettings",
    "Probe",
    "Share",
    "StopRun",
    "WorkflowGRPOConfig",
    "WorkflowGRPOTrainer",
    "estimate_advantages",
    "is_complete",
    "last_checkpoint",
]
