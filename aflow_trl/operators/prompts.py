"""Filling the prompts of `configs/operators.yaml`."""

from __future__ import annotations

import re

from ..dsl import operator_table

_FIELD = re.compile(r"\{(\w+)\}")


def render(operator: str, prompt: str = "default", **fields: str) -> str:
    """
    Fill a prompt. A line all of whose fields are empty is left out; braces in the values are kept as they are.

    Args:
        operator (`str`):
            Name of the operator in `configs/operators.yaml`.
        prompt (`str`, *optional*, defaults to `"default"`):
            Which of its prompts.
        **fields (`str`):
            Values of the fields.

    Returns:
        `str`: The prompt.
    """
    return fill(operator_table()[operator]["prompts"][prompt], **fields)


def fill(template: str, **fields: str) -> str:
    """[`render`] for a template that is given as text."""
    lines = []
    for line in template.split("\n"):
        names = _FIELD.findall(line)
        if names and not any(fields[name] for name in names):
            continue
        lines.append(_FIELD.sub(lambda match: fields[match.group(1)], line))
    return "\n".join(lines)
