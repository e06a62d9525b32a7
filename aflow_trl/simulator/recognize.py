"""Telling from the messages alone which operator asks, by inverting the prompt templates."""

from __future__ import annotations

import re
from functools import cache

from ..dsl import operator_table

_FIELD = re.compile(r"\{(\w+)\}")


def recognize(prompt: str) -> tuple[str, dict[str, str]]:
    """
    Operator and fields a prompt was rendered from.

    Args:
        prompt (`str`):
            Content of the last user message.

    Returns:
        `tuple[str, dict[str, str]]`: Name and fields; an unknown prompt is taken for a `Custom` about the whole text.
    """
    for name, pattern in _patterns():
        if match := pattern.match(prompt + "\n"):
            return name, {field: value or "" for field, value in match.groupdict().items()}
    return "Custom", {"problem": prompt, "attempt": ""}


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple(
        (name, re.compile(_invert(template), re.DOTALL))
        for name, row in operator_table().items()
        for template in row["prompts"].values()
    )


def _invert(template: str) -> str:
    """Pattern of everything a template can render to; lines with fields may be missing."""
    seen: set[str] = set()
    parts = []
    for line in template.split("\n"):
        fields = _FIELD.findall(line)
        pattern = re.escape(line)
        for field in fields:
            group = f"(?P={field})" if field in seen else f"(?P<{field}>.*?)"
            pattern = pattern.replace(re.escape("{" + field + "}"), group, 1)
            seen.add(field)
        parts.append(f"(?:{pattern}\n)?" if fields else f"{pattern}\n")
    return "".join(parts)
