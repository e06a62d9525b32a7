"""
Data types of the workflow language: the AST, the limits on it and the results of analysis and extraction.

A *workflow* is a program over *operators*. Nodes are frozen and compare by structure: neither source positions nor the
original text take part in equality, so that two spellings of the same workflow are equal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from ..errors import DSLError

ArgumentValue: TypeAlias = str | int | float | bool
# A sorted tuple rather than a dict: nodes have to be hashable, and equal whatever order the arguments are written in.
Arguments: TypeAlias = tuple[tuple[str, ArgumentValue], ...]

MODEL = "model"
"""Argument that names the model an operator calls, where there are several."""
MAX_REPEAT = 5
"""Largest n of `(S) * n`."""


@dataclass(frozen=True, slots=True)
class Position:
    """Position of a node in the source; lines and columns count from 1."""

    line: int = 1
    column: int = 1


START = Position()


@dataclass(frozen=True, slots=True)
class Operator:
    """
    A call of an operator.

    Raises:
        `ValueError`: The arguments are not sorted by name, or a name is repeated.
    """

    name: str
    arguments: Arguments = ()
    """Name-value pairs, sorted by name; a positional string is stored under the name of its parameter."""
    position: Position = field(default=START, compare=False, repr=False)

    def __post_init__(self) -> None:
        names = [name for name, _ in self.arguments]
        if names != sorted(set(names)):
            raise ValueError(f"Arguments of {self.name} must be sorted by name without duplicates, got {names}.")


@dataclass(frozen=True, slots=True)
class Chain:
    """
    `A -> B -> C`: steps that run one after the other. Build it with [`chain`], which flattens nested chains.

    Raises:
        `ValueError`: There are fewer than two steps, or a step is itself a [`Chain`] or [`Done`].
    """

    steps: tuple[Node, ...]
    position: Position = field(default=START, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Flat chains give every workflow a single AST, and so a single canonical text.
        if len(self.steps) < 2 or any(isinstance(step, Chain | Done) for step in self.steps):
            raise ValueError("A Chain needs two or more steps, none of them a Chain or Done; use `chain()`.")


@dataclass(frozen=True, slots=True)
class Parallel:
    """`[A, B, C]`: branches that all start from the same incoming state."""

    branches: tuple[Node, ...]
    position: Position = field(default=START, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Conditional:
    """`X ? Y : Z`: run X, then Y (`negative`) if its verdict is negative, else Z (`otherwise`)."""

    # Wider than what can run: the parser builds whatever the grammar accepts, and `check` reports the rest.
    condition: Node
    negative: Node
    otherwise: Node
    position: Position = field(default=START, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Repeat:
    """`(S) * n`: run S up to n times; `done` inside S leaves the loop."""

    body: Node
    times: int
    position: Position = field(default=START, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Done:
    """`done`: a branch that leaves the innermost loop, or does nothing outside a loop."""

    position: Position = field(default=START, compare=False, repr=False)


Node: TypeAlias = Operator | Chain | Parallel | Conditional | Repeat | Done


def chain(*steps: Node, position: Position = START) -> Node:
    """Chain `steps`, flattening nested chains; a single step is returned unchanged."""
    flat = [inner for step in steps for inner in (step.steps if isinstance(step, Chain) else (step,))]
    return flat[0] if len(flat) == 1 else Chain(tuple(flat), position)


@dataclass(frozen=True, slots=True)
class Workflow:
    """A parsed workflow."""

    root: Node
    source: str = field(default="", compare=False)
    """Text it was parsed from; empty for a workflow built in code."""


@dataclass(frozen=True, slots=True)
class OperatorSpec:
    """Properties of an operator that parser and static analysis rely on."""

    name: str
    """Name in the language."""
    max_calls: int
    """Maximum number of model calls of one run."""
    gives_verdict: bool = False
    """Whether it can be the condition of `X ? Y : Z`."""
    is_ensemble: bool = False
    """Whether it reduces several candidates to one."""
    arguments: tuple[str, ...] = ()
    """Names of its parameters; a positional string goes to the first."""
    models: tuple[str, ...] = ()
    """Models that the argument `model` may name; without any it has no such argument."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of all arguments it takes."""
        return (*self.arguments, MODEL) if self.models else self.arguments


@dataclass(frozen=True, slots=True)
class Limits:
    """Static limits on a workflow; a workflow that exceeds any of them is invalid."""

    max_source_chars: int = 2_000
    max_operators: int = 24
    max_depth: int = 6
    max_model_calls: int = 40


@dataclass(frozen=True, slots=True)
class Analysis:
    """Properties of a workflow that can be determined without running it."""

    operators: tuple[str, ...]
    """Operator names in source order, with repetition."""
    worst_case_calls: int
    """Maximum number of model calls."""
    critical_path_calls: int
    """Maximum number of model calls that have to run one after the other."""
    depth: int
    """Nesting of parallels, conditionals and loops; a plain chain has depth 1."""

    @property
    def operator_count(self) -> int:
        """Number of operator nodes."""
        return len(self.operators)


@dataclass(frozen=True, slots=True)
class Extraction:
    """Result of reading a completion: the workflow or the error, and the repairs that were applied."""

    workflow: Workflow | None
    error: DSLError | None
    repairs: tuple[str, ...] = ()
    text: str = ""
    """Part of the completion that was read as the workflow, before repairs."""

    @property
    def valid(self) -> bool:
        """Whether there is a workflow to run."""
        return self.workflow is not None
