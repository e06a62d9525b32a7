"""What an operator is, how it asks the model, and how a user's own operator is made known."""

from __future__ import annotations

import hashlib
import importlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, TypeVar

from ..dsl import OperatorSpec, Vocabulary, builtin_vocabulary, operator_table
from ..errors import AflowError, RecipeError
from ..llm import Completion, LLMClient, Urgency
from .replies import ReplyError
from .types import State

Parsed = TypeVar("Parsed")
OperatorClass = TypeVar("OperatorClass", bound="type[Operator]")

RETRY_HINT = "Your last reply did not have the form asked for. Keep to the form exactly."


class OperatorFailureError(AflowError):
    """An operator failed for a reason of its own (twice a malformed reply, a refusal). The state stays as it was."""


@dataclass
class OperatorCall:
    """One run of an operator: how it asks the model, and what it spent. Built by the engine."""

    client: LLMClient
    seed: int
    """Decides every random choice of this run, the executor's sampling included."""
    urgency: Urgency | None = None
    """How far the workflow has to go from here, where calls have to wait."""
    completions: list[Completion] = field(default_factory=list)
    parse_errors: int = 0
    """Replies that were not of the form asked for."""
    asked_again: int = 0
    """Calls made because of them; a workflow's budget does not count these."""
    _asked: Counter[str] = field(default_factory=Counter)

    async def ask(self, prompt: str) -> str:
        """One model call; returns the text of the reply."""
        self._asked[prompt] += 1
        seed = self.draw_seed(f"{self._asked[prompt]} {prompt}")
        messages = [{"role": "user", "content": prompt}]
        completion = await self.client.complete(messages, seed=seed, urgency=self.urgency)
        self.completions.append(completion)
        return completion.text

    async def ask_for(self, prompt: str, parse: Callable[[str], Parsed]) -> Parsed:
        """
        One model call whose reply has to parse; a malformed reply is asked for again once.

        Raises:
            [`OperatorFailureError`]: Both replies were malformed.
        """
        try:
            return parse(await self.ask(prompt))
        except ReplyError:
            self.parse_errors += 1
            self.asked_again += 1
        try:
            return parse(await self.ask(f"{prompt}\n{RETRY_HINT}"))
        except ReplyError as error:
            self.parse_errors += 1
            raise OperatorFailureError(str(error)) from None

    def draw_seed(self, purpose: str) -> int:
        """Seed of one random choice of this run, below 2**31 as endpoints want it."""
        digest = hashlib.blake2b(f"{self.seed} {purpose}".encode("utf-8", errors="replace"), digest_size=4)
        return int.from_bytes(digest.digest(), "big") >> 1


class Operator(ABC):
    """
    One step of a workflow. Subclasses are stateless: everything they know is in the state and their arguments.

    A non-ensemble operator is given a state with at most one candidate; it is mapped over several by the engine.
    """

    spec: ClassVar[OperatorSpec]

    @abstractmethod
    async def run(self, state: State, arguments: Mapping[str, str], call: OperatorCall) -> State:
        """
        Run on `state` and return the state it leaves.

        Args:
            state ([`State`]):
                Incoming state.
            arguments (`Mapping[str, str]`):
                Arguments written in the workflow.
            call ([`OperatorCall`]):
                Access to the model.

        Returns:
            [`State`]: The new state.

        Raises:
            [`OperatorFailureError`]: The operator failed; the engine keeps the incoming state.
        """


REGISTRY: dict[str, type[Operator]] = {}
"""Every known operator by name."""
_DESCRIPTIONS: dict[str, str] = {}


def operator(
    *,
    description: str,
    max_calls: int,
    gives_verdict: bool = False,
    is_ensemble: bool = False,
    arguments: Sequence[str] = (),
) -> Callable[[OperatorClass], OperatorClass]:
    """
    Class decorator that makes an operator known under its class name.

    Args:
        description (`str`):
            What the policy's system prompt says of it.
        max_calls (`int`):
            Most model calls one run can make.
        gives_verdict (`bool`, *optional*, defaults to `False`):
            Whether it may stand before `?`.
        is_ensemble (`bool`, *optional*, defaults to `False`):
            Whether it reduces several candidates to one.
        arguments (`Sequence[str]`, *optional*, defaults to `()`):
            Names of its arguments; a positional string goes to the first.

    Example:

    ```python
    @operator(description="Translates the task to English.", max_calls=1)
    class Translate(Operator):
        async def run(self, state, arguments, call):
            text = await call.ask(f"Translate to English:\\n{state.problem.statement}")
            return state.with_candidate(Candidate(text))
    ```
    """

    def register(cls: OperatorClass) -> OperatorClass:
        name = cls.__name__
        known = REGISTRY.get(name)
        if known is not None and known.__module__ != cls.__module__:
            raise RecipeError(f"operator {name!r} is already defined in {known.__module__}; choose another name.")
        cls.spec = OperatorSpec(name, max_calls, gives_verdict, is_ensemble, tuple(arguments))
        REGISTRY[name] = cls
        _DESCRIPTIONS[name] = description
        return cls

    return register


def builtin(cls: OperatorClass) -> OperatorClass:
    """Class decorator of the operators that ship with the package: their facts stand in `configs/operators.yaml`."""
    cls.spec = builtin_vocabulary()[cls.__name__]
    REGISTRY[cls.__name__] = cls
    _DESCRIPTIONS[cls.__name__] = operator_table()[cls.__name__]["description"]
    return cls


def load_operators(modules: Sequence[str]) -> None:
    """Import the modules that define a user's own operators."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise RecipeError(
                f"operator module {module!r} cannot be imported ({error}). Name an importable module in "
                "operator_modules, or put its folder on PYTHONPATH."
            ) from None


def vocabulary(names: Sequence[str] | None = None) -> Vocabulary:
    """Specs of the known operators, or of those in `names`; a [`RecipeError`] for a name that is not known."""
    chosen = list(REGISTRY) if names is None else list(names)
    for name in chosen:
        if name not in REGISTRY:
            raise RecipeError(f"unknown operator {name!r} in the recipe. Known operators: {', '.join(REGISTRY)}.")
    return MappingProxyType({name: REGISTRY[name].spec for name in chosen})


def describe(names: Sequence[str]) -> str:
    """One line an operator, for the policy's system prompt."""
    return "\n".join(f"- {name}: {_DESCRIPTIONS[name]}" for name in names)
