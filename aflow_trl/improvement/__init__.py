"""
Improving workflows: records of earlier improvements, their import from AFlow, and the search baseline.

A record is a workflow with its score, failures and earlier attempts, which a policy or an optimizer model is asked to
improve.
"""

from .aflow_graph import translate
from .aflow_import import Report, import_workspace
from .flows import UntranslatableError
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
