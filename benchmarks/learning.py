"""
Study of the advantage: every estimator at every group size, on the simulated executor with the real trainer.

    python benchmarks/learning.py runs/study            # trains what is missing, then writes study.md and study.png
    python benchmarks/learning.py runs/study --report   # only the tables and plots of what is there

Each training is a process of its own on one core and leaves one JSON file, so that a study can be stopped and
started again. All trainings of a seed start from the same policy and, at one group size, meet the same problems.
Intervals are 95 % (Student) over the seeds.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ESTIMATORS: dict[str, dict[str, Any]] = {
    "grpo": {"advantage_estimator": "grpo"},
    "dr_grpo": {"advantage_estimator": "dr_grpo"},
    "batch": {"advantage_estimator": "batch"},
    "wa_grpo": {"advantage_estimator": "wa_grpo"},
    "wa_grpo_classic": {"advantage_estimator": "wa_grpo_classic"},
    # A candidate: no tie-break.
    "alpha0": {"advantage_estimator": "wa_grpo", "tie_break_alpha": 0.0},
}
STUDIED = [name for name in ESTIMATORS if name != "alpha0"]
STEPS, EVALUATE_EVERY, BATCH, HELD_OUT = 50, 10, 48, 120
EQUAL_ACCURACY = 0.7
"""Held-out accuracy at which the calls that training took are compared."""
BOUND_CALLS = 8_000
BOUNDS = ("best fixed", "best fixed per domain")
STUDENT_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Two-sided 95 % quantiles of Student's distribution, by degrees of freedom from 1."""


def train(name: str, size: int, seed: int, out: Path) -> None:
    """One training with its held-out curve."""
    import torch
    from transformers import TrainerCallback

    from aflow_trl.data import build_dataset
    from aflow_trl.evaluation import Evaluator
    from aflow_trl.recipes import load_recipe
    from aflow_trl.rewards import workflow_rewards
    from aflow_trl.rollouts import accuracy, valid_share, workflow_counts
    from aflow_trl.tasks.session import connect, load_problems, make_rollouts, make_trainer, prompt_arguments

    torch.set_num_threads(1)
    folder = out / f"{name}-k{size}-seed{seed}"
    options = ESTIMATORS[name] | {
        "num_generations": size,
        "seed": seed,
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "num_eval_problems": HELD_OUT,
        "logging_steps": 1,
        # RL alone, from the untrained policy.
        "warm_start": "false",
        "collapse_guard": "off",
        "learning_rate": 2e-3,
        "warmup_steps": 5,
        "output_dir": folder,
    }
    recipe = load_recipe(
        ["quickstart.yaml", *(text for key, value in options.items() for text in (f"--{key}", str(value)))]
    )
    eval_rows, train_rows = load_problems(recipe)
    engine, _ = connect(recipe)
    rollouts = make_rollouts(recipe, engine)
    rollouts.trace_path = None
    arguments = prompt_arguments(recipe)
    trainer = make_trainer(
        recipe, workflow_rewards(rollouts, recipe.reward_names), build_dataset(train_rows, **arguments)
    )
    prompts = list(build_dataset(eval_rows, **arguments)["prompt"])
    evaluator = Evaluator(trainer, rollouts, eval_rows, prompts, seed=seed)
    curve: list[dict[str, Any]] = []

    def look(step: int) -> None:
        spent = rollouts.totals["model_calls"]
        batch = evaluator.policy(f"step {step}")
        own = accuracy(batch)
        curve.append(
            {
                "step": step,
                "accuracy": own.mean,
                "by_domain": own.by_domain,
                "calls": own.calls_per_problem,
                "valid": valid_share(batch),
                "workflows": workflow_counts(batch),
                "training_calls": spent - sum(point["evaluation_calls"] for point in curve),
                "evaluation_calls": rollouts.totals["model_calls"] - spent,
            }
        )

    class Curve(TrainerCallback):  # type: ignore[misc]
        """Held-out evaluation every few steps."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Evaluate."""
            if state.global_step % EVALUATE_EVERY == 0:
                look(state.global_step)

    trainer.add_callback(Curve())
    look(0)
    trainer.train()
    logs = [
        {key: value for key, value in entry.items() if "/" in key or key in ("step", "entropy", "grad_norm")}
        for entry in trainer.state.log_history
        if "workflows/valid" in entry
    ]
    result = {"estimator": name, "k": size, "seed": seed, "curve": curve, "logs": logs}
    scratch = folder / "result.tmp"
    folder.mkdir(parents=True, exist_ok=True)
    scratch.write_text(json.dumps(result), encoding="utf-8")
    scratch.replace(folder / "result.json")


def bounds(seed: int, out: Path) -> None:
    """
    What fixed workflows reach: the best for all problems, and the best of each domain, found among the usual forms by
    successive halving on training problems and measured on the held-out ones.
    """
    from aflow_trl.dsl import analyze, format_workflow, workflow_templates
    from aflow_trl.recipes import load_recipe
    from aflow_trl.rollouts import Rollouts
    from aflow_trl.tasks.session import close_clients, connect, load_problems
    from aflow_trl.warm_start import EvalRequest, Group, HalvingSearch, Run, successive_halving

    flags = ["--seed", str(seed), "--num_eval_problems", str(HELD_OUT), "--output_dir", str(out / "bounds")]
    eval_rows, train_rows = load_problems(load_recipe(["quickstart.yaml", *flags]))
    engine, _ = connect(load_recipe(["quickstart.yaml", *flags]))
    rollouts = Rollouts(engine, seed=seed)
    candidates = {format_workflow(one): analyze(one).worst_case_calls for one in workflow_templates()}
    domains = sorted({row.domain for row in train_rows})
    rows = {Group(domain): [row for row in train_rows if row.domain == domain] for domain in domains}
    rows[Group("all")] = train_rows
    contests = [HalvingSearch(group, len(own), candidates, BOUND_CALLS, 1, seed) for group, own in rows.items()]

    async def run(texts: Sequence[str], problems: Sequence[Any], salt: str) -> list[Any]:
        columns = [row.columns() for row in problems]
        return await rollouts.execute(texts, columns, salt=salt, phase="bounds", step=0)

    async def measure(jobs: Sequence[EvalRequest]) -> list[Run]:
        done = await run([job.workflow for job in jobs], [rows[job.group][job.row] for job in jobs], f"{seed} search")
        return [Run(one.correctness, one.trace.model_calls, one.trace.paid_calls) for one in done]

    async def work() -> dict[str, Any]:
        await successive_halving(contests, measure)
        best = {contest.group.domain: contest.best[0].workflow for contest in contests}
        found: dict[str, Any] = {"workflows": best}
        for name, texts in (
            ("best fixed", [best["all"]] * len(eval_rows)),
            ("best fixed per domain", [best[row.domain] for row in eval_rows]),
        ):
            done = await run(texts, eval_rows, f"{seed} evaluation")
            found[name] = statistics.fmean(one.correct for one in done)
            found[f"{name}, calls"] = statistics.fmean(one.trace.model_calls for one in done)
        await close_clients(engine)
        return found

    result = asyncio.run(work())
    out.mkdir(parents=True, exist_ok=True)
    (out / f"bounds-seed{seed}.json").write_text(json.dumps(result, indent=2), encoding="utf-8")


def run_missing(cells: Sequence[tuple[str, int, int]], out: Path, workers: int) -> None:
    """Train what has no result yet, `workers` at a time."""

    def one(cell: tuple[str, int, int]) -> None:
        name, size, seed = cell
        folder = out / f"{name}-k{size}-seed{seed}"
        if (folder / "result.json").is_file():
            return
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, str(out), "--one", name, str(size), str(seed)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        with (folder / "log.txt").open("w", encoding="utf-8") as log:
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment).returncode
        print(f"{name} K={size} seed {seed}: {'done' if code == 0 else f'failed, see {folder}/log.txt'}", flush=True)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, cells))
    for seed in sorted({seed for *_, seed in cells}):
        if not (out / f"bounds-seed{seed}.json").is_file():
            bounds(seed, out)


def area(curve: Sequence[Mapping[str, Any]]) -> float:
    """Mean held-out accuracy over training, by the trapezoid rule."""
    points = [(point["step"], point["accuracy"]) for point in curve]
    pairs = list(itertools.pairwise(points))
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairs) / (points[-1][0] - points[0][0])


def collapses(result: Mapping[str, Any]) -> bool:
    """Whether valid share or accuracy fell to half of its best, as means over five training batches or held out."""
    for batch, held_out in (("workflows/valid", "valid"), ("accuracy/all", "accuracy")):
        values = [entry[batch] for entry in result["logs"] if batch in entry]
        means = [statistics.fmean(values[start : start + 5]) for start in range(len(values) - 4)]
        for series in (means, [point[held_out] for point in result["curve"]]):
            if any(value < max(series[: place + 1]) / 2 for place, value in enumerate(series)):
                return True
    return False


def calls_until(curve: Sequence[Mapping[str, Any]], accuracy: float) -> float | None:
    """Model calls of training until a held-out accuracy is reached, interpolated; `None` if it is not."""
    for before, after in itertools.pairwise(curve):
        if after["accuracy"] >= accuracy:
            share = (accuracy - before["accuracy"]) / max(1e-9, after["accuracy"] - before["accuracy"])
            spent = before["training_calls"] + share * (after["training_calls"] - before["training_calls"])
            return float(max(spent, before["training_calls"]))
    return None


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.inf
    return mean, STUDENT_95[min(len(values) - 1, len(STUDENT_95)) - 1] * statistics.stdev(values) / math.sqrt(
        len(values)
    )


def shown(values: Sequence[float], digits: int = 3) -> str:
    """Mean ± interval."""
    mean, half = interval(values)
    return f"{mean:.{digits}f} ± {half:.{digits}f}" if math.isfinite(half) else f"{mean:.{digits}f}"


def row_of(results: Sequence[Mapping[str, Any]]) -> str:
    """Cells of one estimator at one group size."""
    last = [result["curve"][-1] for result in results]
    distinct = [statistics.fmean(len(own) for own in point["workflows"].values()) for point in last]
    until = [calls_until(result["curve"], EQUAL_ACCURACY) for result in results]
    known = [value for value in until if value is not None]
    groups = {
        kind: statistics.fmean(
            entry[f"groups/{kind}"] / entry["groups/total"] for result in results for entry in result["logs"]
        )
        for kind in ("decisive", "tie_broken", "dead")
    }
    cells = [
        shown([area(result["curve"]) for result in results]),
        shown([point["accuracy"] for point in last]),
        f"{statistics.fmean(point['calls'] for point in last):.1f}",
        f"{statistics.fmean(known):,.0f} ({len(known)}/{len(until)})" if known else f"– (0/{len(until)})",
        f"{min(point['valid'] for result in results for point in result['curve']):.2f}",
        " / ".join(f"{share:.2f}" for share in groups.values()),
        f"{sum(map(collapses, results))}/{len(results)}",
        f"{statistics.fmean(distinct):.0f}",
    ]
    return " | ".join(cells)


def report(out: Path) -> None:
    """`study.md` and `study.png` of all results there are."""
    cells: dict[tuple[int, str], dict[int, Any]] = {}
    for path in sorted(out.glob("*/result.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        cells.setdefault((result["k"], result["estimator"]), {})[result["seed"]] = result
    sizes = sorted({size for size, _ in cells})
    found = {name for _, name in cells}
    # What is no longer among the estimators may still be among the results.
    names = [*(name for name in ESTIMATORS if name in found), *sorted(found - set(ESTIMATORS))]
    known = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("bounds-seed*.json"))]
    limits = {name: statistics.fmean(one[name] for one in known) for name in BOUNDS} if known else {}
    first = [result["curve"][0]["accuracy"] for own in cells.values() for result in own.values()]
    limits["untrained"] = statistics.fmean(first)
    lines = [
        f"Held-out accuracy of {HELD_OUT} problems; {STEPS} steps of {BATCH} completions.",
        "",
        *(f"- {name}: {value:.3f}" for name, value in limits.items()),
        "",
        "| K | estimator | area under the curve | final accuracy | calls a problem | training calls to "
        f"{EQUAL_ACCURACY} (reached) | least valid share | groups decisive / tie-broken / dead | collapses | "
        "distinct workflows a domain |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for size in sizes:
        for name in names:
            if (size, name) in cells:
                lines.append(f"| {size} | {name} | {row_of(list(cells[size, name].values()))} |")
    others = [name for name in names if name != "wa_grpo"]
    lines += ["", "`wa_grpo` minus the others, area under the curve, seed by seed:", ""]
    lines += ["| K | " + " | ".join(others) + " |", "|---" * (len(others) + 1) + "|"]
    for size in sizes:
        ours = cells.get((size, "wa_grpo"), {})
        row = []
        for name in others:
            theirs = cells.get((size, name), {})
            both = sorted(ours.keys() & theirs.keys())
            gaps = [area(ours[seed]["curve"]) - area(theirs[seed]["curve"]) for seed in both]
            row.append(shown(gaps) if gaps else "")
        lines.append(f"| {size} | " + " | ".join(row) + " |")
    (out / "study.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    plot(cells, sizes, names, limits, out / "study.png")
    print("\n".join(lines))


def plot(
    cells: Mapping[tuple[int, str], Mapping[int, Any]],
    sizes: Sequence[int],
    names: Sequence[str],
    limits: Mapping[str, float],
    path: Path,
) -> None:
    """Held-out accuracy by step at every group size: mean over seeds, band from the lowest to the highest."""
    figure, axes = plt.subplots(1, len(sizes), figsize=(4 * len(sizes), 4.2), sharey=True, layout="constrained")
    colours = plt.get_cmap("tab10")
    for axis, size in zip(axes if len(sizes) > 1 else [axes], sizes, strict=True):
        for index, name in enumerate(names):
            curves = [[point["accuracy"] for point in own["curve"]] for own in cells.get((size, name), {}).values()]
            if not curves:
                continue
            steps = [point["step"] for point in next(iter(cells[size, name].values()))["curve"]]
            columns = list(zip(*curves, strict=True))
            axis.plot(steps, [statistics.fmean(own) for own in columns], color=colours(index), label=name, linewidth=2)
            axis.fill_between(
                steps, [min(own) for own in columns], [max(own) for own in columns], color=colours(index), alpha=0.12
            )
        for name, style in zip(BOUNDS, ("--", "-."), strict=True):
            if name in limits:
                axis.axhline(limits[name], color="#777777", linestyle=style, linewidth=1, label=name)
        axis.set(title=f"K = {size}", xlabel="optimiser step", ylim=(0.3, 1.0))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    first = axes[0] if len(sizes) > 1 else axes
    first.set_ylabel("held-out accuracy")
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--one", nargs=3, metavar=("ESTIMATOR", "K", "SEED"), help="train one cell, in this process")
    parser.add_argument("--estimators", nargs="+", default=STUDIED, choices=list(ESTIMATORS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[2, 4, 8, 16])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--report", action="store_true", help="train nothing")
    args = parser.parse_args()
    if args.one:
        name, size, seed = args.one
        train(name, int(size), int(seed), args.out)
        return
    cells = [(name, size, seed) for seed in args.seeds for size in args.sizes for name in args.estimators]
    if not args.report:
        run_missing(cells, args.out, args.workers)
    report(args.out)


if __name__ == "__main__":
    main()
