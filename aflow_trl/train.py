"""
Train a workflow-composing policy.

    accelerate launch -m aflow_trl.train RECIPE [--key value ...]
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.utils import gather_object, wait_for_everyone
from rich.console import Console
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import get_peft_config, get_quantization_config

from .data import Row, build_dataset, load_rows
from .engine import Engine
from .errors import AflowError, DataError, FatalEndpointError, RecipeError, RunStoppedError
from .llm import SIMULATED, CallCache, ExecutorConfig, LLMClient, Spending
from .operators import describe, vocabulary
from .recipe import TINY_POLICY, Recipe, load_recipe, report_and_exit
from .replay import SETTINGS_FILE, settings_of, trace_name
from .report import model_card_sections, plot_learning_curve, print_summary, versions, write_json
from .rewards import DEFAULT_WEIGHTS, Ledger, Rollouts, ScoredRollout, workflow_rewards
from .sandbox import Layers, allow_weak_sandbox, fork_server
from .scoring import LLMJudge
from .simulator import SimulatedApp, in_process
from .trainer import (
    ConsoleProgress,
    Evaluator,
    StopRun,
    WorkflowGRPOTrainer,
    accuracy,
    valid_share,
    workflow_counts,
)

EXIT_STOPPED = 3
"""Exit code of a run that ended early with a checkpoint."""
SINGLE_CALL = "Custom"
"""The workflow that stands for asking the executor once."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: read the recipe, train, report."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    _use_all_cores()
    try:
        run(load_recipe(sys.argv[1:] if arguments is None else arguments))
    except RunStoppedError as error:
        say(f"stopped: {error}")
        raise SystemExit(EXIT_STOPPED) from None
    except AflowError as error:
        report_and_exit(error)


def run(recipe: Recipe) -> dict[str, Any]:
    """
    Run a recipe from start to end: checks, evaluation of the untrained policy, training, evaluation, report.

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
    engine, layers = connect(recipe)
    trainer, rollouts = build_trainer(recipe, engine, train_rows)
    stop = StopRun(rollouts, recipe.workflow.max_unscored_share, recipe.workflow.max_lost_steps)
    trainer.add_callback(stop)
    evaluator = Evaluator(trainer, rollouts, eval_rows, _prompts(recipe, eval_rows), seed=recipe.training.seed)

    say(f"held-out evaluation on {len(eval_rows)} problems")
    untrained = evaluator.policy("untrained")
    fixed = {text: evaluator.workflow(text) for text in _fixed_workflows(recipe)}
    say("training")
    if trainer.is_world_process_zero():
        write_json(Path(recipe.training.output_dir) / SETTINGS_FILE, settings_of(recipe))
    trainer.record_rewards = True
    trainer.train(resume_from_checkpoint=recipe.training.resume_from_checkpoint)
    output_dir = recipe.training.output_dir
    if stop.reason is not None:
        checkpoint = Path(output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{trainer.state.global_step}"
        raise RunStoppedError(
            f"{stop.reason}. Step {trainer.state.global_step} is saved: mend the cause and start the same command "
            f"again with --resume_from_checkpoint {checkpoint}."
        )
    trainer.save_model(output_dir)
    say("held-out evaluation of the trained policy")
    try:
        trained = evaluator.policy("trained")
    except FatalEndpointError as error:
        raise RunStoppedError(
            f"{error}. The trained adapter is in {output_dir}; only its evaluation is missing."
        ) from None

    for client in engine.clients.values():
        asyncio.run_coroutine_threadsafe(client.aclose(), trainer.async_loop).result()
    summary = summarize(recipe, rollouts, untrained, fixed, trained)
    summary["sandbox"] = asdict(layers) | {"tier": layers.tier.value}
    summary["wall_s"] = time.monotonic() - started
    save(recipe, trainer, summary)
    return summary


def load_problems(recipe: Recipe) -> tuple[list[Row], list[Row]]:
    """Held-out and training rows; a [`DataError`] if a problem is in both."""
    args, seed = recipe.workflow, recipe.training.seed
    eval_rows = load_rows(args.eval_data, split="test", count=args.num_eval_problems, seed=seed)
    train_rows = load_rows(args.train_data, split="train", count=args.num_train_problems, seed=seed)
    shared = {(row.context, row.question) for row in eval_rows} & {(row.context, row.question) for row in train_rows}
    if shared:
        question = next(iter(shared))[1]
        raise DataError(
            f"{len(shared)} held-out problems are training problems too, such as {question[:80]!r}. "
            "Remove them from one of the two."
        )
    return eval_rows, train_rows


def connect(recipe: Recipe) -> tuple[Engine, Layers]:
    """
    The engine with its executors, after one call to each that proves it answers, and the layers of the sandbox, which
    is started once: what is missing is told now, not in the middle of a batch.
    """
    args, cache, spending = recipe.workflow, _cache(recipe), Spending()
    app = SimulatedApp(latency_s=args.simulated_latency_s)
    clients: list[LLMClient] = []

    def client_of(config: ExecutorConfig) -> LLMClient:
        for known in clients:
            if known.config == config:
                return known
        simulated = config.executor_base_url == SIMULATED
        clients.append(LLMClient(config, (lambda: in_process(app)) if simulated else None, cache, spending))
        return clients[-1]

    main = client_of(recipe.executor)
    models = {name: client_of(config) for name, config in recipe.operator_executors.items()}
    allow_weak_sandbox(args.allow_weak_sandbox)

    async def probe() -> tuple[Layers, list[float]]:
        try:
            return (await fork_server()).layers, [await client.ping() for client in clients]
        finally:
            for client in clients:
                await client.aclose()

    layers, latencies_s = asyncio.run(probe())
    if cache is not None:
        try:
            cache.stats()
        except (OSError, sqlite3.Error) as error:
            raise RecipeError(
                f"the cache {cache.path} cannot be used: {error}. Name another file with call_cache, or turn it off."
            ) from error
    say(f"sandbox: {layers}")
    for client, latency_s in zip(clients, latencies_s, strict=True):
        say(f"executor {client.config.executor_model} at {client.host} answered in {latency_s * 1000:.0f} ms")
        if None in (client.config.price.input_usd, client.config.price.output_usd):
            say(
                f"warning: the price of {client.config.executor_model} at {client.host} is not known, so USD are not "
                "counted; give executor_input_usd_per_mtok and executor_output_usd_per_mtok"
            )
    return Engine(main, vocabulary=vocabulary(args.operators), share=args.share, models=models), layers


def build_trainer(recipe: Recipe, engine: Engine, rows: Sequence[Row]) -> tuple[WorkflowGRPOTrainer, Rollouts]:
    """The trainer and the execution its reward functions share."""
    args, training = recipe.workflow, recipe.training
    output_dir = Path(training.output_dir)
    rank = training.process_index
    rollouts = Rollouts(
        engine,
        seed=training.seed,
        quantize_correctness=args.quantize_correctness,
        gate_secondary=args.gate_secondary,
        judge=LLMJudge(engine.client) if args.judge_domains else None,
        judge_domains=args.judge_domains or (),
        trace_path=output_dir / trace_name(rank),
    )
    names = args.reward_funcs or list(DEFAULT_WEIGHTS)
    if training.reward_weights is None:
        training.reward_weights = [DEFAULT_WEIGHTS[name] for name in names]
    model = _load_arguments(recipe)
    trainer = WorkflowGRPOTrainer(
        model=model,
        reward_funcs=workflow_rewards(rollouts, names),
        args=training,
        train_dataset=build_dataset(rows, **_prompt_arguments(recipe)),
        peft_config=get_peft_config(recipe.model),
        callbacks=[ConsoleProgress(say)],
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    return trainer, rollouts


def summarize(
    recipe: Recipe,
    rollouts: Rollouts,
    untrained: Sequence[ScoredRollout],
    fixed: dict[str, list[ScoredRollout]],
    trained: Sequence[ScoredRollout],
) -> dict[str, Any]:
    """
    Everything `summary.json` says but the wall time.

    The best fixed workflow is chosen on the very problems it is reported on, which favours it over the policy.
    """
    results = {text: accuracy(batch).to_json() for text, batch in fixed.items()}
    best = max(results, key=lambda text: (results[text]["mean"], -results[text]["calls_per_problem"]))
    counts = workflow_counts(trained)
    return {
        "accuracy": {
            "untrained": accuracy(untrained).to_json(),
            "custom": results[SINGLE_CALL],
            "best_fixed": results[best],
            "trained": accuracy(trained).to_json(),
        },
        "best_fixed_workflow": best,
        "fixed": results,
        "valid_share": {"untrained": valid_share(untrained), "trained": valid_share(trained)},
        "top_workflows": {"untrained": workflow_counts(untrained), "trained": counts},
        "domains": sorted(counts),
        "problems_by_domain": {domain: sum(own.values()) for domain, own in counts.items()},
        "executor": _executor_name(recipe),
        **_totals(rollouts),
        "seed": recipe.training.seed,
        "versions": versions(),
        "recipe": recipe.source,
    }


def save(recipe: Recipe, trainer: WorkflowGRPOTrainer, summary: dict[str, Any]) -> None:
    """Adapter, model card, summary and plot in `output_dir`, and on the Hub if asked for."""
    output_dir = Path(recipe.training.output_dir)
    trainer.model_card_sections = model_card_sections(
        summary, describe(list(vocabulary(recipe.workflow.operators))), yaml.safe_dump(recipe.source, sort_keys=False)
    )
    trainer.create_model_card(model_name=output_dir.name)
    if trainer.is_world_process_zero():
        write_json(output_dir / "summary.json", summary)
        plot_learning_curve(trainer.state.log_history, summary, output_dir / "learning_curve.png")
        print_summary(summary, Console(width=max(Console().width, 110)))
        say(f"adapter, model card, summary.json, learning_curve.png and the traces are in {output_dir}")
    wait_for_everyone()
    if recipe.training.push_to_hub:
        trainer.push_to_hub()


def say(line: str) -> None:
    """Print a line of progress, from the main process only."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(line, flush=True)


def _use_all_cores() -> None:
    """Without a GPU, share the cores among the processes: `accelerate launch` leaves each of them a single thread."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(torch.get_num_threads(), len(os.sched_getaffinity(0)) // processes))


def _totals(rollouts: Rollouts) -> dict[str, Any]:
    """Model calls made, rollouts, unscored ones, USD and the ledger of the whole run, over all processes."""
    processes = gather_object([rollouts.totals | {"usd": rollouts.engine.client.spending.usd}])
    costs = [own.pop("usd") for own in processes]
    sums = {name: sum(own[name] for own in processes) for name in rollouts.totals}
    ledger = Ledger.sum(gather_object([rollouts.ledger]))
    return sums | {"usd": None if None in costs else sum(costs), "ledger": ledger.to_json()}


def _cache(recipe: Recipe) -> CallCache | None:
    """Cache of replies: on unless it is turned off, or nothing is paid for."""
    path = recipe.workflow.call_cache
    if path == "off" or (path is None and recipe.executor.executor_base_url == SIMULATED):
        return None
    return CallCache(path or Path(recipe.training.output_dir) / "calls.sqlite")


def _fixed_workflows(recipe: Recipe) -> list[str]:
    return list(dict.fromkeys([SINGLE_CALL, *(recipe.workflow.baseline_workflows or [])]))


def _prompt_arguments(recipe: Recipe) -> dict[str, Any]:
    names = list(vocabulary(recipe.workflow.operators))
    return {"prompt": recipe.workflow.policy_prompt, "operators": names, "descriptions": describe(names)}


def _prompts(recipe: Recipe, rows: Sequence[Row]) -> list[Any]:
    return list(build_dataset(rows, **_prompt_arguments(recipe))["prompt"])


def _load_arguments(recipe: Recipe) -> str:
    """Put the loading options where TRL reads them; returns what it loads."""
    training, model = recipe.training, recipe.model
    options = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        "quantization_config": get_quantization_config(model),
    }
    given = training.model_init_kwargs if isinstance(training.model_init_kwargs, dict) else {}
    training.model_init_kwargs = {key: value for key, value in options.items() if value is not None} | given
    if model.model_name_or_path != TINY_POLICY:
        return str(model.model_name_or_path)
    from .simulator.policy import build_tiny_policy

    say("building the tiny policy (cached after the first time)")
    words = vocabulary(recipe.workflow.operators)
    return str(build_tiny_policy(training.seed, prompt=recipe.workflow.policy_prompt, vocabulary=words))


def _executor_name(recipe: Recipe) -> str:
    simulated = recipe.executor.executor_base_url == SIMULATED
    return "simulated executor" if simulated else recipe.executor.executor_model


if __name__ == "__main__":
    main()
