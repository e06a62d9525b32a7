"""Commands on a recipe or a run: `train`, `estimate`, `warmstart`, `replay`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.table import Table

from ..console import report_console
from ..errors import RecipeError
from .options import ANY_MACHINE, Commands


def add_parsers(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the parsers of the commands."""
    # `main` passes the arguments of `train` to the parser of the recipe; this parser only serves the list of commands.
    commands.add_parser("train", help="train a policy from a recipe: aflow-trl train RECIPE [--key value ...]")
    estimate = commands.add_parser(
        "estimate",
        help="estimate model calls and USD of a recipe, before anything is spent",
        description="Run the problems of a recipe on the simulated executor and print what a training would cost. "
        "Further --key value pairs override the recipe, as in training.",
        epilog="example: aflow-trl estimate quickstart.yaml --max_steps 200",
    )
    estimate.add_argument("recipe", help="recipe, as for train")
    estimate.add_argument("--num-processes", type=int, default=1, help="number of processes of the run (default: 1)")
    estimate.add_argument("--reply-tokens", type=int, default=200, help="number of tokens per reply (default: 200)")
    estimate.add_argument(
        "--latency",
        type=float,
        default=None,
        metavar="SECONDS",
        help="seconds of a call: estimates the time of a step",
    )
    estimate.add_argument(
        "--profile",
        default=None,
        metavar="RUN",
        help="output folder of a run, whose time of generation and training is used with --latency",
    )
    estimate.set_defaults(command=run_estimate, takes_overrides=True)
    warm_start = commands.add_parser(
        "warmstart",
        help="search for good workflows by execution and fine-tune the policy of a recipe on them",
        description="Run only the warm start of a recipe: sample workflows, select by successive halving with live "
        "execution, and fine-tune on the winners. A training of the same recipe with warm_start continues from it. "
        "Further --key value pairs override the recipe, as in training.",
        epilog="example: aflow-trl warmstart quickstart.yaml --warm_start '{\"max_calls\": 10000}'",
    )
    warm_start.add_argument("recipe", help="recipe, as for train")
    warm_start.set_defaults(command=run_warm_start, takes_overrides=True)
    replay = commands.add_parser(
        "replay",
        help="recompute rewards and advantages of a run from its traces, without a model call",
        description="Recompute rewards and advantages of every training step and print them beside the recorded ones.",
        epilog="example: aflow-trl replay runs/quickstart --recipe other.yaml",
    )
    replay.add_argument("output_dir", help="output folder of a run")
    replay.add_argument(
        "--recipe", default=None, help="recipe whose rewards and advantages to use (default: the run's)"
    )
    replay.set_defaults(command=run_replay)


def run_estimate(options: argparse.Namespace) -> None:
    """Print the estimate of a recipe."""
    from ..recipes import estimate, estimate_execution, load_recipe, trainer_seconds

    if options.profile is not None and options.latency is None:
        raise RecipeError("--profile is used with --latency. Give the seconds of a call as well.")
    if options.latency is not None and not options.latency > 0:
        raise RecipeError(f"--latency must be positive, got {options.latency:g}.")
    profile = None if options.profile is None else trainer_seconds(Path(options.profile))
    recipe = load_recipe([options.recipe, *options.overrides, *ANY_MACHINE])
    phases = estimate(recipe, num_processes=options.num_processes, reply_tokens=options.reply_tokens)
    executor = recipe.executor.executor_model if recipe.executors else "none: the policy answers itself"
    table = Table(title=f"{options.recipe}, executor {executor}", title_justify="left")
    for heading in ("", "completions", "calls: low", "expected", "worst", "USD: low", "expected", "worst"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for phase in phases:
        calls = (phase.completions, phase.low_calls, phase.expected_calls, phase.worst_calls)
        costs = (phase.low_usd, phase.expected_usd, phase.worst_usd)
        usd = ("unknown" if cost is None else f"{cost:,.2f}" for cost in costs)
        table.add_row(phase.name, *(f"{number:,.0f}" for number in calls), *usd)
    console = report_console()
    console.print(table)
    if not recipe.executors:
        return
    console.print(
        f"Expected: random workflows and the baselines, with replies of {options.reply_tokens} tokens; low: equal "
        f"calls are shared ({recipe.workflow.share}); worst: every workflow spends its whole budget. A policy that "
        "learns to spend more costs more.",
        style="dim",
    )
    if options.latency is not None:
        console.print(step_time(estimate_execution(recipe, options.latency), profile), highlight=False)


def step_time(execution_s: float, trainer_s: float | None) -> str:
    """What a step takes with each lag of the rollouts, and which lag pays."""
    from ..recipes import StepTime
    from ..trainer import ROLLOUT_LAGS

    execution = f"Execution of a batch: {execution_s:.1f} s."
    if trainer_s is None:
        return f"{execution} Name an earlier run with --profile for the time of a step."
    step = StepTime(execution_s, trainer_s)
    times = ", ".join(f"{step.at(lag):.1f} s with rollout_lag {lag}" for lag in ROLLOUT_LAGS)
    advice = (
        f"rollout_lag: {step.best_lag} pays ({step.at(0) / step.at(step.best_lag):.1f} times as fast)."
        if step.best_lag
        else "No lag pays: the executor is cheap."
    )
    return f"{execution} Generation and training: {trainer_s:.1f} s. A step: {times}. {advice}"


def run_warm_start(options: argparse.Namespace) -> None:
    """Run the warm start of a recipe."""
    from ..recipes import load_recipe
    from ..runs import print_winners
    from ..storage import RunRecord
    from ..tasks import run_warm_start

    recipe = load_recipe([options.recipe, *options.overrides])
    if recipe.compose.warm_start_settings is None:
        recipe = load_recipe([options.recipe, *options.overrides, "--warm_start", "true"])
    with RunRecord(recipe.output_dir):
        print_winners(run_warm_start(recipe), report_console())


def run_replay(options: argparse.Namespace) -> None:
    """Print recorded and recomputed rewards and advantages."""
    from ..recipes import load_recipe
    from ..runs import replay

    settings = load_recipe([options.recipe, *ANY_MACHINE]).replay_settings if options.recipe else None
    table = Table(title=f"{options.output_dir}, without a model call", title_justify="left")
    for heading in ("step", "reward: old", "new", "|advantage|: old", "new", "largest change"):
        table.add_column(heading, justify="right", no_wrap=True)
    largest = 0.0
    for step in replay(Path(options.output_dir), settings):
        change = float((step.new_advantages - step.old_advantages).abs().max())
        largest = max(largest, change)
        means = [float(value) for value in (step.old_rewards[:, 0].nanmean(), step.new_rewards[:, 0].nanmean())]
        sizes = [float(value.abs().mean()) for value in (step.old_advantages, step.new_advantages)]
        table.add_row(str(step.step), *(f"{value:.4f}" for value in (*means, *sizes, change)))
    if not table.rows:
        raise RecipeError(
            f"{options.output_dir} holds no recorded training step. Name a run that has finished at least one."
        )
    report_console().print(table)
    print(f"largest change of an advantage: {largest:g}")
