"""Values of single keys, checked before the classes of TRL and transformers see them: place, type, range, choice."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import yaml
from trl import GRPOConfig

from ..errors import RecipeError

POSITIVE, NOT_NEGATIVE = "must be greater than 0", "must be 0 or more"
RANGES: dict[str, str] = {
    **dict.fromkeys(
        (
            *("num_train_epochs", "per_device_train_batch_size", "per_device_eval_batch_size"),
            *("gradient_accumulation_steps", "steps_per_generation", "num_iterations", "generation_batch_size"),
            *("logging_steps", "save_steps", "eval_steps", "max_completion_length", "temperature", "lora_r"),
            *("lora_alpha", "adam_epsilon", "repetition_penalty"),
        ),
        POSITIVE,
    ),
    **dict.fromkeys(
        (
            *("learning_rate", "weight_decay", "max_grad_norm", "beta", "epsilon", "epsilon_high", "top_k", "min_p"),
            *("warmup_steps", "warmup_ratio", "save_total_limit", "lora_dropout", "seed"),
        ),
        NOT_NEGATIVE,
    ),
}
"""What the classes of others accept without a word and fail on later, or never."""
SHARES = ("top_p", "min_p", "lora_dropout", "adam_beta1", "adam_beta2", "vllm_gpu_memory_utilization")
"""Values that are 1 at most."""
# TRL names the values in the help of a key, and compares with them in the middle of the first step.
_SUPPORTED = re.compile(r"Supported (?:values|options) are:? ((?:'\w+',? ?(?:and )?)+)")
CHOICES = {
    item.name: re.findall(r"'(\w+)'", match[1])
    for item in fields(GRPOConfig)
    if item.name in ("loss_type", "vllm_importance_sampling_mode")
    and (match := _SUPPORTED.search(item.metadata.get("help", "")))
}
"""Values that TRL supports, by key."""
CHOICES |= {"vllm_mode": ["server", "colocate"], "importance_sampling_level": ["token", "sequence"]}


class _Loader(yaml.SafeLoader):
    """YAML in which a key may not stand twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if key in seen:
                raise RecipeError(
                    f"the key {key!r} stands twice, in lines {seen[key]} and {line}. Remove one of them."
                )
            seen[key] = line
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """
    Content of a recipe file.

    Raises:
        [`RecipeError`]: A key stands twice.
        `yaml.YAMLError`: It is not YAML.
    """
    return yaml.load(text, _Loader)


def lines_of(text: str) -> dict[str, int]:
    """Line of each key of a recipe file, from 1."""
    keys = ((number, re.match(r"(\w+)\s*:", line)) for number, line in enumerate(text.splitlines(), 1))
    return {match[1]: number for number, match in keys if match is not None}


def check_values(values: Mapping[str, Any], parts: Sequence[type], where: Mapping[str, str]) -> None:
    """
    Check the values of a recipe file and of flags one by one.

    Args:
        values (`Mapping[str, Any]`):
            Values by key; those of flags are texts.
        parts (`Sequence[type]`):
            Dataclasses of a recipe.
        where (`Mapping[str, str]`):
            Place of each key, for messages.

    Raises:
        [`RecipeError`]: A value cannot be meant.
    """
    for name, value in values.items():
        kind = kind_of(name, parts)
        if kind is not None and (reason := _wrong(name, kind, value)):
            raise RecipeError(f"{where.get(name, name)}: {name} is {value!r}; it {reason}.")


def kind_of(name: str, parts: Sequence[type]) -> str | None:
    """Annotation of a key as text; `None` if no part has it."""
    # Not the type of the field: transformers' parser changes it when it parses for the first time.
    annotations = (vars(cls).get("__annotations__", {}) for part in parts for cls in part.__mro__)
    return next((str(known[name]).lower() for known in annotations if name in known), None)


def _wrong(name: str, kind: str, value: Any) -> str:
    """Why a value is wrong; empty if it is not."""
    if value is None:
        return "" if "none" in kind or "optional" in kind else "needs a value, or leave the key out"
    if isinstance(value, list | tuple | dict) and not any(word in kind for word in ("list", "dict", "mapping", "any")):
        return "must be a single value"
    if name in CHOICES and isinstance(value, str) and value not in CHOICES[name]:
        return f"must be one of {', '.join(CHOICES[name])}"
    number = _number(value)
    if number is None:
        return ""
    rule = RANGES.get(name, "")
    if (rule == POSITIVE and number <= 0) or (rule == NOT_NEGATIVE and number < 0):
        return rule
    if name in SHARES and not 0 <= number <= 1:
        return "must be between 0 and 1"
    if name == "max_steps" and number <= 0 and number != -1:
        return "must be greater than 0, or -1 for num_train_epochs"
    return "must be at least 2" if name == "num_generations" and number < 2 else ""


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
