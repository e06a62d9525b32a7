"""Mixes the domains of a data set in a given ratio, and computes the digest of a split."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence

from ..errors import RecipeError
from ..scoring import BUILTIN_DOMAINS, known_domains
from .schema import Row


def read_ratio(text: str) -> dict[str, float]:
    """
    Parse a ratio of domains.

    Args:
        text (`str`):
            Either `math=2,code=1,qa=1` or `1:1:1`, for math, code and qa.

    Returns:
        `dict[str, float]`: Weight of each domain named; at least one is positive.

    Raises:
        [`RecipeError`]: The text is neither, or a weight is negative or not finite.
    """
    try:
        if "=" in text:
            pairs = [part.split("=") for part in text.split(",")]
            ratio = {name.strip(): float(value) for name, value in pairs}
        else:
            ratio = dict(zip(BUILTIN_DOMAINS, map(float, text.split(":")), strict=True))
    except ValueError:
        ratio = {}
    if not _is_ratio(ratio):
        raise RecipeError(f"the ratio {text!r} cannot be read. Use 1:1:1 (math, code, qa) or math=2,code=1.")
    return ratio


def _is_ratio(ratio: Mapping[str, float]) -> bool:
    """Whether all keys are domains, and the weights are finite and not negative, with at least one above 0."""
    weights = ratio.values()
    return (
        set(ratio) <= set(known_domains())
        and all(math.isfinite(weight) and weight >= 0 for weight in weights)
        and any(weight > 0 for weight in weights)
    )


def shares(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """
    Divide a total into whole numbers in the ratio of the weights.

    Largest remainders are rounded up. Then every name with a positive weight gets at least 1 if the total allows it:
    rounding must not drop a domain from training.

    Args:
        total (`int`):
            Sum of the shares.
        weights (`Mapping[str, float]`):
            Weights by name, at least one above 0.

    Returns:
        `dict[str, int]`: Share of each name.
    """
    positive = {name: weight for name, weight in weights.items() if weight > 0}
    exact = {name: total * weight / sum(positive.values()) for name, weight in positive.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(positive, key=lambda name: (counts[name] - exact[name], name))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    for name in sorted(positive, key=lambda name: -positive[name]):
        largest = max(counts, key=lambda other: counts[other])
        if counts[name] == 0 and counts[largest] > 1:
            counts[name], counts[largest] = 1, counts[largest] - 1
    return dict.fromkeys(weights, 0) | counts


def mix(rows: Sequence[Row], ratio: Mapping[str, float], total: int | None = None) -> list[Row]:
    """
    Select rows in the ratio of their domains, each at most once.

    Args:
        rows (`Sequence[Row]`):
            Rows of all domains.
        ratio (`Mapping[str, float]`):
            Weights of the domains, at least one above 0.
        total (`int`, *optional*):
            Number of rows to select. Defaults to as many as the ratio allows, leaving out domains without rows.

    Returns:
        `list[Row]`: The selection, in the order of `rows`. Fewer than `total` if a domain does not have enough rows.

    Raises:
        [`RecipeError`]: The ratio has an unknown domain or no positive weight, or `total` is less than 1.
    """
    if not _is_ratio(ratio):
        raise RecipeError(
            f"the ratio is {dict(ratio)}. Weight some of {', '.join(known_domains())}, at least one above 0."
        )
    if total is not None and total < 1:
        raise RecipeError(f"the total is {total} rows. Use at least 1.")
    rows_by_domain = {name: [row for row in rows if row.domain == name] for name in ratio}
    if total is None:
        scales = {
            name: len(rows_by_domain[name]) / weight
            for name, weight in ratio.items()
            if weight > 0 and rows_by_domain[name]
        }
        # The scarcest domain limits the others, since no row is used twice.
        scale = min(scales.values(), default=0.0)
        counts = {name: max(1, int(scale * ratio[name])) if name in scales else 0 for name in ratio}
    else:
        counts = shares(total, ratio)
    # By identity: equal rows are distinct rows here, and hashing every text would be slow.
    selected = {id(row) for name in ratio for row in rows_by_domain[name][: counts[name]]}
    return [row for row in rows if id(row) in selected]


def split_digest(rows: Sequence[Row]) -> str:
    """SHA-256 of the rows of a split, independent of their order."""
    lines = sorted(json.dumps(row.columns(), sort_keys=True, ensure_ascii=False) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
