"""WA-GRPO: configuration, trainer, advantages, callbacks."""

from .advantages import AdvantageConfig, RewardBatch, compute_advantages, wa_grpo
from .callbacks import (
    INTERRUPTION,
    SKIP_UNDER_DEEPSPEED,
    CollapseGuard,
    ConsoleProgress,
    NumericalGuard,
    Probe,
    Share,
    StepRecord,
    StopConditions,
    SyncGuard,
)
from .checkpoint import is_complete, last_checkpoint
from .model_card import CardContent
from .process_group import close_process_group
from .recording import REPLAY_SETTINGS_FILE, ReplaySettings, to_tensor
from .workflow_grpo_config import COLLAPSE_GUARDS, ESTIMATORS, TRL_ESTIMATORS, WA_GRPO, WorkflowGRPOConfig
from .workflow_grpo_trainer import WorkflowGRPOTrainer

__all__ = [
    "COLLAPSE_GUARDS",
    "ESTIMATORS",
    "INTERRUPTION",
    "REPLAY_SETTINGS_FILE",
    "SKIP_UNDER_DEEPSPEED",
    "TRL_ESTIMATORS",
    "WA_GRPO",
    "AdvantageConfig",
    "CardContent",
    "CollapseGuard",
    "ConsoleProgress",
    "NumericalGuard",
    "Probe",
    "ReplaySettings",
    "RewardBatch",
    "Share",
    "StepRecord",
    "StopConditions",
    "SyncGuard",
    "WorkflowGRPOConfig",
    "WorkflowGRPOTrainer",
    "close_process_group",
    "compute_advantages",
    "is_complete",
    "last_checkpoint",
    "to_tensor",
    "wa_grpo",
]
