"""The operators a workflow may use, as parser and static analysis see them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import TypeAlias, TypedDict

from ..assets import read_config
from .ast import MODEL, Operator, OperatorSpec

Vocabulary: TypeAlias = Mapping[str, OperatorSpec]


class _OptionalFields(TypedDict, total=False):
    # `NotRequired` would say this in one class, but is not in the standard library of Python 3.10.
    gives_verdict: bool
    is_ensemble: bool
    arguments: list[str]


class OperatorEntry(_OptionalFields):
    """An operator in `configs/operators.yaml`."""

    description: str
    max_calls: int
    prompts: dict[str, str]


@cache
def operator_table() -> Mapping[str, OperatorEntry]:
    """Content of `configs/operators.yaml`: description, static properties and prompts of each built-in operator."""
    table: dict[str, OperatorEntry] = read_config("operators.yaml")
    # Cached and shared by the whole process, so nobody may add to it.
    return MappingProxyType(table)


@cache
def builtin_vocabulary() -> Vocabulary:
    """The ten operators that ship with the package."""
    return MappingProxyType(
        {
            name: OperatorSpec(
                name=name,
                max_calls=entry["max_calls"],
                gives_verdict=entry.get("gives_verdict", False),
                is_ensemble=entry.get("is_ensemble", False),
                arguments=tuple(entry.get("arguments", ())),
            )
            for name, entry in operator_table().items()
        }
    )


def operator_calls(spec: OperatorSpec) -> list[Operator]:
    """Calls of an operator: the plain one, and one with each model."""
    return [Operator(spec.name), *(Operator(spec.name, ((MODEL, model),)) for model in spec.models)]
