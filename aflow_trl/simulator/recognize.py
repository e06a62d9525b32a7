"""
Recognises the operator behind a prompt by inverting the prompt templates.

The simulated executor gets messages only, as a real model does: no side channel says which operator is calling.
"""

from __future__ import annotations

import re
from functools import cache

from ..dsl import operator_table

_FIELD = re.compile(r"\{(\w+)\}")


def recognize(prompt: str) -> tuple[str, dict[str, str]]:
    """
    Recover the operator and the fields that a prompt was rendered from.

    Args:
        prompt (`str`):
            Content of the last user message.

    Returns:
        `tuple[str, dict[str, str]]`: Name of the operator, and its fields. An unknown prompt counts as a `Custom`
        whose problem is the whole text.
    """
    for name, pattern in _patterns():
        if match := pattern.match(prompt + "\n"):
            return name, {field: value or "" for field, value in match.groupdict().items()}
    return "Custom", {"problem": prompt, "attempt": ""}


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple(
        (name, re.compile(_invert(template), re.DOTALL))
        for name, entry in operator_table().items()
        for template in entry["prompts"].values()
    )


def _invert(template: str) -> str:
    """Regular expression that matches whatever a template can render to."""
    seen: set[str] = set()
    parts = []
    for line in template.split("\n"):
        fields = _FIELD.findall(line)
        pattern = re.escape(line)
        for field in fields:
            # A field that occurs twice has to have the same value both times.
            group = f"(?P={field})" if field in seen else f"(?P<{field}>.*?)"
            pattern = pattern.replace(re.escape("{" + field + "}"), group, 1)
            seen.add(field)
        # Rendering omits lines whose fields are all empty.
        parts.append(f"(?:{pattern}\n)?" if fields else f"{pattern}\n")
    return "".join(parts)
