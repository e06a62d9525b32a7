"""warm_start"""

from .halving import EvalRequest, HalvingSearch, Measure, Run, successive_halving
from .search_log import SearchLog
from .settings import Candidate, Group, WarmStartSettings, read_settings

__all__ = [
    "Candidate",
    "EvalRequest",
    "Group",
    "HalvingSearch",
    "Measure",
    "Run",
    "SearchLog",
    "WarmStartSettings",
    "read_settings",
    "successive_halving",
]
