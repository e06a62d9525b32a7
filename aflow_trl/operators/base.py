"""What an operator is and how it asks the model."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from ..dsl import OperatorSpec
from ..errors import AflowError
from ..llm import Completion, LLMClient, Priority
from .replies import ReplyError
from .types import State

Parsed = TypeVar("Parsed")

RETRY_HINT = "Your last reply did not have the form asked for. Keep to the form exactly."


class OperatorFailureError(AflowError):
    """An operator failed for a reason of its own (twice a malformed reply, a refusal). The state stays as it was."""


@dataclass
class OperatorCall:
    """One run of an operator: how it asks the model, and what it spent. Built by the engine."""

    client: LLMClient
    seed: int
    """Decides every random choice of this run, the executor's sampling included."""
    priority: Priority | None = None
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
        completion = await self.client.complete(messages, seed=seed, priority=self.priority)
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
    """What static analysis knows of it."""
    description: ClassVar[str]
    """What the policy's system prompt says of it."""

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
