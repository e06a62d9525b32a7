"""Tables and plots of the study that `learning.py` runs. Intervals are 95 % t intervals over the seeds."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, TypedDict

from matplotlib import colormaps
from matplotlib.axes import Axes

from aflow_trl.runs import new_figure, save_figure
from aflow_trl.scoring.statistics import mean_interval

EQUAL_ACCURACY = 0.7
"""Held-out accuracy at which estimators are compared by the model calls that training took to reach it."""
WINDOW_STEPS = 5
"""Number of training batches that are averaged to find a collapse: one odd batch is none."""
BOUNDS = ("best fixed", "best fixed per domain")
REFERENCE = "wa_grpo"
"""Estimator that the others are compared with, seed by seed."""
HEADINGS = (
    "K",
    "estimator",
    "area under the curve",
    "final accuracy",
    "calls per problem",
    f"training calls to {EQUAL_ACCURACY} (reached)",
    "minimum valid share",
    "groups decisive / tie-broken / dead",
    "collapses",
    "distinct workflows per domain",
)


class CurvePoint(TypedDict):
    """The policy on the held-out problems at one step."""

    step: int
    accuracy: float
    by_domain: dict[str, float]
    calls: float
    """Model calls per problem."""
    valid: float
    """Share of valid workflows."""
    workflows: dict[str, dict[str, int]]
    """Number of problems by domain and workflow."""
    training_calls: int
    """Model calls of training up to this step."""
    evaluation_calls: int
    """Model calls of this evaluation."""


class Result(TypedDict):
    """Content of `result.json`: one training."""

    estimator: str
    k: int
    """Group size."""
    seed: int
    curve: list[CurvePoint]
    logs: list[dict[str, float | None]]
    """Metrics of every step; a value that JSON cannot hold is `None`."""


Study: TypeAlias = Mapping[tuple[int, str], Mapping[int, Result]]
"""Results by (group size, estimator), then by seed."""


def report(out: Path, order: Sequence[str], title: str) -> None:
    """
    Write `study.md` and `study.png`, and print the tables.

    Args:
        out (`Path`):
            Folder of the study.
        order (`Sequence[str]`):
            Estimators in the order of the tables; others that have results follow.
        title (`str`):
            First line of the page.
    """
    study = read_study(out)
    if not study:
        raise SystemExit(f"{out} holds no result.json yet. Run the study without --report.")
    sizes = sorted({size for size, _ in study})
    present = {name for _, name in study}
    names = [*(name for name in order if name in present), *sorted(present - set(order))]
    levels = reference_levels(out, study)
    lines = [title, "", *(f"- {name}: {value:.3f}" for name, value in levels.items()), ""]
    lines += results_table(study, sizes, names)
    for measure, of in ((area, "area under the curve"), (final_accuracy, "final accuracy")):
        lines += ["", f"`{REFERENCE}` minus the others, {of}, seed by seed:", ""]
        lines += differences_table(study, sizes, names, measure)
    (out / "study.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    plot(study, sizes, names, levels, out / "study.png")
    print("\n".join(lines))


def read_study(out: Path) -> Study:
    """All finished trainings of a study."""
    study: dict[tuple[int, str], dict[int, Result]] = {}
    for path in sorted(out.glob("*/result.json")):
        result: Result = json.loads(path.read_text(encoding="utf-8"))
        study.setdefault((result["k"], result["estimator"]), {})[result["seed"]] = result
    return study


def reference_levels(out: Path, study: Study) -> dict[str, float]:
    """Accuracy of the best fixed workflows, where it was measured, and of the untrained policy; means over seeds."""
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("bounds-seed*.json"))]
    levels = {name: statistics.fmean(content[name] for content in contents) for name in BOUNDS} if contents else {}
    untrained = [result["curve"][0]["accuracy"] for results in study.values() for result in results.values()]
    return levels | {"untrained": statistics.fmean(untrained)}


def results_table(study: Study, sizes: Sequence[int], names: Sequence[str]) -> list[str]:
    """Markdown table with one line for each group size and estimator."""
    lines = [_table_row(HEADINGS), "|---" * len(HEADINGS) + "|"]
    for size, name in itertools.product(sizes, names):
        if results := study.get((size, name)):
            lines.append(_table_row((str(size), name, *result_cells(list(results.values())))))
    return lines


def differences_table(
    study: Study, sizes: Sequence[int], names: Sequence[str], measure: Callable[[Sequence[CurvePoint]], float]
) -> list[str]:
    """Markdown table of the paired differences between [`REFERENCE`] and the other estimators."""
    others = [name for name in names if name != REFERENCE]
    lines = [_table_row(("K", *others)), "|---" * (len(others) + 1) + "|"]
    for size in sizes:
        reference = study.get((size, REFERENCE), {})
        cells = [str(size)]
        for name in others:
            compared = study.get((size, name), {})
            seeds = sorted(reference.keys() & compared.keys())
            gaps = [measure(reference[seed]["curve"]) - measure(compared[seed]["curve"]) for seed in seeds]
            cells.append(format_interval(gaps) if gaps else "")
        lines.append(_table_row(cells))
    return lines


def result_cells(results: Sequence[Result]) -> list[str]:
    """Cells of one estimator at one group size, from the trainings of all seeds."""
    final = [result["curve"][-1] for result in results]
    distinct = [statistics.fmean(len(counts) for counts in point["workflows"].values()) for point in final]
    calls = [calls_until(result["curve"], EQUAL_ACCURACY) for result in results]
    reached = [value for value in calls if value is not None]
    groups = [
        statistics.fmean(share for result in results for share in _group_shares(result, kind))
        for kind in ("decisive", "tie_broken", "dead")
    ]
    return [
        format_interval([area(result["curve"]) for result in results]),
        format_interval([point["accuracy"] for point in final]),
        f"{statistics.fmean(point['calls'] for point in final):.1f}",
        (f"{statistics.fmean(reached):,.0f}" if reached else "–") + f" ({len(reached)}/{len(calls)})",
        f"{min(point['valid'] for result in results for point in result['curve']):.2f}",
        " / ".join(f"{share:.2f}" for share in groups),
        f"{sum(map(collapsed, results))}/{len(results)}",
        f"{statistics.fmean(distinct):.0f}",
    ]


def area(curve: Sequence[CurvePoint]) -> float:
    """Mean held-out accuracy over training, by the trapezoid rule."""
    total = sum(
        (right["step"] - left["step"]) * (left["accuracy"] + right["accuracy"]) / 2
        for left, right in itertools.pairwise(curve)
    )
    return total / (curve[-1]["step"] - curve[0]["step"])


def final_accuracy(curve: Sequence[CurvePoint]) -> float:
    """Held-out accuracy after the last step."""
    return curve[-1]["accuracy"]


def collapsed(result: Result) -> bool:
    """Whether valid share or accuracy fell below half of its best so far, in training batches or held out."""
    valid, right = _logged(result, "workflows/valid"), _logged(result, "accuracy/all")
    series = [
        _window_means(valid),
        _window_means(right),
        [point["valid"] for point in result["curve"]],
        [point["accuracy"] for point in result["curve"]],
    ]
    return any(
        value < best / 2
        for values in series
        for value, best in zip(values, itertools.accumulate(values, max), strict=True)
    )


def calls_until(curve: Sequence[CurvePoint], accuracy: float) -> float | None:
    """Model calls of training until a held-out accuracy is reached, interpolated; `None` if it is not reached."""
    for before, after in itertools.pairwise(curve):
        if after["accuracy"] >= accuracy:
            # Training may start above the accuracy and stay there, with nothing to interpolate.
            share = (accuracy - before["accuracy"]) / max(1e-9, after["accuracy"] - before["accuracy"])
            calls = before["training_calls"] + share * (after["training_calls"] - before["training_calls"])
            return max(calls, float(before["training_calls"]))
    return None


def format_interval(values: Sequence[float]) -> str:
    """Mean ± half the width of its interval; the mean alone where there is no interval."""
    interval = mean_interval(values)
    half = interval.high - interval.mean
    return f"{interval.mean:.3f} ± {half:.3f}" if math.isfinite(half) else f"{interval.mean:.3f}"


def plot(study: Study, sizes: Sequence[int], names: Sequence[str], levels: Mapping[str, float], path: Path) -> None:
    """Held-out accuracy by step at every group size: mean over seeds, with a band from the minimum to the maximum."""
    figure, axes = new_figure(columns=len(sizes), figsize=(4 * len(sizes), 4.2), sharey=True)
    panels = list(axes) if len(sizes) > 1 else [axes]
    for panel, size in zip(panels, sizes, strict=True):
        for index, name in enumerate(names):
            if results := study.get((size, name)):
                _draw_band(panel, list(results.values()), colormaps["tab10"](index), name)
        for name, style in zip(BOUNDS, ("--", "-."), strict=True):
            if name in levels:
                panel.axhline(levels[name], color="#777777", linestyle=style, linewidth=1, label=name)
        panel.set(title=f"K = {size}", xlabel="optimiser step", ylim=(0.3, 1.0))
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("held-out accuracy")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9, frameon=False)
    save_figure(figure, path)


def _draw_band(panel: Axes, results: Sequence[Result], colour: tuple[float, ...], label: str) -> None:
    steps = [point["step"] for point in results[0]["curve"]]
    by_step = list(zip(*([point["accuracy"] for point in result["curve"]] for result in results), strict=True))
    panel.plot(steps, [statistics.fmean(values) for values in by_step], color=colour, label=label, linewidth=2)
    lowest, highest = [min(values) for values in by_step], [max(values) for values in by_step]
    panel.fill_between(steps, lowest, highest, color=colour, alpha=0.12)


def _logged(result: Result, key: str) -> list[float]:
    """Logged values of a metric, without the steps that have none."""
    return [value for entry in result["logs"] if (value := entry.get(key)) is not None]


def _group_shares(result: Result, kind: str) -> list[float]:
    """Share of the groups of a kind in each step."""
    counts, totals = _logged(result, f"groups/{kind}"), _logged(result, "groups/total")
    return [count / total for count, total in zip(counts, totals, strict=True)]


def _window_means(values: Sequence[float]) -> list[float]:
    starts = range(len(values) - WINDOW_STEPS + 1)
    return [statistics.fmean(values[start : start + WINDOW_STEPS]) for start in starts]


def _table_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
