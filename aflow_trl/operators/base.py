"""The base class of operators, and the access to the model that a run of one receives."""

from __future__ import annotations

import contextlib
import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar, cast

from ..dsl import OperatorSpec
from ..errors import AflowError
from ..llm import Completion, LLMClient, Priority
from ..text import model_text
from .replies import ReplyError, ReplyForm
from .types import State

Parsed = TypeVar("Parsed")

RETRY_HINT = "Your last reply was not in the required format. Follow the format exactly."


class OperatorFailureError(AflowError):
    """An operator could not do its work (two malformed replies, for example). The incoming state stays unchanged."""


@dataclass
class OperatorCall:
    """Access to the model for one run of an operator, with a record of its calls. Built by the engine."""

    client: LLMClient
    seed: int
    """Determines every random choice of this run, including the executor's sampling."""
    priority: Priority | None = None
    """Length of the rest of the workflow; orders the calls that wait for a slot."""
    completions: list[Completion] = field(default_factory=list)
    parse_errors: int = 0
    """Number of malformed replies."""
    asked_again: int = 0
    """Number of calls made because of a malformed reply; they do not count towards the workflow's budget."""
    _calls_by_prompt: Counter[str] = field(default_factory=Counter)

    async def ask(self, prompt: str, shots: Sequence[tuple[str, str]] = ()) -> str:
        """
        Make one model call.

        Args:
            prompt (`str`):
                Prompt.
            shots (`Sequence[tuple[str, str]]`, *optional*):
                Examples of prompts with their replies, as earlier turns of the chat. Small models follow a form that
                they are shown, rather than one that is described.

        Returns:
            `str`: Text of the reply.

        Raises:
            [`EndpointError`]: The endpoint did not deliver; the engine handles it.
        """
        return model_text((await self._ask(prompt, shots=shots)).text)

    async def ask_for(
        self, prompt: str, parse: Callable[[str], Parsed], shots: Sequence[tuple[str, str]] = ()
    ) -> Parsed:
        """
        Make one model call and parse the reply; a malformed reply is requested again once.

        Args:
            prompt (`str`):
                Prompt.
            parse (`Callable[[str], Parsed]`):
                Parser that raises [`ReplyError`] for a malformed reply. For the form that [`tagged`] builds, the
                reply is requested as JSON where the endpoint enforces a schema.
            shots (`Sequence[tuple[str, str]]`, *optional*):
                As for [`ask`].

        Returns:
            `Parsed`: The parsed reply.

        Raises:
            [`OperatorFailureError`]: Both replies were malformed.
        """
        form = parse if isinstance(parse, ReplyForm) else None
        schema = None if form is None else self.client.config.response_format(form.schema())
        if form is not None and schema is not None:
            prompt = form.ask_for_json(prompt)
        try:
            return parse(model_text((await self._ask(prompt, schema, shots)).text))
        except ReplyError:
            self.parse_errors += 1
            self.asked_again += 1
        # The hint also changes the seed, which depends on the prompt: the same request would return the same reply.
        reply = await self._ask(f"{prompt}\n{RETRY_HINT}", schema, shots)
        try:
            return parse(model_text(reply.text))
        except ReplyError as error:
            self.parse_errors += 1
            if form is not None and form.last_line_counts and not reply.truncated:
                with contextlib.suppress(ReplyError):
                    return cast(Parsed, form.guess(model_text(reply.text)))
            raise OperatorFailureError(str(error)) from None

    async def _ask(
        self,
        prompt: str,
        response_format: Mapping[str, Any] | None = None,
        shots: Sequence[tuple[str, str]] = (),
    ) -> Completion:
        # Counted by prompt, not overall: concurrent calls start in any order, and each must draw the same seed again.
        asked = prompt if not shots else f"{list(shots)} {prompt}"
        self._calls_by_prompt[asked] += 1
        seed = self.draw_seed(f"{self._calls_by_prompt[asked]} {asked}")
        messages = [
            {"role": role, "content": text}
            for shot in shots
            for role, text in zip(("user", "assistant"), shot, strict=True)
        ]
        messages.append({"role": "user", "content": prompt})
        completion = await self.client.complete(
            messages, seed=seed, priority=self.priority, response_format=response_format
        )
        self.completions.append(completion)
        return completion

    def draw_seed(self, purpose: str) -> int:
        """Derive the seed of a random choice of this run from `purpose`; a non-negative integer below 2**31."""
        # `replace`, because a model may reply with lone surrogates. Endpoints take seeds as signed 32-bit integers.
        digest = hashlib.blake2b(f"{self.seed} {purpose}".encode("utf-8", errors="replace"), digest_size=4)
        return int.from_bytes(digest.digest(), "big") >> 1


class Operator(ABC):
    """
    A step of a workflow. Subclasses are stateless: their input is the state and the arguments.

    An operator that is not an ensemble receives a state with at most one candidate; the engine maps it over several.
    """

    spec: ClassVar[OperatorSpec]
    """Properties for parser and static analysis."""
    description: ClassVar[str]
    """Description in the policy's system prompt."""

    @abstractmethod
    async def run(self, state: State, arguments: Mapping[str, str], call: OperatorCall) -> State:
        """
        Run the operator.

        Args:
            state ([`State`]):
                Incoming state.
            arguments (`Mapping[str, str]`):
                Arguments written in the workflow.
            call ([`OperatorCall`]):
                Access to the model.

        Returns:
            [`State`]: The outgoing state.

        Raises:
            [`OperatorFailureError`]: The operator failed; the engine continues with the incoming state.
        """
