"""What the trainings share: problems, executor, trainer, a training that may be stopped, and what is left of it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object, wait_for_everyone
from datasets import Dataset
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import get_peft_config, get_quantization_config

from ..data import Row, load_rows
from ..dsl import workflow_regex
from ..engine import Engine
from ..errors import DataError, RecipeError, RunStoppedError
from ..evaluation import sample_policy, share_of
from ..llm import SIMULATED, CallCache, ExecutorConfig, LLMClient, Spending
from ..operators import describe, vocabulary
from ..recipes import TINY_POLICY, Recipe
from ..rollouts import Ledger, Rollouts, ScoredRollout, read_rollout
from ..runs import trace_name
from ..sandbox import Layers, allow_weak_sandbox, fork_server
from ..scoring import LLMJudge
from ..simulator import SimulatedApp, in_process
from ..storage import read_rows, write_json
from ..trainer import CollapseGuard, ConsoleProgress, Probe, Share, StopRun, WorkflowGRPOTrainer

WARM_START = "warm start"
"""Phase of the search of a warm start, in traces."""


def load_problems(recipe: Recipe) -> tuple[list[Row], list[Row]]:
    """Held-out and training rows; a [`DataError`] if a problem is in both."""
    args, seed = recipe.workflow, recipe.training.seed
    wanted: dict[str, Any] = {"seed": seed, "domains": args.domains, "max_difficulty": args.max_difficulty}
    eval_rows = load_rows(args.eval_data, split="test", count=args.num_eval_problems, **wanted)
    train_rows = load_rows(args.train_data, split="train", count=args.num_train_problems, **wanted)
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
    args, cache, spending = recipe.workflow, _cache(recipe), Spending(usd=spent_before(recipe))
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


def spent_before(recipe: Recipe) -> float | None:
    """
    USD that earlier launches of the run had spent in this process, as its traces tell: a cap holds for the run, not
    for a launch. `None` if a price is unknown.
    """
    costs = [rollout.trace.paid_usd for rollout in earlier_rollouts(recipe)]
    return None if None in costs else float(sum(cost for cost in costs if cost is not None))


def earlier_rollouts(recipe: Recipe) -> Iterator[ScoredRollout]:
    """
    What this process did in earlier launches of the run: everything if it is resumed, the search of a warm start that
    is taken over in any case. Steps that a kill undid were paid for, too.
    """
    training = recipe.training
    resumed = bool(recipe.workflow.resume or training.resume_from_checkpoint)
    searched = recipe.workflow.warm_start_settings is not None
    for row in read_rows(Path(training.output_dir) / trace_name(training.process_index)):
        if resumed or (searched and row["phase"] == WARM_START):
            yield read_rollout(row)


def make_rollouts(recipe: Recipe, engine: Engine) -> Rollouts:
    """The execution that the reward functions of a run share."""
    args, training = recipe.workflow, recipe.training
    rollouts = Rollouts(
        engine,
        seed=training.seed,
        quantize_correctness=args.quantize_correctness,
        gate_secondary=args.gate_secondary,
        judge=LLMJudge(engine.client) if args.judge_domains else None,
        judge_domains=args.judge_domains or (),
        trace_path=Path(training.output_dir) / trace_name(training.process_index),
    )
    for rollout in earlier_rollouts(recipe):
        rollouts.count([rollout])
    return rollouts


def make_trainer(recipe: Recipe, reward_funcs: Sequence[Callable[..., Any]], dataset: Dataset) -> WorkflowGRPOTrainer:
    """The trainer of a recipe, with progress in one line a step."""
    names = [function.__name__ for function in reward_funcs]
    training = recipe.training
    if training.reward_weights is None:
        training.reward_weights = [recipe.reward_weights[name] for name in names]
    if recipe.workflow.constrained_depth is not None:
        words = vocabulary(recipe.workflow.operators)
        training.vllm_structured_outputs_regex = workflow_regex(recipe.workflow.constrained_depth, vocabulary=words)
    trainer = WorkflowGRPOTrainer(
        model=load_arguments(recipe),
        reward_funcs=list(reward_funcs),
        args=training,
        train_dataset=dataset,
        peft_config=get_peft_config(recipe.model),
        callbacks=[ConsoleProgress(say)],
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    return trainer


def watch(
    recipe: Recipe,
    trainer: WorkflowGRPOTrainer,
    prompts: Sequence[Any],
    judge: Callable[[list[str]], dict[str, Share]],
) -> CollapseGuard | None:
    """
    Guard a training against collapse, as the recipe asks.

    Args:
        recipe ([`~aflow_trl.recipe.Recipe`]):
            Recipe of the run.
        trainer ([`~aflow_trl.trainer.WorkflowGRPOTrainer`]):
            Trainer to watch.
        prompts (`Sequence`):
            Prompts of the probe.
        judge (`Callable[[list[str]], dict[str, Share]]`):
            What completions of this process's share of the prompts are worth, over all processes.

    Returns:
        [`~aflow_trl.trainer.CollapseGuard`]: The guard, `None` if it is off.
    """
    if recipe.workflow.collapse_guard == "off":
        return None
    if recipe.workflow.collapse_guard == "rollback" and trainer.guard.mode == "stop":
        # What a bad step has done is undone, so there is no need to end the run over it.
        trainer.guard.mode = "skip"

    def probe() -> Probe:
        own = share_of(trainer, prompts)
        texts = sample_policy(trainer, prompts, seed=recipe.training.seed)[: len(own)]
        return Probe(own, texts, judge(texts))

    guard = CollapseGuard(trainer, probe, recipe.workflow.collapse_guard, recipe.workflow.probe_steps)
    trainer.add_callback(guard)
    return guard


def guard_facts(guard: CollapseGuard | None) -> dict[str, Any]:
    """What the guard found, for the summary."""
    return {"rollbacks": guard.rollbacks, "events": guard.events} if guard is not None else {}


def probe_size(recipe: Recipe) -> int:
    """Problems of the probe: at least one a process."""
    return max(recipe.workflow.probe_problems, int(recipe.training.world_size))


def gathered_share(flags: Sequence[bool]) -> Share:
    """Share of what is true on all processes."""
    everyone = gather_object(list(flags))
    return Share(sum(everyone) / max(1, len(everyone)), len(everyone))


def train_to_the_end(
    recipe: Recipe, trainer: WorkflowGRPOTrainer, rollouts: Rollouts | None, guard: CollapseGuard | None
) -> None:
    """
    Train and save what was trained.

    Raises:
        [`RunStoppedError`]: The run had to be ended; its message says how to go on from the checkpoint.
    """
    watchers: list[Any] = [trainer.guard, trainer.sync_guard, *([guard] if guard is not None else [])]
    if rollouts is not None:
        stop = StopRun(rollouts, recipe.workflow.max_unscored_share, recipe.workflow.max_lost_steps)
        trainer.add_callback(stop)
        watchers.append(stop)
    say("training")
    trainer.train(resume_from_checkpoint=recipe.training.resume_from_checkpoint)
    output_dir, step = recipe.training.output_dir, trainer.state.global_step
    for watcher in watchers:
        if watcher.reason is not None:
            checkpoint = Path(output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{step}"
            saved = f" Step {step} is saved in {checkpoint}: mend the cause and start the same command again with "
            raise RunStoppedError(f"{watcher.reason}.{saved + '--resume.' if checkpoint.is_dir() else ''}")
    trainer.save_model(output_dir)


def close(engine: Engine, trainer: WorkflowGRPOTrainer) -> None:
    """Close the executors' connections, on the event loop that opened them."""
    asyncio.run_coroutine_threadsafe(close_clients(engine), trainer.async_loop).result()


async def close_clients(engine: Engine) -> None:
    """Close the executors' connections, on the event loop that runs."""
    for client in engine.clients.values():
        await client.aclose()


def publish(
    recipe: Recipe,
    trainer: WorkflowGRPOTrainer,
    summary: dict[str, Any],
    card: str,
    show: Callable[[Path], None],
) -> None:
    """
    Model card and summary in `output_dir`, and everything on the Hub if asked for.

    Args:
        recipe ([`~aflow_trl.recipe.Recipe`]):
            Recipe of the run.
        trainer ([`~aflow_trl.trainer.WorkflowGRPOTrainer`]):
            Trained.
        summary (`dict[str, Any]`):
            What goes into `summary.json`.
        card (`str`):
            Sections of the model card.
        show (`Callable[[Path], None]`):
            Called in the main process with `output_dir`, to print and to plot.
    """
    output_dir = Path(recipe.training.output_dir)
    trainer.model_card_sections = card
    trainer.create_model_card(model_name=output_dir.name)
    if trainer.is_world_process_zero():
        write_json(output_dir / "summary.json", summary)
        show(output_dir)
    wait_for_everyone()
    if recipe.training.push_to_hub:
        trainer.push_to_hub()


def totals(rollouts: Rollouts) -> dict[str, Any]:
    """Model calls made, rollouts, unscored ones, USD and the ledger of the whole run, over all processes."""
    processes = gather_object([rollouts.totals | {"usd": rollouts.engine.client.spending.usd}])
    costs = [own.pop("usd") for own in processes]
    sums = {name: sum(own[name] for own in processes) for name in rollouts.totals}
    ledger = Ledger.sum(gather_object([rollouts.ledger]))
    return sums | {"usd": None if None in costs else sum(costs), "ledger": ledger.to_json()}


def prompt_arguments(recipe: Recipe) -> dict[str, Any]:
    """What a policy's prompt is made with."""
    names = list(vocabulary(recipe.workflow.operators))
    return {"prompt": recipe.workflow.policy_prompt, "operators": names, "descriptions": describe(names)}


def policy_facts(recipe: Recipe) -> dict[str, Any]:
    """What a policy has to be asked with later, as it was in training: flags count as well as the file."""
    args, training = recipe.workflow, recipe.training
    return {
        "policy_prompt": args.policy_prompt,
        "operators": list(vocabulary(args.operators)),
        "operator_modules": args.operator_modules or [],
        "temperature": training.temperature_at(training.temperature_warmup_steps),
        "top_p": training.top_p,
        "top_k": training.top_k,
        "max_completion_length": training.max_completion_length,
    }


def executor_name(recipe: Recipe) -> str:
    """Name of the executor, for reports."""
    simulated = recipe.executor.executor_base_url == SIMULATED
    return "simulated executor" if simulated else recipe.executor.executor_model


def say(line: str) -> None:
    """Print a line of progress, from the main process only."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(line, flush=True)


def _cache(recipe: Recipe) -> CallCache | None:
    """Cache of replies: on unless it is turned off, or nothing is paid for."""
    path = recipe.workflow.call_cache
    if path == "off" or (path is None and recipe.executor.executor_base_url == SIMULATED):
        return None
    return CallCache(path or Path(recipe.training.output_dir) / "calls.sqlite")


def load_arguments(recipe: Recipe) -> str:
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
    from ..policies import build_tiny_policy

    say("building the tiny policy (cached after the first time)")
    words = vocabulary(recipe.workflow.operators)
    kind = recipe.workflow.task
    return str(build_tiny_policy(training.seed, prompt=recipe.workflow.policy_prompt, vocabulary=words, task=kind))
