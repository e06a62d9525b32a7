"""What results amount to: accuracy with intervals, costs, paired differences, the best and the best possible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from ..data import Row
from ..scoring.statistics import paired_bootstrap, wilson_interval
from .results import Result, Results


def summarize_system(results: Results, rows: Sequence[Row]) -> dict[str, Any]:
    """
    Accuracy and cost of one system.

    Problems with several seeds count once, with their mean; a problem that no seed could score counts as unscored.

    Args:
        results (`list[list[Result]]`):
            By problem, by seed.
        rows (`Sequence[Row]`):
            The problems.

    Returns:
        `dict[str, Any]`: `strict` and `aflow` (mean, and for the strict one its Wilson interval), by domain and by
        source, costs a problem, and the unscored share.
    """
    flat = [one for own in results for one in own]
    costs = [one.usd for one in flat]
    return {
        "strict": _accuracy(results, range(len(rows))),
        "aflow": _mean(own.aflow for own in flat),
        "by_domain": {name: _part(results, rows, "domain", name) for name in sorted({row.domain for row in rows})},
        "by_source": {name: _part(results, rows, "source", name) for name in sorted({row.source for row in rows})},
        "calls_per_problem": fmean(one.calls for one in flat),
        "tokens_per_problem": fmean(one.tokens for one in flat),
        "usd_per_problem": None if None in costs else fmean(cost for cost in costs if cost is not None),
        "seconds_per_problem": fmean(one.seconds for one in flat),
        "valid_share": fmean(one.valid for one in flat),
        "unscored_share": fmean(one.correct is None for one in flat),
        "workflows": len({one.workflow for one in flat if one.workflow}),
    }


def paired_difference(left: Results, right: Results, *, seed: int = 0) -> dict[str, float]:
    """
    Difference of two systems on the problems both were scored on, with a bootstrap over problems.

    Args:
        left (`list[list[Result]]`):
            One system.
        right (`list[list[Result]]`):
            The other.
        seed (`int`, *optional*, defaults to `0`):
            Of the bootstrap.

    Returns:
        `dict[str, float]`: `mean` of left minus right, `low` and `high` of its 95 % interval, `p` (two-sided), `n`.
    """
    pairs = ((_solved(one), _solved(other)) for one, other in zip(left, right, strict=True))
    return asdict(paired_bootstrap([a - b for a, b in pairs if a is not None and b is not None], seed=seed))


def best_on(results: Mapping[str, Results]) -> str:
    """System with the most solved; the cheaper one of equals."""

    # On the problems that all were scored on, or a system would gain by what it lost.
    common = [all(_solved(runs) is not None for runs in problem) for problem in zip(*results.values(), strict=True)]

    def rank(name: str) -> tuple[float, float]:
        own = [runs for runs, shared in zip(results[name], common, strict=True) if shared] or results[name]
        known = [value for value in map(_solved, own) if value is not None]
        return (fmean(known) if known else 0.0, -fmean(one.calls for runs in own for one in runs))

    return max(results, key=rank)


def oracle(results: Mapping[str, Results]) -> Results:
    """Of every problem and seed the best result of any system, the cheapest of equals: perfect choice."""

    def rank(one: Result) -> tuple[float, int]:
        return (-1.0 if one.correct is None else one.correct, -one.calls)

    problems = zip(*results.values(), strict=True)
    return [[max(runs, key=rank) for runs in zip(*systems, strict=True)] for systems in problems]


def _accuracy(results: Results, indices: Iterable[int]) -> dict[str, float]:
    known = [value for value in (_solved(results[index]) for index in indices) if value is not None]
    mean = fmean(known) if known else float("nan")
    low, high = wilson_interval(sum(known), len(known))
    return {"mean": mean, "low": low, "high": high, "n": len(known)}


def _part(results: Results, rows: Sequence[Row], field: str, name: str) -> dict[str, Any]:
    indices = [index for index, row in enumerate(rows) if getattr(row, field) == name]
    flat = [one for index in indices for one in results[index]]
    return _accuracy(results, indices) | {"aflow": _mean(one.aflow for one in flat)}


def _solved(runs: Sequence[Result]) -> float | None:
    """Share of the scored seeds that solved a problem; `None` if none was scored."""
    return _mean(one.correct for one in runs)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
