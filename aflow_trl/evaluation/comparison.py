"""Comparison of systems: accuracy with intervals, costs, paired differences, the best of several, bounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from ..data import Row
from ..scoring.statistics import paired_bootstrap, wilson_interval
from .systems import Result, Results


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
        source, costs per problem, and the unscored share.
    """
    flat = [result for runs in results for result in runs]
    costs = [result.usd for result in flat]
    return {
        "strict": _accuracy(results, range(len(rows))),
        "aflow": _mean(result.aflow for result in flat),
        "by_domain": {name: _part(results, rows, "domain", name) for name in sorted({row.domain for row in rows})},
        "by_source": {name: _part(results, rows, "source", name) for name in sorted({row.source for row in rows})},
        "calls_per_problem": fmean(result.calls for result in flat),
        "tokens_per_problem": fmean(result.tokens for result in flat),
        "usd_per_problem": None if None in costs else fmean(cost for cost in costs if cost is not None),
        "seconds_per_problem": fmean(result.seconds for result in flat),
        "valid_share": fmean(result.valid for result in flat),
        "unscored_share": fmean(result.correct is None for result in flat),
        "workflows": len({result.workflow for result in flat if result.workflow}),
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
            Seed of the bootstrap.

    Returns:
        `dict[str, float]`: `mean` of left minus right, `low` and `high` of its 95 % interval, `p` (two-sided), `n`.
    """
    pairs = ((_solved(one), _solved(other)) for one, other in zip(left, right, strict=True))
    return asdict(paired_bootstrap([a - b for a, b in pairs if a is not None and b is not None], seed=seed))


def best_on(results: Mapping[str, Results]) -> str:
    """Name of the system that solves most problems; the cheaper one of equals."""

    # Compared on the problems that all were scored on: a system must not gain by what the infrastructure lost.
    common = [all(_solved(runs) is not None for runs in problem) for problem in zip(*results.values(), strict=True)]

    def rank(name: str) -> tuple[float, float]:
        problems = [runs for runs, shared in zip(results[name], common, strict=True) if shared] or results[name]
        solved = [value for value in map(_solved, problems) if value is not None]
        return (fmean(solved) if solved else 0.0, -fmean(run.calls for runs in problems for run in runs))

    return max(results, key=rank)


def pass_at_k(results: Mapping[str, Results]) -> Results:
    """
    The best result of any system for every problem and seed, the cheapest of equals: pass@k over the systems.

    It is an upper bound that no choice can reach, because it chooses by the very sample it is scored on: several weak
    systems with independent errors look good together. See [`oracle_choice`].
    """
    problems = zip(*results.values(), strict=True)
    return [[max(runs, key=_rank) for runs in zip(*systems, strict=True)] for systems in problems]


def oracle_choice(results: Mapping[str, Results]) -> Results | None:
    """
    Results of the system that is best on each problem, chosen by the other seeds than the one it is scored on.

    Args:
        results (`Mapping[str, list[list[Result]]]`):
            By system: by problem, by seed.

    Returns:
        `list[list[Result]]`, *optional*: By problem, by seed; `None` with fewer than two seeds, where there is no
        separate sample to choose by.
    """
    problems = list(zip(*results.values(), strict=True))
    if not problems or len(problems[0][0]) < 2:
        return None

    def choose(systems: Sequence[Sequence[Result]], seed: int) -> Result:
        def score(runs: Sequence[Result]) -> tuple[float, float]:
            others = [run for index, run in enumerate(runs) if index != seed]
            return (fmean(_rank(run)[0] for run in others), -fmean(run.calls for run in others))

        return max(systems, key=score)[seed]

    return [[choose(systems, seed) for seed in range(len(systems[0]))] for systems in problems]


def _rank(result: Result) -> tuple[float, int]:
    """Orders results: right before wrong before unscored, then the cheaper."""
    return (-1.0 if result.correct is None else result.correct, -result.calls)


def _accuracy(results: Results, indices: Iterable[int]) -> dict[str, float]:
    solved = [value for value in (_solved(results[index]) for index in indices) if value is not None]
    mean = fmean(solved) if solved else float("nan")
    low, high = wilson_interval(sum(solved), len(solved))
    return {"mean": mean, "low": low, "high": high, "n": len(solved)}


def _part(results: Results, rows: Sequence[Row], field: str, name: str) -> dict[str, Any]:
    indices = [index for index, row in enumerate(rows) if getattr(row, field) == name]
    flat = [result for index in indices for result in results[index]]
    return _accuracy(results, indices) | {"aflow": _mean(result.aflow for result in flat)}


def _solved(runs: Sequence[Result]) -> float | None:
    """Share of the scored seeds that solved a problem; `None` if none was scored."""
    return _mean(run.correct for run in runs)


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return fmean(defined) if defined else None
