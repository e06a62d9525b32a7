"""Prompts of the policy: chat messages for a row, from the templates in `configs/policy_prompts.yaml`."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeAlias

from ..assets import read_config
from ..dsl import CLOSING_TAG, parse
from ..errors import DSLError, RecipeError
from ..operators import DEFAULT_OPERATORS, OperatorRegistry
from .schema import Row

Message: TypeAlias = dict[str, str]
"""A chat message: `role` and `content`."""
BUDGET = "Budget: {budget}"
"""Last line of the prompt of a problem that has a budget."""


# Cached: the file is read for every prompt otherwise, and prompts are built for every row.
@cache
def policy_prompts() -> Mapping[str, Mapping[str, Any]]:
    """Content of `configs/policy_prompts.yaml`: name → templates (`system`, `user`, `improve`, `reason`), `shots`."""
    prompts: dict[str, Mapping[str, Any]] = read_config("policy_prompts.yaml")
    return prompts


def check_policy_prompt(name: str) -> None:
    """Raise a [`RecipeError`] unless `configs/policy_prompts.yaml` contains a prompt of this name."""
    if name not in policy_prompts():
        raise RecipeError(f"policy_prompt is {name!r}. Use one of {', '.join(policy_prompts())}.")


@dataclass(frozen=True, slots=True)
class PolicyPrompt:
    """
    A prompt of `configs/policy_prompts.yaml`, and the operators it offers to the policy.

    Args:
        name (`str`, *optional*, defaults to `"full"`):
            Name of the prompt.
        operators ([`~aflow_trl.operators.OperatorRegistry`], *optional*):
            Operators that a workflow may use. Defaults to [`~aflow_trl.operators.DEFAULT_OPERATORS`].
        system_role (`bool`, *optional*, defaults to `True`):
            Whether the system text is a message of its own. Chat templates without a system role, such as that of
            Gemma 2, need it in the first user message; [`~aflow_trl.policies.takes_system_role`] tells.

    Raises:
        [`RecipeError`]: There is no such prompt.
    """

    name: str = "full"
    # A factory, because dataclasses refuse an unhashable object such as the registry as a default.
    operators: OperatorRegistry = field(default_factory=lambda: DEFAULT_OPERATORS)
    system_role: bool = True

    def __post_init__(self) -> None:
        check_policy_prompt(self.name)

    @property
    def system(self) -> str:
        """System message that describes the language and its operators."""
        text: str = policy_prompts()[self.name]["system"]
        return text.replace("{operators}", self.operators.descriptions).replace("{names}", ", ".join(self.operators))

    @property
    def shots(self) -> list[tuple[str, str]]:
        """Examples of the prompt: problems, and workflows of the operators that it offers."""
        shots = policy_prompts()[self.name].get("shots", ())
        return [(shot["problem"], shot["workflow"]) for shot in shots if self._is_offered(shot["workflow"])]

    def _is_offered(self, workflow: str) -> bool:
        try:
            parse(workflow, vocabulary=self.operators.vocabulary)
        except DSLError:
            return False
        return True

    def messages(self, row: Row) -> list[Message]:
        """
        Chat messages that ask for a workflow. They contain everything that the executor will see of the problem, and
        its budget if it has one.

        Which example comes last depends on the problem, because small models copy the last one.
        """
        # Not `str.format`: problems contain braces.
        template = policy_prompts()[self.name]["user"]
        shots, turns = self.shots, []
        first = zlib.crc32(statement(row).encode()) % max(1, len(shots))
        for problem, workflow in shots[first:] + shots[:first]:
            turns.append({"role": "user", "content": template.replace("{problem}", problem)})
            turns.append({"role": "assistant", "content": f"<workflow>{workflow}{CLOSING_TAG}"})
        request = template.replace("{problem}", statement(row))
        if row.budget:
            request = f"{request}\n{BUDGET.replace('{budget}', row.budget)}"
        return self.chat(self.system, [*turns, {"role": "user", "content": request}])

    def reasoning_messages(self, row: Row) -> list[Message]:
        """Chat messages that ask for `<think>…</think><answer>…</answer>`."""
        system = policy_prompts()[self.name]["reason"]
        return self.chat(system, [{"role": "user", "content": statement(row)}])

    def chat(self, system: str, turns: Sequence[Message]) -> list[Message]:
        """Chat messages of a system text and turns, the first of them the user's."""
        if self.system_role:
            return [{"role": "system", "content": system}, *turns]
        return [{"role": turns[0]["role"], "content": f"{system}\n\n{turns[0]['content']}"}, *turns[1:]]


def statement(row: Row) -> str:
    """Context and question of a row, as every prompt presents them."""
    return f"{row.context}\n\n{row.question}" if row.context else row.question
