"""Runs untrusted Python in confined child processes, and judges it with the tests outside. Imports errors only."""

from .client import DEFAULT_TIMEOUT_S, allow_weak_sandbox, fork_server, run
from .types import Layers, RunResult, Status, Tier, Verdict
from .verdicts import judge, judge_stdin

__all__ = [
    "DEFAULT_TIMEOUT_S",
    "Layers",
    "RunResult",
    "Status",
    "Tier",
    "Verdict",
    "allow_weak_sandbox",
    "fork_server",
    "judge",
    "judge_stdin",
    "run",
]
