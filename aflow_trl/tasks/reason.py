"""Plain reasoning: the policy answers by itself, with `<think>` and `<answer>`; no executor is asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from accelerate.utils import gather_object
from datasets import Dataset
from rich.console import Console

from ..data import Row, reasoning_messages
from ..errors import DataError
from ..evaluation import sample_policy, share_of
from ..recipes import Recipe
from ..rewards import reasoning_rewards
from ..runs import plot_reasoning, print_reasoning, task_card_sections
from ..sandbox import allow_weak_sandbox, fork_server
from ..scoring.statistics import Mean, wilson_interval
from ..storage import versions
from ..trainer import CollapseGuard, Share, WorkflowGRPOTrainer
from .session import (
    gathered_share,
    guard_facts,
    load_problems,
    make_trainer,
    policy_facts,
    probe_size,
    publish,
    say,
    train_to_the_end,
    watch,
)


def run_reason(recipe: Recipe) -> dict[str, Any]:
    """
    Run a recipe with `task: reason` from start to end.

    Args:
        recipe ([`~aflow_trl.recipe.Recipe`]):
            Checked recipe.

    Returns:
        `dict[str, Any]`: The summary, as written to `summary.json`.

    Raises:
        [`AflowError`]: Something the user has to mend; see `errors.py`.
    """
    started = time.monotonic()
    eval_rows, train_rows = load_problems(recipe)
    if any(row.domain == "code" for row in (*eval_rows, *train_rows)):
        allow_weak_sandbox(recipe.workflow.allow_weak_sandbox)
        asyncio.run(fork_server())  # missing isolation is told now
    prompt = recipe.workflow.policy_prompt
    rewards = reasoning_rewards(recipe.reward_names)
    trainer = make_trainer(recipe, rewards, reasoning_dataset(train_rows, prompt))
    tokenizer, longest = trainer.processing_class, recipe.workflow.max_prompt_length
    kept, left_out = {}, {}
    for name, rows in (("train", train_rows), ("held_out", eval_rows)):
        kept[name] = [row for row in rows if _length(tokenizer, row, prompt) <= longest]
        left_out[name] = len(rows) - len(kept[name])
        if left_out[name]:
            say(f"{left_out[name]} {name} prompts are longer than max_prompt_length {longest} and left out")
        if not kept[name]:
            raise DataError(f"every {name} prompt is longer than max_prompt_length {longest}. Raise it.")
    trainer.train_dataset = reasoning_dataset(kept["train"], prompt)

    def measure() -> dict[str, Any]:
        return _measure(recipe, trainer, kept["held_out"])

    say(f"held-out evaluation on {len(kept['held_out'])} problems")
    untrained = measure()
    guard = _watch(recipe, trainer, kept["train"])
    train_to_the_end(recipe, trainer, None, guard)
    say("held-out evaluation of the trained policy")
    trained = measure()
    summary = {
        "task": "reason",
        "untrained": untrained,
        "trained": trained,
        "left_out": left_out,
        "nonfinite_steps": trainer.guard.skipped,
        "policy": policy_facts(recipe),
        "seed": recipe.training.seed,
        "versions": versions(),
        "recipe": recipe.source,
        "collapse": guard_facts(guard),
        "wall_s": time.monotonic() - started,
    }
    card = task_card_sections(
        "This policy answers in the form `<think>…</think><answer>…</answer>`. The figures are its accuracy on "
        "held-out problems.",
        {name: summary[name]["accuracy"] for name in ("untrained", "trained")},
        "",
        yaml.safe_dump(recipe.source, sort_keys=False),
    )

    def show(output_dir: Path) -> None:
        plot_reasoning(trainer.state.log_history, summary, output_dir / "learning_curve.png")
        print_reasoning(summary, Console(width=max(Console().width, 110)))
        say(f"model, model card, summary.json and learning_curve.png are in {output_dir}")

    publish(recipe, trainer, summary, card, show)
    return summary


def reasoning_dataset(rows: Sequence[Row], prompt: str) -> Dataset:
    """Rows as the dataset TRL trains on: a conversational `prompt` and the columns of the schema."""
    return Dataset.from_list([{"prompt": reasoning_messages(row, prompt=prompt)} | row.columns() for row in rows])


def _length(tokenizer: Any, row: Row, prompt: str) -> int:
    ids = tokenizer.apply_chat_template(
        reasoning_messages(row, prompt=prompt), add_generation_prompt=True, tokenize=True, return_dict=True
    )
    return len(ids["input_ids"])


def _watch(recipe: Recipe, trainer: WorkflowGRPOTrainer, rows: Sequence[Row]) -> CollapseGuard | None:
    own = rows[: probe_size(recipe)]
    mine = share_of(trainer, own)

    def judge(texts: list[str]) -> dict[str, Share]:
        rewards = _rewards(trainer, texts, mine, ["correctness_reward"])[0]
        return {"accuracy": gathered_share([value == 1 for value in rewards if value is not None])}

    return watch(
        recipe, trainer, [reasoning_messages(row, prompt=recipe.workflow.policy_prompt) for row in own], judge
    )


def _rewards(
    trainer: WorkflowGRPOTrainer, texts: Sequence[str], rows: Sequence[Row], names: Sequence[str]
) -> list[list[float | None]]:
    """Rewards of this process's completions, by reward function."""
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    columns = {name: [row.columns()[name] for row in rows] for name in rows[0].columns()} if rows else {}

    async def reward() -> list[list[float | None]]:
        return [await function([], completions, **columns) for function in reasoning_rewards(list(names))]

    return asyncio.run_coroutine_threadsafe(reward(), trainer.async_loop).result()


def _measure(recipe: Recipe, trainer: WorkflowGRPOTrainer, rows: Sequence[Row]) -> dict[str, Any]:
    """Accuracy of the policy and what the other rewards say, on held-out problems."""
    prompts = [reasoning_messages(row, prompt=recipe.workflow.policy_prompt) for row in rows]
    own = share_of(trainer, rows)
    texts = sample_policy(trainer, prompts, seed=recipe.training.seed)[: len(own)]
    names = list(recipe.reward_weights)
    gathered = [gather_object(values) for values in _rewards(trainer, texts, own, names)]
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
