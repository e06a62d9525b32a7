"""What the policy reads: chat messages from a row, with the prompts of `configs/policy_prompts.yaml`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from ..assets import read_config
from ..errors import RecipeError
from .schema import Row


@cache
def policy_prompts() -> Mapping[str, Mapping[str, str]]:
    """`configs/policy_prompts.yaml`: name → system and user prompt."""
    prompts: dict[str, Mapping[str, str]] = read_config("policy_prompts.yaml")
    return prompts


def check_policy_prompt(name: str) -> None:
    """Raise a [`RecipeError`] if there is no such prompt."""
    if name not in policy_prompts():
        raise RecipeError(f"policy_prompt is {name!r}. Use one of {', '.join(policy_prompts())}.")


def system_prompt(prompt: str, *, operators: Sequence[str], descriptions: str) -> str:
    """System message that tells a policy of the language and its operators. Arguments as in [`policy_messages`]."""
    system = policy_prompts()[prompt]["system"]
    return system.replace("{operators}", descriptions).replace("{names}", ", ".join(operators))


def policy_messages(row: Row, *, prompt: str, operators: Sequence[str], descriptions: str) -> list[dict[str, str]]:
    """
    Chat messages that ask for a workflow. Everything the executor will be shown of the problem is in them.

    Args:
        row ([`Row`]):
            Problem.
        prompt (`str`):
            Name of a prompt in `configs/policy_prompts.yaml`.
        operators (`Sequence[str]`):
            Names of the operators that may be used.
        descriptions (`str`):
            One line for each of them.

    Returns:
        `list[dict[str, str]]`: A system and a user message.
    """
    template = policy_prompts()[prompt]
    system = system_prompt(prompt, operators=operators, descriptions=descriptions)
    statement = f"{row.context}\n\n{row.question}" if row.context else row.question
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": template["user"].replace("{problem}", statement)},
    ]


def reasoning_messages(row: Row, *, prompt: str) -> list[dict[str, str]]:
    """
    Chat messages that ask for `<think>…</think><answer>…</answer>`.

    Args:
        row ([`Row`]):
            Problem.
        prompt (`str`):
            Name of a prompt in `configs/policy_prompts.yaml`.

    Returns:
        `list[dict[str, str]]`: A system and a user message.
    """
    return [
        {"role": "system", "content": policy_prompts()[prompt]["reason"]},
        {"role": "user", "content": f"{row.context}\n\n{row.question}" if row.context else row.question},
    ]
