"""Statistics of systems: accuracy and cost, paired differences, and upper bounds for choosing among systems."""

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
    Accuracy and cost of a system.

    A problem counts once, with the mean over its seeds: runs of the same problem are not independent, and counting
    each would make the interval too narrow. A problem that no seed could score is left out.

    Args:
        results (`list[list[Result]]`):
            Results by problem and seed.
        rows (`Sequence[Row]`):
            The problems.

    Returns:
        `dict[str, Any]`: `strict`, accuracy with its Wilson interval, `aflow` and `aflow_fair`, the means of AFlow's
        metric as published and reading LaTeX; these again in `by_domain` and `by_source`; cost per problem, and the
        shares of valid and of unscored results.
    """
    flat = [result for runs in results for result in runs]
    # One unknown price makes the total unknown: leaving it out would make the system look cheap.
    costs = [result.usd for result in flat]
    return {
        "strict": _accuracy(results, range(len(rows))),
        "aflow": _mean(result.aflow for result in flat),
        "aflow_fair": _mean(result.aflow_fair for result in flat),
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
    Difference in accuracy between two systems on the problems both were scored on, with a bootstrap over problems.

    Args:
        left (`list[list[Result]]`):
            Results of the first system.
        right (`list[list[Result]]`):
            Results of the second system.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the bootstrap.

    Returns:
        `dict[str, float]`: `mean` of left minus right, `low` and `high` of its 95 % interval, the two-sided `p`, and
        the number of problems `n`.
    """
    pairs = ((_solved(left_runs), _solved(right_runs)) for left_runs, right_runs in zip(left, right, strict=True))
    return asdict(paired_bootstrap([a - b for a, b in pairs if a is not None and b is not None], seed=seed))


def best_on(results: Mapping[str, Results]) -> str:
    """
    Name of the system with the highest accuracy; in a tie, of the cheapest.

    Args:
        results (`Mapping[str, list[list[Result]]]`):
            Results of each system by problem and seed.
    """
    # On the problems that all were scored on: a system must not gain from what the infrastructure lost.
    common = [all(_solved(runs) is not None for runs in problem) for problem in zip(*results.values(), strict=True)]

    def rank(name: str) -> tuple[float, float]:
        problems = [runs for runs, shared in zip(results[name], common, strict=True) if shared] or results[name]
        solved = [value for value in map(_solved, problems) if value is not None]
        return (fmean(solved) if solved else 0.0, -fmean(run.calls for runs in problems for run in runs))

    return max(results, key=rank)


def pass_at_k(results: Mapping[str, Results]) -> Results:
    """
    Pass@k over systems: the best result of any of them for every problem and seed, in a tie the cheapest.

    No choice of a system can reach this bound, because it chooses by the very sample that it is scored on: several
    weak systems with independent errors look good together. [`oracle_choice`] is the tighter one.
    """
    problems = zip(*results.values(), strict=True)
    return [[max(runs, key=_rank) for runs in zip(*systems, strict=True)] for systems in problems]


def oracle_choice(results: Mapping[str, Results]) -> Results | None:
    """
    Results of the best system for each problem, chosen by the seeds other than the one that is scored.

    Args:
        results (`Mapping[str, list[list[Result]]]`):
            Results of each system by problem and seed.

    Returns:
        `list[list[Result]]`, *optional*: Results by problem and seed; `None` with fewer than two seeds, where there
        is no separate sample to choose by.
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
    """Sort key that grows with quality: unscored, wrong, right; in a tie the cheaper is greater."""
    return (-1.0 if result.correct is None else result.correct, -result.calls)


def _accuracy(results: Results, indices: Iterable[int]) -> dict[str, float]:
    solved = [value for value in (_solved(results[index]) for index in indices) if value is not None]
    mean = fmean(solved) if solved else float("nan")
    # Wilson, not normal: accuracies of 0 and 1 on small files need an interval too.
    low, high = wilson_interval(sum(solved), len(solved))
    return {"mean": mean, "low": low, "high": high, "n": len(solved)}


def _part(results: Results, rows: Sequence[Row], field: str, name: str) -> dict[str, Any]:
    indices = [index for index, row in enumerate(rows) if getattr(row, field) == name]
    flat = [result for index in indices for result in results[index]]
    return _accuracy(results, indices) | {
        "aflow": _mean(result.aflow for result in flat),
        "aflow_fair": _mean(result.aflow_fair for result in flat),
    }


def _solved(runs: Sequence[Result]) -> float | None:
    """Share of the scored seeds that solved a problem; `None` if none was scored."""
    return _mean(run.correct for run in runs)


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return fmean(defined) if defined else None
