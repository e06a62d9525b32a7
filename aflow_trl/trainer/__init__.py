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
from .timeline import EXECUTION, GENERATION, PARTS, WAITING, Span, Timeline, mean_seconds
from .workflow_grpo_config import (
    COLLAPSE_GUARDS,
    ESTIMATORS,
    ROLLOUT_LAGS,
    TARGETS,
    TRL_ESTIMATORS,
    WA_GRPO,
    WorkflowGRPOConfig,
)
from .workflow_grpo_trainer import WorkflowGRPOTrainer

__all__ = [
    "COLLAPSE_GUARDS",
    "ESTIMATORS",
    "EXECUTION",
    "GENERATION",
    "INTERRUPTION",
    "PARTS",
    "REPLAY_SETTINGS_FILE",
    "ROLLOUT_LAGS",
    "SKIP_UNDER_DEEPSPEED",
    "TARGETS",
    "TRL_ESTIMATORS",
    "WAITING",
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
    "Span",
    "StepRecord",
    "StopConditions",
    "SyncGuard",
    "Timeline",
    "WorkflowGRPOConfig",
    "WorkflowGRPOTrainer",
    "close_process_group",
    "compute_advantages",
    "is_complete",
    "last_checkpoint",
    "mean_seconds",
    "to_tensor",
    "wa_grpo",
]
