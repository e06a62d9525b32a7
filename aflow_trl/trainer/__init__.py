"""WA-GRPO: configuration, trainer, advantages, evaluation."""

from .callbacks import StopOnFatal
from .config import ESTIMATORS, WorkflowGRPOConfig
from .workflow_grpo_trainer import WorkflowGRPOTrainer

__all__ = ["ESTIMATORS", "StopOnFatal", "WorkflowGRPOConfig", "WorkflowGRPOTrainer"]
