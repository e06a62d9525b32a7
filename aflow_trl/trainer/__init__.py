"""WA-GRPO: configuration, trainer, advantages, evaluation."""

from .callbacks import ConsoleProgress, StopRun
from .config import ESTIMATORS, WorkflowGRPOConfig
from .evaluation import Accuracy, Evaluator, accuracy, valid_share, workflow_counts
from .workflow_grpo_trainer import WorkflowGRPOTrainer

__all__ = [
    "ESTIMATORS",
    "Accuracy",
    "ConsoleProgress",
    "Evaluator",
    "StopRun",
    "WorkflowGRPOConfig",
    "WorkflowGRPOTrainer",
    "accuracy",
    "valid_share",
    "workflow_counts",
]
