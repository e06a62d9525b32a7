"""improvement"""

from .aflow_graph import UntranslatableError, translate
from .aflow_import import Report, import_workspace
from .records import (
    Attempt,
    Failure,
    Improvement,
    improvement_messages,
    load_improvements,
    read_improvement,
    write_improvements,
)
from .search import MIX, Search, SearchSettings, Tried, optimizer, run_search, selection

__all__ = [
    "MIX",
    "Attempt",
    "Failure",
    "Improvement",
    "Report",
    "Search",
    "SearchSettings",
    "Tried",
    "UntranslatableError",
    "import_workspace",
    "improvement_messages",
    "load_improvements",
    "optimizer",
    "read_improvement",
    "run_search",
    "selection",
    "translate",
    "write_improvements",
]
