"""Runs untrusted Python in confined child processes, and judges it with the tests outside. Imports errors only."""

from .client import DEFAULT_TIMEOUT_S, fork_server, run
from .judge import judge, judge_stdin
from .types import RunResult, Status, Verdict

__all__ = ["DEFAULT_TIMEOUT_S", "RunResult", "Status", "Verdict", "fork_server", "judge", "judge_stdin", "run"]
