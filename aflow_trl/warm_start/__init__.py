"""warm_start"""

from .halving import Contest, Job, Measure, Run, successive_halving
from .search_log import Journal
from .settings import Arm, Group, WarmStartSettings, read_settings

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
