"""Rendering of the prompt templates in `configs/operators.yaml`."""

from __future__ import annotations

import re

from ..dsl import operator_table

_FIELD = re.compile(r"\{(\w+)\}")


def render(operator: str, prompt: str = "default", **fields: str) -> str:
    """
    Render a prompt of a built-in operator.

    A line whose fields are all empty is omitted; braces in the values are kept.

    Args:
        operator (`str`):
            Name of the operator in `configs/operators.yaml`.
        prompt (`str`, *optional*, defaults to `"default"`):
            Name of the prompt, for operators with several.
        **fields (`str`):
            Values of the template's fields.

    Returns:
        `str`: The prompt.
    """
    return fill(operator_table()[operator]["prompts"][prompt], **fields)


def fill(template: str, **fields: str) -> str:
    """Fill a template by the rules of [`render`]."""
    # `str.format` would fail on the braces of code and LaTeX in a template, and cannot omit lines.
    lines = []
    for line in template.split("\n"):
        names = _FIELD.findall(line)
        if names and not any(fields[name] for name in names):
            continue
        lines.append(_FIELD.sub(lambda match: fields[match.group(1)], line))
    return "\n".join(lines)
