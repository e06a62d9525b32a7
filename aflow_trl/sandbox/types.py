"""Data types of the sandbox."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypedDict


class Status(str, Enum):
    """How a run ended. Only `unavailable` is a failure of the sandbox itself."""

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
    """Root without Landlock: a throw-away user id and a system call filter that refuses every write."""
    C = "C"
    """Anything less, which is not a sandbox."""


@dataclass(frozen=True, slots=True)
class Layers:
    """Layers that a machine offers to confine a program."""

    landlock: int
    """ABI version of Landlock, 0 if it is missing."""
    seccomp: bool
    """Whether system calls can be filtered."""
    spare_uid: bool
    """Whether the server is root and can run each program as a separate user who can still read the interpreter."""
    tmpfs: bool
    """Whether each scratch folder can be a file system of limited size; otherwise its content is measured."""

    @property
    def tier(self) -> Tier:
        """Tier that these layers amount to."""
        if self.landlock and self.seccomp:
            return Tier.A
        return Tier.B if self.seccomp and self.spare_uid else Tier.C

    @property
    def missing(self) -> list[str]:
        """Names of the missing layers."""
        return [name for name, there in (("Landlock", self.landlock), ("seccomp", self.seccomp)) if not there]

    @property
    def leaks(self) -> str:
        """What a program can do that a better tier would prevent, as text for a warning."""
        if self.tier is Tier.A:
            return "nothing known"
        if self.tier is Tier.B:
            return "a program can read every file that any user may read; it cannot write any"
        secrets = "" if self.spare_uid else " and this process's environment with its API keys"
        files = "" if self.landlock else f"read the files of this user{secrets}, and change those files; "
        calls = "" if self.seccomp else "open connections, start processes that outlive it, signal others; "
        return f"a program can {files}{calls}run only programs that you trust"

    def __str__(self) -> str:
        extras = (", separate user id" if self.spare_uid else "") + (", scratch on tmpfs" if self.tmpfs else "")
        return (
            f"tier {self.tier.value} (Landlock ABI {self.landlock}, seccomp {'on' if self.seccomp else 'off'}{extras})"
        )


@dataclass(frozen=True, slots=True)
class RunResult:
    """Result of a program."""

    status: Status
    stdout: str
    """Standard output, cut at the maximum size, undecodable bytes replaced."""
    stderr: str
    """Standard error, cut at the maximum size, undecodable bytes replaced."""
    wall_s: float
    """Wall time in seconds."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Outcome of a solution's tests, counted outside the process that ran it."""

    status: Status
    """How the process of the solution ended; `ok` if it answered every call."""
    passed: int
    """Number of tests passed."""
    total: int
    """Number of tests."""
    failure: str = ""
    """First failing test and what happened, for repair prompts; empty if all passed."""
    weak: bool = False
    """Whether the tests ran in the process of the solution, where a hostile one can forge the verdict."""
    compiles: bool = True
    """Whether the solution is valid Python."""
    needs_live_objects: bool = False
    """Whether a test failed because it passes or receives values that are not plain data."""

    @property
    def share(self) -> float:
        """Share of tests passed, in [0, 1]."""
        return self.passed / self.total if self.total else 0.0


class SuiteSpec(TypedDict):
    """What a tester is asked to run."""

    tests: list[str]
    entry_point: str
    """Function that `candidate` stands for; empty if there is none."""
    names: list[str]
    """Functions of the solution that the tests may call."""
    modules: dict[str, str]
    """Modules that the tests use without importing them, by the name they use."""


class SuiteReport(TypedDict):
    """What a tester found."""

    passed: int
    total: int
    failure: str
    """First failing test and what happened; empty if all passed."""
    live: bool
    """Whether a test failed because it needs live objects."""


class ExitReport(TypedDict):
    """What the server sends when a child has exited."""

    id: int
    code: int
    """Exit code; the negative signal number if a signal killed the child."""
    wall: float
    """Wall time in seconds."""
    over_quota: bool
    error: str
    """Why the child could not be confined; empty if it could."""
    leftover: str
    """Why its scratch folder could not be emptied; empty if it could."""
