"""Data types of the sandbox."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Status(str, Enum):
    """How a run ended. Only `unavailable` is the sandbox's own fault."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT = "output"
    KILLED = "killed"
    DENIED = "denied"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a program did."""

    status: Status
    stdout: str
    """Standard output, cut at the cap, undecodable bytes replaced."""
    stderr: str
    """Standard error, cut at the cap, undecodable bytes replaced."""
    wall_s: float
    """Wall time in seconds."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Outcome of a solution's tests, counted outside the process that ran it."""

    status: Status
    """How the solution's process ended; `ok` where it answered every call."""
    passed: int
    """Tests that passed."""
    total: int
    """Tests that were due."""
    failure: str = ""
    """First failing test and what happened, for repair prompts; empty if all passed."""

    @property
    def share(self) -> float:
        """Share of tests passed, in [0, 1]."""
        return self.passed / self.total if self.total else 0.0
