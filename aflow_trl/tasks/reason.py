"""`task: reason`: the policy answers directly, with `<think>` and `<answer>`; no executor is called."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from datasets import Dataset

from ..console import report_console
from ..data import PolicyPrompt, Row
from ..event_loops import run_coroutine
from ..recipes import REWARDS, Recipe
from ..rewards import reasoning_rewards
from ..rollouts import RowColumns
from ..runs import chat_usage, plot_reasoning, print_reasoning, task_card
from ..sandbox import allow_weak_sandbox, fork_server
from ..scoring.statistics import Mean, wilson_interval
from ..trainer import WorkflowGRPOTrainer
from .prompt_length import leave_out_long
from .run_folder import begin_record, enter_phase, print_rank0
from .session import build_trainer, load_problems, policy_name, publish, run_metadata, train

ABOUT = (
    "This policy answers in the form `<think>…</think><answer>…</answer>`. The figures are its accuracy on held-out "
    "problems."
)


def run_reason(recipe: Recipe) -> dict[str, Any]:
    """
    Run a recipe with `task: reason` from start to end.

    Args:
        recipe ([`~aflow_trl.recipes.Recipe`]):
            Checked recipe.

    Returns:
        `dict[str, Any]`: The summary, as written to `summary.json`.

    Raises:
        [`AflowError`]: A user error, or a run that had to be stopped; see `errors.py`.
    """
    started = time.monotonic()
    eval_rows, train_rows = load_problems(recipe)
    if any(row.domain == "code" for row in (*eval_rows, *train_rows)):
        allow_weak_sandbox(recipe.run.allow_weak_sandbox)
        run_coroutine(fork_server())  # missing isolation is reported now, not in the middle of a batch
    begin_record(recipe)
    prompt, max_length = recipe.prompt, recipe.reason.max_prompt_length
    rows = {"train": train_rows, "held_out": eval_rows}
    reason = f"max_prompt_length is {max_length}, and may be raised"
    kept, left_out = leave_out_long(recipe, rows, prompt.reasoning_messages, max_length, reason)
    train_data, eval_data = (reasoning_dataset(kept[name], prompt) for name in rows)
    trainer = build_trainer(recipe, reasoning_rewards(recipe.reward_names), train_data, eval_data)

    enter_phase(f"held-out evaluation on {len(kept['held_out'])} problems")
    untrained = _measure(recipe, trainer, kept["held_out"])
    probe_size = max(recipe.training.probe_problems, trainer.accelerator.num_processes)
    probe_rows = [{"prompt": prompt.reasoning_messages(row)} | row.columns() for row in kept["train"][:probe_size]]
    trainer.watch_collapse(probe_rows, _score_probe)
    train(recipe, trainer)
    enter_phase("held-out evaluation of the trained policy")
    trained = _measure(recipe, trainer, kept["held_out"])
    summary = {
        "task": recipe.run.task,
        "untrained": untrained,
        "trained": trained,
        "left_out": left_out,
        "nonfinite_steps": trainer.numerical_guard.skipped,
        **run_metadata(recipe, trainer),
        "wall_s": time.monotonic() - started,
    }
    figures = {name: summary[name]["accuracy"] for name in ("untrained", "trained")}
    example = prompt.reasoning_messages(Row("What is 6 * 7?", (), "math"))
    card = task_card(
        summary,
        about=ABOUT,
        usage=chat_usage(policy_name(recipe, trainer), example, recipe.sampling_at(0).max_completion_length),
        metric="accuracy",
        figures=figures,
        operators="",
        data=recipe.run.eval_data,
    )

    def plot(output_dir: Path) -> None:
        plot_reasoning(trainer.state.log_history, summary, output_dir / "learning_curve.png")

    def show() -> None:
        print_reasoning(summary, report_console())
        print_rank0(f"model, model card, summary.json and learning_curve.png are in {recipe.output_dir}")

    publish(recipe, trainer, summary, card, plot, show)
    return summary


def reasoning_dataset(rows: Sequence[Row], prompt: PolicyPrompt) -> Dataset:
    """Rows as the dataset TRL trains on: a conversational `prompt` and the columns of the schema."""
    return Dataset.from_list([{"prompt": prompt.reasoning_messages(row)} | row.columns() for row in rows])


async def _score_probe(
    texts: Sequence[str], rows: Sequence[RowColumns], *, seed: int, step: int
) -> dict[str, list[bool]]:
    rewards = (await _rewards(texts, rows, ["correctness_reward"]))[0]
    return {"accuracy": [value == 1 for value in rewards if value is not None]}


async def _rewards(texts: Sequence[str], rows: Sequence[RowColumns], names: Sequence[str]) -> list[list[float | None]]:
    """Rewards of completions, by reward function."""
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    columns = {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
    return [await function([], completions, **columns) for function in reasoning_rewards(list(names))]


def _measure(recipe: Recipe, trainer: WorkflowGRPOTrainer, rows: Sequence[Row]) -> dict[str, Any]:
    """Accuracy and other rewards of the policy on held-out problems, over all processes."""
    share = trainer.local_share(rows)
    prompts = [recipe.prompt.reasoning_messages(row) for row in rows]
    texts = trainer.sample(prompts, seed=recipe.training.seed)[: len(share)]
    names = list(REWARDS[recipe.run.task])
    local = trainer.run_async(_rewards(texts, [row.columns() for row in share], names))
    gathered = [gather_object(values) for values in local]
    scored = [value for value in gathered[names.index("correctness_reward")] if value is not None]
    right = sum(value == 1 for value in scored)
    low, high = wilson_interval(right, len(scored))
    means = {
        name: sum(value or 0.0 for value in values) / max(1, len(values))
        for name, values in zip(names, gathered, strict=True)
    }
    return {
        "accuracy": asdict(Mean(right / len(scored) if scored else float("nan"), low, high, len(scored))),
        "unscored": len(rows) - len(scored),
        "rewards": means,
    }
