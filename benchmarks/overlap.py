"""
Seconds a step with rollouts that lag: the quickstart's policy, the simulated executor behind HTTP.

    python benchmarks/overlap.py [--latencies 0.2 1 3] [--balances 1 3] [--lags 0 1 2 4] [--steps N]

With lag n a step can take no less than (E + G + T) / (n + 1) (E: execution of a batch; G + T: what the trainer does
itself, that is generation, log-probabilities, loss, optimiser) and no less than G + T. Every row shows the step beside
that bound, both from means of the same run. Executions differ from batch to batch, and a long one that short ones
follow costs time that no mean shows. With `--balances` the latency is chosen such
that E is so many times G + T. The learning rate is 0, so that all runs execute workflows of one distribution. Steps
in which batches are not yet, or no longer, in flight are left out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from aflow_trl.console import report_console
from aflow_trl.data import build_dataset
from aflow_trl.recipes import StepTime, load_recipe
from aflow_trl.rewards import workflow_rewards
from aflow_trl.runs import new_figure, save_figure
from aflow_trl.tasks.session import build_engine, build_rollouts, build_trainer, load_problems

COLOURS = {0: "#777777", 1: "#7fb2d6", 2: "#1b6ca8", 4: "#0b3c61"}
WARM_UP_STEPS = 1
CALIBRATION_S = 0.2
"""Latency at which E and G + T are measured for `--balances`."""


@dataclass(frozen=True)
class Result:
    """Means over the steps of a run, in seconds."""

    name: str
    latency_s: float
    lag: int
    step_s: float
    trainer_s: float
    execution_s: float
    waiting_s: float

    @property
    def bound_s(self) -> float:
        """What no step can undercut."""
        return StepTime(self.execution_s, self.trainer_s).at(self.lag)


@contextmanager
def server(latency_s: float) -> Iterator[str]:
    """Base URL of a simulated executor whose replies take that long."""
    command = [sys.executable, "-m", "aflow_trl.cli", "simulate", "--port", "0", "--latency", str(latency_s)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[3]
    finally:
        process.terminate()
        process.wait()


def run(name: str, url: str, latency_s: float, lag: int, steps: int) -> Result:
    """Train for a few steps and take the times of those in which the pipeline is full."""
    with tempfile.TemporaryDirectory() as folder:
        flags = {
            **{"executor_base_url": url, "executor_model": "simulated-executor", "executor_api_key_env": "null"},
            **{"warm_start": "null", "num_train_problems": 1_000, "num_eval_problems": 10, "collapse_guard": "off"},
            **{"learning_rate": 0.0, "max_steps": steps + 2 * lag, "logging_steps": 1, "rollout_lag": lag},
            **{"per_device_train_batch_size": 32, "output_dir": folder},
        }
        recipe = load_recipe(["quickstart.yaml", *(f"--{name}={value}" for name, value in flags.items())])
        eval_rows, train_rows = load_problems(recipe)
        engine, _ = build_engine(recipe, [])
        rewards = workflow_rewards(build_rollouts(recipe, engine, []), recipe.reward_names)
        data = [build_dataset(rows, recipe.prompt) for rows in (train_rows, eval_rows)]
        trainer = build_trainer(recipe, rewards, *data)
        trainer.train()
        log = [entry for entry in trainer.state.log_history if "time/step" in entry]
    full = log[lag + WARM_UP_STEPS : len(log) - lag]
    step, waiting, execution = (
        statistics.fmean(entry[f"time/{part}"] for entry in full) for part in ("step", "waiting", "execution")
    )
    return Result(name, latency_s, lag, step, step - waiting, execution, waiting)


def main() -> None:
    """Measure, print and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latencies", type=float, nargs="+", default=[0.2, 1.0, 3.0], metavar="SECONDS")
    parser.add_argument("--balances", type=float, nargs="*", default=[1.0, 3.0], metavar="E/(G+T)")
    parser.add_argument("--lags", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("overlap.png"))
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    results: list[Result] = []

    def measure(name: str, latency_s: float) -> None:
        with server(latency_s) as url:
            for lag in options.lags:
                results.append(run(name, url, latency_s, lag, options.steps))
                print(results[-1], flush=True)

    for latency_s in options.latencies:
        measure(f"{latency_s:g} s", latency_s)
    if options.balances:
        with server(CALIBRATION_S) as url:
            sample = run("", url, CALIBRATION_S, 0, options.steps)
        for balance in options.balances:
            latency_s = CALIBRATION_S * balance * sample.trainer_s / sample.execution_s
            measure(f"E = {balance:g} (G + T)", round(latency_s, 3))
    report_console().print(table_of(results))
    plot(results, options.out)


def table_of(results: Sequence[Result]) -> Table:
    """One row for each run."""
    headings = ("a call", "lag", "step", "G + T", "E", "waiting", "bound", "step / bound", "speed-up")
    table = Table(*headings)
    for result in results:
        sequential = next(item for item in results if item.name == result.name)
        figures = (result.step_s, result.trainer_s, result.execution_s, result.waiting_s, result.bound_s)
        ratios = (result.step_s / result.bound_s, sequential.step_s / result.step_s)
        name = result.name if result.name.endswith(" s") else f"{result.name}: {result.latency_s:g} s"
        cells = (*(f"{seconds:.2f} s" for seconds in figures), *(f"{ratio:.2f}" for ratio in ratios))
        table.add_row(name, str(result.lag), *cells)
    return table


def plot(results: Sequence[Result], path: Path) -> None:
    """Seconds a step by latency and lag, each with its bound."""
    figure, axis = new_figure(figsize=(8, 4))
    names = list(dict.fromkeys(result.name for result in results))
    lags = list(dict.fromkeys(result.lag for result in results))
    width = 0.8 / len(lags)
    for result in results:
        x = names.index(result.name) + (lags.index(result.lag) - (len(lags) - 1) / 2) * width
        label = f"rollout_lag: {result.lag}" if result.name == names[0] else None
        axis.bar(x, result.step_s, 0.9 * width, color=COLOURS.get(result.lag, "#222222"), label=label)
        axis.hlines(result.bound_s, x - width / 2, x + width / 2, color="black", linewidth=1.5)
    axis.hlines([], 0, 0, color="black", linewidth=1.5, label="bound")
    axis.set_xticks(range(len(names)), [f"{name} a call" if name.endswith(" s") else name for name in names])
    axis.set(ylabel="seconds a step", title="A step with rollouts that lag")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
