"""Execution of workflows: the interpreter, the sharing of equal calls, budgets and traces."""

from .engine import DEFAULT_STEP_TIMEOUT_S, SHARE_MODES, Engine
from .trace import Budget, NodeRecord, Outcome, RolloutRequest, Trace, read_trace

__all__ = [
    "DEFAULT_STEP_TIMEOUT_S",
    "SHARE_MODES",
    "Budget",
    "Engine",
    "NodeRecord",
    "Outcome",
    "RolloutRequest",
    "Trace",
    "read_trace",
]
