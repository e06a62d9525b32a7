"""Callbacks of the trainer: guards, conditions that stop a run, progress on the console."""

from .collapse_guard import CollapseGuard, Probe, Share
from .numerical_guard import SKIP_UNDER_DEEPSPEED, NumericalGuard
from .progress import ConsoleProgress
from .stop_conditions import StopConditions
from .sync_guard import SyncGuard, unchecked_because

__all__ = [
    "SKIP_UNDER_DEEPSPEED",
    "CollapseGuard",
    "ConsoleProgress",
    "NumericalGuard",
    "Probe",
    "Share",
    "StopConditions",
    "SyncGuard",
    "unchecked_because",
]
