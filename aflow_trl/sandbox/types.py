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


class Tier(str, Enum):
    """How well a machine can confine a program."""

    A = "A"
    """Landlock and seccomp."""
    B = "B"
    """Root without Landlock: a throw-away user id, and a system call filter that refuses every write."""
    C = "C"
    """Less than that: no sandbox."""


@dataclass(frozen=True, slots=True)
class Layers:
    """What a machine offers to confine a program."""

    landlock: int
    """ABI version of Landlock, 0 where there is none."""
    seccomp: bool
    """Whether system calls can be filtered."""
    spare_uid: bool
    """Whether the server is root and can give each program a user id of its own that still reads the interpreter."""

    @property
    def tier(self) -> Tier:
        """The tier these layers make."""
        if self.landlock and self.seccomp:
            return Tier.A
        return Tier.B if self.seccomp and self.spare_uid else Tier.C

    @property
    def missing(self) -> list[str]:
        """Names of the layers that are not there."""
        return [name for name, there in (("Landlock", self.landlock), ("seccomp", self.seccomp)) if not there]

    @property
    def leaks(self) -> str:
        """What a program can do that a better tier would stop, in words."""
        if self.tier is Tier.A:
            return "nothing known"
        if self.tier is Tier.B:
            return "a program can read every file that any user may read; it cannot write any"
        own = "" if self.spare_uid else ", this process's environment with the API keys in it among them"
        files = "" if self.landlock else f"read the files this user may read{own}, and change them; "
        calls = "" if self.seccomp else "open connections, start processes that outlive it, signal others; "
        return f"a program can {files}{calls}so run none that you do not trust"

    def __str__(self) -> str:
        uid = ", own user id" if self.spare_uid else ""
        return f"tier {self.tier.value} (Landlock ABI {self.landlock}, seccomp {'on' if self.seccomp else 'off'}{uid})"


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
    weak: bool = False
    """Whether the tests ran beside the solution, where a hostile one can forge the verdict."""
    compiles: bool = True
    """Whether the solution is Python at all."""
    needs_live_objects: bool = False
    """Whether a test failed because it passes or gets values that are no plain data."""

    @property
    def share(self) -> float:
        """Share of tests passed, in [0, 1]."""
        return self.passed / self.total if self.total else 0.0
