"""Shares of domains in a data set, and the digest of a split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from ..errors import RecipeError
from .schema import DOMAINS, Row


def read_ratio(text: str) -> dict[str, float]:
    """
    Ratio of domains from text such as `math=2,code=1,qa=1`, or `1:1:1` for math, code, qa.

    Raises:
        [`RecipeError`]: It is neither.
    """
    try:
        if "=" in text:
            pairs = [part.split("=") for part in text.split(",")]
            ratio = {name.strip(): float(value) for name, value in pairs}
        else:
            ratio = dict(zip(DOMAINS, map(float, text.split(":")), strict=True))
    except ValueError:
        ratio = {}
    if not ratio or set(ratio) - set(DOMAINS) or min(ratio.values()) < 0 or not sum(ratio.values()):
        raise RecipeError(f"the ratio {text!r} cannot be read. Write 1:1:1 (math, code, qa) or math=2,code=1.")
    return ratio


def shares(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """
    Whole numbers that sum to a total in the ratio of weights. Nothing of positive weight is left without one as long
    as the total allows it.

    Args:
        total (`int`):
            Sum of the shares.
        weights (`Mapping[str, float]`):
            Weights by name.

    Returns:
        `dict[str, int]`: Share of each name.
    """
    wanted = {name: weight for name, weight in weights.items() if weight > 0}
    exact = {name: total * weight / sum(wanted.values()) for name, weight in wanted.items()}
    counts = {name: int(value) for name, value in exact.items()}
    rest = sorted(wanted, key=lambda name: (counts[name] - exact[name], name))
    for name in rest[: total - sum(counts.values())]:
        counts[name] += 1
    for name in sorted(wanted, key=lambda name: -wanted[name]):
        richest = max(counts, key=lambda other: counts[other])
        if counts[name] == 0 and counts[richest] > 1:
            counts[name], counts[richest] = 1, counts[richest] - 1
    return dict.fromkeys(weights, 0) | counts


def mix(rows: Sequence[Row], ratio: Mapping[str, float], total: int | None = None) -> list[Row]:
    """
    Rows in the ratio of their domains, in their order, none twice.

    Args:
        rows (`Sequence[Row]`):
            Rows of all domains.
        ratio (`Mapping[str, float]`):
            Weights of the domains.
        total (`int`, *optional*):
            Rows to take. Defaults to as many as the ratio allows; a domain that has no rows is left out of it.

    Returns:
        `list[Row]`: The rows; fewer than `total` where a domain has not enough.
    """
    own = {name: [row for row in rows if row.domain == name] for name in ratio}
    if total is None:
        full = {name: len(own[name]) / weight for name, weight in ratio.items() if weight > 0 and own[name]}
        least = min(full.values(), default=0.0)
        wanted = {name: max(1, int(least * ratio[name])) if name in full else 0 for name in ratio}
    else:
        wanted = shares(total, ratio)
    kept = {id(row) for name in ratio for row in own[name][: wanted[name]]}
    return [row for row in rows if id(row) in kept]


def split_digest(rows: Sequence[Row]) -> str:
    """SHA-256 over the rows of a split, whatever their order."""
    lines = sorted(json.dumps(row.columns(), sort_keys=True, ensure_ascii=False) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
