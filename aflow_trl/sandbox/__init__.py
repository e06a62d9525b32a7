"""Runs untrusted Python in confined child processes, and tests solutions without showing them the tests."""

from .client import DEFAULT_TIMEOUT_S, allow_weak_sandbox, fork_server, library_folder_of, run
from .types import Layers, RunResult, Status, Tier, Verdict
from .verdicts import run_stdin_tests, run_tests

__all__ = [
    "DEFAULT_TIMEOUT_S",
    "Layers",
    "RunResult",
    "Status",
    "Tier",
    "Verdict",
    "allow_weak_sandbox",
    "fork_server",
    "library_folder_of",
    "run",
    "run_stdin_tests",
    "run_tests",
]
