"""The warm start: which workflows are good is found by execution, before the policy learns from rewards."""

from .halving import Contest, Job, Measure, Run, successive_halving
from .journal import Journal
from .types import Arm, Group, WarmStartSettings, read_settings

__all__ = [
    "Arm",
    "Contest",
    "Group",
    "Job",
    "Journal",
    "Measure",
    "Run",
    "WarmStartSettings",
    "read_settings",
    "successive_halving",
]
