"""
Study of the advantage: every estimator at every group size, on the simulated executor with the real trainer.

    python benchmarks/learning.py runs/study            # run the missing trainings, then write study.md and study.png
    python benchmarks/learning.py runs/study --report   # only tables and plots of the existing results

Each training is a separate process on one core and writes one JSON file, so that an interrupted study continues where
it stopped. All trainings of a seed start from the same policy and, at one group size, see the same problems.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from classic import ClassicGRPOTrainer
from learning_report import BOUNDS, CurvePoint, Result, report
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import get_peft_config

from aflow_trl.data import Row, build_dataset
from aflow_trl.dsl import analyze, format_workflow, workflow_templates
from aflow_trl.evaluation import HeldOutEvaluator
from aflow_trl.recipes import Recipe, load_recipe
from aflow_trl.rewards import workflow_rewards
from aflow_trl.rollouts import Rollouts, ScoredRollout, accuracy, valid_share, workflow_counts
from aflow_trl.storage import write_json
from aflow_trl.tasks.session import (
    build_engine,
    build_rollouts,
    earlier_rollouts,
    load_problems,
    model_path,
)
from aflow_trl.trainer import WorkflowGRPOTrainer
from aflow_trl.warm_start import EvalRequest, EvalResult, Group, HalvingSearch, successive_halving


@dataclass(frozen=True, slots=True)
class Estimator:
    """How the advantage of a training is computed."""

    trainer: type[WorkflowGRPOTrainer]
    advantage_estimator: str
    tie_break_alpha: float = 0.1
    rollout_lag: int = 0


ESTIMATORS = {
    "grpo": Estimator(WorkflowGRPOTrainer, "grpo"),
    "dr_grpo": Estimator(WorkflowGRPOTrainer, "dr_grpo"),
    "batch": Estimator(WorkflowGRPOTrainer, "batch"),
    "wa_grpo": Estimator(WorkflowGRPOTrainer, "wa_grpo"),
    "wa_grpo_classic": Estimator(ClassicGRPOTrainer, "wa_grpo"),
    # An ablation: no tie-break.
    "alpha0": Estimator(WorkflowGRPOTrainer, "wa_grpo", tie_break_alpha=0.0),
    # The same training on older rollouts.
    "lag1": Estimator(WorkflowGRPOTrainer, "wa_grpo", rollout_lag=1),
    "lag2": Estimator(WorkflowGRPOTrainer, "wa_grpo", rollout_lag=2),
    "lag4": Estimator(WorkflowGRPOTrainer, "wa_grpo", rollout_lag=4),
}
STUDIED = [name for name, estimator in ESTIMATORS.items() if estimator.tie_break_alpha and not estimator.rollout_lag]
STEPS = 50
EVALUATE_EVERY = 10
"""Number of optimiser steps between two points of the curve."""
BATCH = 48
"""Completions per step: divisible by every group size, so that all sizes see equally many."""
HELD_OUT = 120
"""Number of held-out problems."""
BOUND_CALLS = 8_000
"""Maximum number of model calls of the search for the best fixed workflow, for each group of problems."""


class Cell(NamedTuple):
    """One training of the study."""

    estimator: str
    num_generations: int
    seed: int

    def folder(self, out: Path) -> Path:
        """Output folder of the training."""
        return out / f"{self.estimator}-k{self.num_generations}-seed{self.seed}"


def study_recipe(cell: Cell, output_dir: Path) -> Recipe:
    """The quickstart recipe with the estimator, group size and seed of a cell."""
    estimator = ESTIMATORS[cell.estimator]
    options = {
        "advantage_estimator": estimator.advantage_estimator,
        "tie_break_alpha": estimator.tie_break_alpha,
        "rollout_lag": estimator.rollout_lag,
        "num_generations": cell.num_generations,
        "seed": cell.seed,
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "num_eval_problems": HELD_OUT,
        "logging_steps": 1,
        # The study is about reinforcement learning alone: from the untrained policy, and with nothing that would hide
        # a collapse.
        "warm_start": "false",
        "collapse_guard": "off",
        "learning_rate": 2e-3,
        "warmup_steps": 5,
        "save_traces": "false",
        "output_dir": output_dir,
    }
    return load_recipe(
        ["quickstart.yaml", *(text for key, value in options.items() for text in (f"--{key}", str(value)))]
    )


class CurveRecorder(TrainerCallback):  # type: ignore[misc]
    """
    Evaluates the policy on the held-out problems every [`EVALUATE_EVERY`] steps.

    Args:
        evaluate (`Callable[[str], list[ScoredRollout]]`):
            Rollouts of the current policy on the held-out problems; takes a label for the traces.
        rollouts ([`~aflow_trl.rollouts.Rollouts`]):
            Service of the training, whose calls are counted.
    """

    def __init__(self, evaluate: Callable[[str], list[ScoredRollout]], rollouts: Rollouts) -> None:
        self.curve: list[CurvePoint] = []
        self._evaluate, self._rollouts = evaluate, rollouts

    def record(self, step: int) -> None:
        """Add a point to the curve."""
        calls_before = self._rollouts.totals["model_calls"]
        batch = self._evaluate(f"step {step}")
        held_out = accuracy(batch)
        self.curve.append(
            {
                "step": step,
                "accuracy": held_out.mean,
                "by_domain": held_out.by_domain,
                "calls": held_out.calls_per_problem,
                "valid": valid_share(batch),
                "workflows": workflow_counts(batch),
                "training_calls": calls_before - sum(point["evaluation_calls"] for point in self.curve),
                "evaluation_calls": self._rollouts.totals["model_calls"] - calls_before,
            }
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Record a point where one is due."""
        if state.global_step % EVALUATE_EVERY == 0:
            self.record(state.global_step)


def train(cell: Cell, out: Path) -> None:
    """Run one training and write its held-out curve and logs to `result.json`."""
    torch.set_num_threads(1)
    folder = cell.folder(out)
    recipe = study_recipe(cell, folder)
    eval_rows, train_rows = load_problems(recipe)
    earlier = earlier_rollouts(recipe)
    engine, _ = build_engine(recipe, earlier)
    rollouts = build_rollouts(recipe, engine, earlier)
    # Traces of 60 trainings would fill gigabytes and nothing reads them.
    rollouts.trace_path = None
    trainer = ESTIMATORS[cell.estimator].trainer(
        model_path(recipe),
        workflow_rewards(rollouts, recipe.reward_names),
        recipe.training,
        train_dataset=build_dataset(train_rows, recipe.prompt),
        peft_config=get_peft_config(recipe.model),
    )
    prompts = [recipe.prompt.messages(row) for row in eval_rows]
    evaluator = HeldOutEvaluator(trainer, rollouts, eval_rows, prompts, seed=cell.seed)
    recorder = CurveRecorder(evaluator.policy, rollouts)
    trainer.add_callback(recorder)
    recorder.record(0)
    trainer.train()
    logs = [
        {key: value for key, value in entry.items() if "/" in key or key in ("step", "entropy", "grad_norm")}
        for entry in trainer.state.log_history
        if "workflows/valid" in entry
    ]
    result: Result = {
        "estimator": cell.estimator,
        "k": cell.num_generations,
        "seed": cell.seed,
        "curve": recorder.curve,
        "logs": logs,
    }
    write_json(folder / "result.json", result)


def bounds(seed: int, out: Path) -> None:
    """
    Write the accuracy of the best fixed workflow, over all problems and for each domain.

    The workflows are chosen among the templates by successive halving on training problems, and measured on the
    held-out ones.
    """
    flags = ["--seed", str(seed), "--num_eval_problems", str(HELD_OUT), "--output_dir", str(out / "bounds")]
    recipe = load_recipe(["quickstart.yaml", *flags])
    eval_rows, train_rows = load_problems(recipe)
    engine, _ = build_engine(recipe, [])
    rollouts = Rollouts(engine, seed=seed)

    async def execute(workflows: Sequence[str], rows: Sequence[Row], salt: str) -> list[ScoredRollout]:
        columns = [row.columns() for row in rows]
        return await rollouts.execute(workflows, columns, salt=f"{seed} {salt}", phase="bounds", step=0)

    async def work() -> dict[str, object]:
        try:
            best = await _best_fixed(train_rows, execute, seed)
            choices = ([best["all"]] * len(eval_rows), [best[row.domain] for row in eval_rows])
            content: dict[str, object] = {"workflows": best}
            for name, workflows in zip(BOUNDS, choices, strict=True):
                batch = await execute(workflows, eval_rows, "evaluation")
                content[name] = statistics.fmean(rollout.correct for rollout in batch)
                content[f"{name}, calls"] = statistics.fmean(rollout.trace.model_calls for rollout in batch)
            return content
        finally:
            await engine.aclose()

    write_json(_bounds_file(seed, out), asyncio.run(work()))


async def _best_fixed(
    rows: Sequence[Row],
    execute: Callable[[Sequence[str], Sequence[Row], str], Awaitable[list[ScoredRollout]]],
    seed: int,
) -> dict[str, str]:
    """The best template by domain, and over all problems under the name `all`."""
    candidates = {format_workflow(template): analyze(template).worst_case_calls for template in workflow_templates()}
    groups = {
        Group(domain): [row for row in rows if row.domain == domain] for domain in sorted({row.domain for row in rows})
    }
    groups[Group("all")] = list(rows)
    searches = [
        HalvingSearch(group, len(members), candidates, BOUND_CALLS, 1, seed) for group, members in groups.items()
    ]

    async def measure(requests: Sequence[EvalRequest]) -> list[EvalResult]:
        problems = [groups[request.group][request.row] for request in requests]
        batch = await execute([request.workflow for request in requests], problems, "search")
        return [
            EvalResult(rollout.correctness, rollout.trace.model_calls, rollout.trace.paid_calls) for rollout in batch
        ]

    await successive_halving(searches, measure)
    return {search.group.domain: search.best[0].workflow for search in searches}


def _bounds_file(seed: int, out: Path) -> Path:
    return out / f"bounds-seed{seed}.json"


def run_missing(cells: Sequence[Cell], out: Path, workers: int) -> None:
    """Run the trainings that have no result yet, `workers` at a time, then the searches for the bounds."""

    def run(cell: Cell) -> None:
        folder = cell.folder(out)
        if (folder / "result.json").is_file():
            return
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, str(out), "--cell", *map(str, cell)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        with (folder / "log.txt").open("w", encoding="utf-8") as log:
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment).returncode
        outcome = "finished" if code == 0 else f"failed, see {folder}/log.txt"
        print(f"{cell.estimator} K={cell.num_generations} seed {cell.seed}: {outcome}", flush=True)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, cells))
    for seed in sorted({cell.seed for cell in cells}):
        if not _bounds_file(seed, out).is_file():
            bounds(seed, out)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the study")
    parser.add_argument(
        "--cell", nargs=3, metavar=("ESTIMATOR", "K", "SEED"), help="run one training, in this process"
    )
    parser.add_argument("--estimators", nargs="+", default=STUDIED, choices=list(ESTIMATORS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[2, 4, 8, 16], help="group sizes K")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="number of trainings at once")
    parser.add_argument("--report", action="store_true", help="train nothing")
    args = parser.parse_args()
    if args.cell:
        name, size, seed = args.cell
        train(Cell(name, int(size), int(seed)), args.out)
        return
    cells = [Cell(name, size, seed) for seed in args.seeds for size in args.sizes for name in args.estimators]
    if not args.report:
        run_missing(cells, args.out, args.workers)
    title = f"Held-out accuracy of {HELD_OUT} problems; {STEPS} steps of {BATCH} completions."
    report(args.out, list(ESTIMATORS), title)


if __name__ == "__main__":
    main()
