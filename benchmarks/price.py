"""
Accuracy at a price: policies trained to a mean cost, next to the search they start from and to fixed workflows.

    python benchmarks/price.py runs/price                    # run the missing trainings, then print the tables
    python benchmarks/price.py runs/price --cells 3 budgets  # some of them
    python benchmarks/price.py runs/price --report           # only the tables of the existing results

Every training is `aflow-trl train` of a recipe in a process on one core: a search for workflows, fine-tuning on
those that meet the target, reinforcement learning at that target. An interrupted benchmark continues where it stopped.
All systems of a seed answer the same held-out problems with the same executor randomness.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from aflow_trl.console import report_console
from aflow_trl.evaluation import self_consistency
from aflow_trl.recipes import load_recipe
from aflow_trl.rollouts import Rollouts, accuracy
from aflow_trl.scoring.statistics import mean_interval
from aflow_trl.storage import write_json
from aflow_trl.tasks.session import build_engine, load_problems

RECIPE = str(Path(__file__).with_name("price.yaml"))
HELD_OUT = 600
"""Number of held-out problems."""
TARGETS = (1.5, 3.0, 6.0)
BUDGETS = dict(zip(("low", "medium", "high"), TARGETS, strict=True))
CELLS: dict[str, dict[str, object]] = {f"{target:g}": {"target_calls_per_problem": target} for target in TARGETS}
"""Options of each training, by name."""
CELLS["budgets"] = {"target_calls_per_problem": json.dumps(BUDGETS), "max_steps": 120}
FIXED = (
    "Custom",
    "AnswerGenerate",
    "Programmer",
    "CustomCodeGenerate",
    "Custom -> Review ? Revise : done",
    "AnswerGenerate -> Review ? Revise : done",
    "Programmer -> Review ? Revise : done",
    "Programmer -> Test ? Test : done",
    "[AnswerGenerate, Programmer] -> ScEnsemble",
    "[AnswerGenerate, AnswerGenerate, Programmer, Programmer] -> ScEnsemble",
    "[Programmer, Programmer, Programmer] -> ScEnsemble",
    "[AnswerGenerate, AnswerGenerate, AnswerGenerate] -> MdEnsemble",
)
"""Fixed workflows, beside votes over chains of thought."""
VOTES = (2, 3, 4, 5, 6, 7)


class Point(NamedTuple):
    """Accuracy and mean number of model calls of a system."""

    accuracy: float
    calls: float


def run_missing(out: Path, cells: Sequence[str], seeds: Sequence[int], workers: int) -> None:
    """Run the trainings that have no summary yet, `workers` at a time, then the fixed workflows of each seed."""

    def run(cell: tuple[int, str]) -> None:
        seed, name = cell
        folder = out / f"{name}-seed{seed}"
        if (folder / "summary.json").is_file():
            return
        folder.mkdir(parents=True, exist_ok=True)
        options = CELLS[name] | {"seed": seed, "num_eval_problems": HELD_OUT, "output_dir": folder}
        flags = [text for key, value in options.items() for text in (f"--{key}", str(value))]
        command = [sys.executable, "-m", "aflow_trl.train", RECIPE, *flags]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        with (folder / "log.txt").open("w", encoding="utf-8") as log:
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment).returncode
        print(f"{name}, seed {seed}: {'finished' if code == 0 else f'failed, see {folder}/log.txt'}", flush=True)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, [(seed, name) for seed in seeds for name in cells]))
    for seed in seeds:
        if not (out / f"fixed-seed{seed}.json").is_file():
            measure_fixed(out, seed)


def measure_fixed(out: Path, seed: int) -> None:
    """Run the fixed workflows on the held-out problems of a seed."""
    flags = ["--seed", str(seed), "--num_eval_problems", str(HELD_OUT), "--output_dir", str(out / "fixed")]
    recipe = load_recipe([RECIPE, *flags])
    rows, _ = load_problems(recipe)
    engine, _ = build_engine(recipe, [])
    rollouts = Rollouts(engine, seed=seed)

    async def work() -> dict[str, Point]:
        points = {}
        try:
            for text in [*FIXED, *map(self_consistency, VOTES)]:
                columns = [row.columns() for row in rows]
                # The salt of the evaluations of a training.
                batch = await rollouts.execute(
                    [text] * len(rows), columns, salt=f"{seed} evaluation", phase="fixed", step=0
                )
                points[text] = Point(accuracy(batch).mean, accuracy(batch).calls_per_problem)
        finally:
            await engine.aclose()
        return points

    write_json(out / f"fixed-seed{seed}.json", asyncio.run(work()))


def at_cost(points: Sequence[Point], calls: float) -> float:
    """
    Best accuracy that a choice among systems reaches at a mean number of calls.

    Two systems may be mixed: problems are given to one or the other at random, in the shares that meet the cost.
    """
    best = max((point.accuracy for point in points if point.calls <= calls), default=0.0)
    for cheap in points:
        for dear in points:
            if cheap.calls <= calls < dear.calls:
                share = (calls - cheap.calls) / (dear.calls - cheap.calls)
                best = max(best, (1 - share) * cheap.accuracy + share * dear.accuracy)
    return best


def policy_points(summary: Mapping[str, Any]) -> dict[str, dict[str, Point]]:
    """By budget (empty where there is one target): the search, the warm start and the trained policy."""
    report = summary["learning"]
    cells = {name: value["domains"]["all"] for name, value in (report["policies"] | report["fixed"]).items()}
    points: dict[str, dict[str, Point]] = {}
    targets = summary["recipe"]["target_calls_per_problem"]
    budgets = sorted(targets, key=BUDGETS.__getitem__) if isinstance(targets, dict) else [""]
    for budget in budgets:
        suffix = f", {budget} budget" if budget else ""
        # The largest budget has the names of the stages themselves.
        stage_suffix = "" if budget == budgets[-1] else suffix
        names = {"search": f"winner 1 of each group{suffix}"}
        names |= {"warm start": f"warm start{stage_suffix}", "trained": f"trained{stage_suffix}"}
        points[budget] = {key: Point(cells[name]["accuracy"], cells[name]["calls"]) for key, name in names.items()}
    return points


def report(out: Path, seeds: Sequence[int]) -> None:
    """Print the trained policies at each target, and their differences from everything else at equal cost."""
    table = Table(title=f"{HELD_OUT} held-out problems; means over seeds, 95 % t intervals of paired differences")
    headings = ("policy", "target", "seeds", "calls", "search", "warm start", "trained")
    for heading in (*headings, "− warm start", "− search", "− best fixed", "− votes"):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for name in CELLS:
        found = [seed for seed in seeds if (out / f"{name}-seed{seed}" / "summary.json").is_file()]
        if not found:
            continue
        summaries = [json.loads((out / f"{name}-seed{seed}" / "summary.json").read_text()) for seed in found]
        by_seed = [policy_points(summary) for summary in summaries]
        fixed = [json.loads((out / f"fixed-seed{seed}.json").read_text()) for seed in found]
        for budget in by_seed[0]:
            runs = [points[budget] for points in by_seed]
            target = BUDGETS[budget] if budget else float(name)
            trained = [run["trained"] for run in runs]
            listed = [[Point(*point) for point in content.values()] for content in fixed]
            votes = [
                [Point(*content[text]) for text in ("AnswerGenerate", *map(self_consistency, VOTES))]
                for content in fixed
            ]
            others = {
                "− warm start": [run["warm start"].accuracy for run in runs],
                "− search": [run["search"].accuracy for run in runs],
                "− best fixed": [at_cost(items, point.calls) for items, point in zip(listed, trained, strict=True)],
                "− votes": [at_cost(items, point.calls) for items, point in zip(votes, trained, strict=True)],
            }
            differences = [
                _interval([point.accuracy - other for point, other in zip(trained, values, strict=True)])
                for values in others.values()
            ]
            means = [_mean_point([run[key] for run in runs]) for key in ("search", "warm start", "trained")]
            calls = [point.calls for point in trained]
            table.add_row(
                f"{name} {budget}".strip(), f"{target:g}", str(len(found)), _interval(calls, 2), *means, *differences
            )
    report_console().print(table)


def _mean_point(points: Sequence[Point]) -> str:
    mean = Point(*map(statistics.fmean, zip(*points, strict=True)))
    return f"{mean.accuracy:.3f} @ {mean.calls:.2f}"


def _interval(values: Sequence[float], digits: int = 3) -> str:
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {mean_interval(values).high - mean:.{digits}f}"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="number of trainings at once")
    parser.add_argument("--report", action="store_true", help="train nothing")
    args = parser.parse_args()
    if not args.report:
        run_missing(args.out, args.cells, args.seeds, args.workers)
    report(args.out, args.seeds)


if __name__ == "__main__":
    main()
