"""WA-GRPO: configuration, trainer, advantages, callbacks."""

from .advantages import AdvantageConfig, RewardBatch, compute_advantages, wa_grpo
from .callbacks import CollapseGuard, ConsoleProgress, NumericalGuard, Probe, Share, StopConditions, SyncGuard
from .checkpoint import is_complete, last_checkpoint
from .recording import REPLAY_SETTINGS_FILE, ReplaySettings, to_tensor
from .workflow_grpo_config import COLLAPSE_GUARDS, ESTIMATORS, TRL_ESTIMATORS, WA_GRPO, WorkflowGRPOConfig
from .workflow_grpo_trainer import WorkflowGRPOTrainer

__all__ = [
    "COLLAPSE_GUARDS",
    "ESTIMATORS",
    "REPLAY_SETTINGS_FILE",
    "TRL_ESTIMATORS",
    "WA_GRPO",
    "AdvantageConfig",
    "CollapseGuard",
    "ConsoleProgress",
    "NumericalGuard",
    "Probe",
    "ReplaySettings",
    "RewardBatch",
    "Share",
    "StopConditions",
    "SyncGuard",
    "WorkflowGRPOConfig",
    "WorkflowGRPOTrainer",
    "compute_advantages",
    "is_complete",
    "last_checkpoint",
    "to_tensor",
    "wa_grpo",
]
