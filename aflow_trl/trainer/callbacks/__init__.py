"""Callbacks of the trainer: guards, conditions that stop a run, progress on the console."""

from .collapse_guard import CollapseGuard, Probe, Share
from .interruption import INTERRUPTION, Interruption
from .numerical_guard import SKIP_UNDER_DEEPSPEED, NumericalGuard
from .progress import ConsoleProgress, StepRecord
from .stop_conditions import StopConditions
from .sync_guard import SyncGuard, unchecked_because

__all__ = [
    "INTERRUPTION",
    "SKIP_UNDER_DEEPSPEED",
    "CollapseGuard",
    "ConsoleProgress",
    "Interruption",
    "NumericalGuard",
    "Probe",
    "Share",
    "StepRecord",
    "StopConditions",
    "SyncGuard",
    "unchecked_because",
]
