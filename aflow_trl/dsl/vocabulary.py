"""The operators a workflow may name, as static analysis sees them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, TypeAlias

from ..assets import read_config
from .ast import OperatorSpec

Vocabulary: TypeAlias = Mapping[str, OperatorSpec]


@cache
def operator_table() -> Mapping[str, Mapping[str, Any]]:
    """`configs/operators.yaml` as it stands: name → description, prompts and static facts."""
    table: dict[str, Mapping[str, Any]] = read_config("operators.yaml")
    return MappingProxyType(table)


@cache
def builtin_vocabulary() -> Vocabulary:
    """The ten operators that ship with the package."""
    return MappingProxyType(
        {
            name: OperatorSpec(
                name=name,
                max_calls=row["max_calls"],
                gives_verdict=row.get("gives_verdict", False),
                is_ensemble=row.get("is_ensemble", False),
                arguments=tuple(row.get("arguments", ())),
            )
            for name, row in operator_table().items()
        }
    )
