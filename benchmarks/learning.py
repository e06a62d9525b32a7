"""
Study of the advantage: every estimator at every group size, on the simulated executor with the real trainer.

    python benchmarks/learning.py runs/study            # trains what is missing, then writes study.md and study.png
    python benchmarks/learning.py runs/study --report   # only the tables and plots of what is there

Each training is a process of its own on one core and leaves one JSON file, so that a study can be stopped and
started again. All trainings of a seed start from the same policy and, at one group size, meet the same problems.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ESTIMATORS: dict[str, dict[str, Any]] = {
    "grpo": {"advantage_estimator": "grpo"},
    "dr_grpo": {"advantage_estimator": "dr_grpo"},
    "batch": {"advantage_estimator": "batch"},
    "wa_grpo": {"advantage_estimator": "wa_grpo"},
    "wa_grpo_classic": {"advantage_estimator": "wa_grpo_classic"},
    # Candidates
    "shrunk": {"advantage_estimator": "wa_grpo", "advantage_baseline": "shrunk"},
    "alpha0": {"advantage_estimator": "wa_grpo", "tie_break_alpha": 0.0},
}
STEPS, EVALUATE_EVERY, BATCH, HELD_OUT = 50, 10, 48, 120


def train(name: str, size: int, seed: int, out: Path) -> None:
    """One training with its held-out curve."""
    import torch
    from transformers import TrainerCallback

    from aflow_trl.data import build_dataset
    from aflow_trl.recipe import load_recipe
    from aflow_trl.rewards import workflow_rewards
    from aflow_trl.tasks.session import connect, load_problems, make_rollouts, make_trainer, prompt_arguments
    from aflow_trl.trainer import Evaluator, accuracy, valid_share, workflow_counts

    torch.set_num_threads(1)
    folder = out / f"{name}-k{size}-seed{seed}"
    options = ESTIMATORS[name] | {
        "num_generations": size,
        "seed": seed,
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "num_eval_problems": HELD_OUT,
        "logging_steps": 1,
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


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--one", nargs=3, metavar=("ESTIMATOR", "K", "SEED"), help="train one cell, in this process")
    parser.add_argument("--estimators", nargs="+", default=list(ESTIMATORS), choices=list(ESTIMATORS))
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


if __name__ == "__main__":
    main()
