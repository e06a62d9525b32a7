"""
Data types of the workflow language.

A *workflow* is a program over *operators*. Nodes are frozen and compare by structure: source positions and the written
text take no part in equality.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from ..errors import DSLError

Literal: TypeAlias = str | int | float | bool
Arguments: TypeAlias = tuple[tuple[str, Literal], ...]

MAX_REPEAT = 5
"""Largest n of `(S) * n`."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a node starts in the source; lines and columns count from 1."""

    line: int = 1
    column: int = 1


START = Position()


@dataclass(frozen=True, slots=True)
class Operator:
    """A call of an operator; arguments are sorted by name, a positional string is stored under its name."""

    name: str
    arguments: Arguments = ()
    position: Position = field(default=START, compare=False, repr=False)

    def __post_init__(self) -> None:
        names = [name for name, _ in self.arguments]
        if names != sorted(set(names)):
            raise ValueError(f"Arguments of {self.name} must be sorted by name and named once, got {names}.")


@dataclass(frozen=True, slots=True)
class Chain:
    """`A -> B -> C`: two or more steps, none of them a chain itself (groups that add nothing are flattened)."""

    steps: tuple[Node, ...]
    position: Position = field(default=START, compare=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.steps) < 2 or any(isinstance(step, Chain | Done) for step in self.steps):
            raise ValueError("A Chain needs two or more steps, none of them a Chain or Done; use `chain()`.")


@dataclass(frozen=True, slots=True)
class Parallel:
    """`[A, B, C]`: every branch starts from the same incoming state."""

    branches: tuple[Node, ...]
    position: Position = field(default=START, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Conditional:
    """`X ? Y : Z`: run X; a negative verdict runs Y (`negative`), any other verdict Z (`otherwise`)."""

    condition: Node
    negative: Node
    otherwise: Node
    position: Position = field(default=START, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Repeat:
    """`(S) * n`: S up to n times; `done` inside leaves it."""

    body: Node
    times: int
    position: Position = field(default=START, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Done:
    """`done`: a branch that leaves the innermost loop, or does nothing where there is none."""

    position: Position = field(default=START, compare=False, repr=False)


Node: TypeAlias = Operator | Chain | Parallel | Conditional | Repeat | Done


def chain(*steps: Node, position: Position = START) -> Node:
    """The chain of `steps`, flattened; a single step is returned as it is."""
    flat = [inner for step in steps for inner in (step.steps if isinstance(step, Chain) else (step,))]
    return flat[0] if len(flat) == 1 else Chain(tuple(flat), position)


@dataclass(frozen=True, slots=True)
class Workflow:
    """A parsed workflow."""

    root: Node
    source: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class OperatorSpec:
    """What static analysis knows of an operator."""

    name: str
    """Name in the language."""
    max_calls: int
    """Most model calls one run can make."""
    gives_verdict: bool = False
    """Whether it may stand before `?`."""
    is_ensemble: bool = False
    """Whether it reduces several candidates to one."""
    arguments: tuple[str, ...] = ()
    """Names of the arguments it accepts; a positional string goes to the first."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Static limits of a workflow; beyond any of them it is invalid."""

    max_source_chars: int = 2_000
    max_operators: int = 24
    max_depth: int = 6
    max_model_calls: int = 40


@dataclass(frozen=True, slots=True)
class Analysis:
    """What is known of a workflow without running it."""

    operators: tuple[str, ...]
    """Operator names in the order they are written, with repetition."""
    worst_case_calls: int
    """Most model calls it can make."""
    critical_path_calls: int
    """Most model calls that must follow one another."""
    depth: int
    """Nesting of parallels, conditionals and loops; a plain chain has depth 1."""

    @property
    def operator_count(self) -> int:
        """Number of operator nodes."""
        return len(self.operators)


@dataclass(frozen=True, slots=True)
class Extraction:
    """What a completion says: a workflow or the error that stopped it, and the repairs that were needed."""

    workflow: Workflow | None
    error: DSLError | None
    repairs: tuple[str, ...] = ()
    text: str = ""
    """Text that was taken for the workflow, before repairs."""

    @property
    def valid(self) -> bool:
        """Whether there is a workflow to run."""
        return self.workflow is not None
