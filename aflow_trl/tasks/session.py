"""What the tasks share: problems, executor, trainer, accounts, publishing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object, wait_for_everyone
from datasets import Dataset
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import get_peft_config

from ..data import Row, load_rows, with_budgets
from ..engine import Engine
from ..errors import DataError, RecipeError
from ..event_loops import run_coroutine
from ..llm import SIMULATED, CallCache, ExecutorConfig, LLMClient, Price, Spending, Usage
from ..operators import preflight
from ..policies import build_tiny_policy, local_model, write_spec
from ..recipes import OFF, TINY_POLICY, ComposeArguments, Recipe
from ..rewards import RewardFunction
from ..rollouts import Ledger, Rollouts, ScoredRollout, read_traces, trace_name
from ..runs import plot_timeline
from ..sandbox import Layers, allow_weak_sandbox, fork_server
from ..scoring import LLMJudge
from ..simulator import SimulatedApp, simulated_client
from ..storage import PROGRESS, versions, write_json
from ..trainer import INTERRUPTION, CardContent, ConsoleProgress, StepRecord, WorkflowGRPOTrainer, mean_seconds
from .run_folder import count_steps, enter_phase, print_rank0

WARM_START_FOLDER = "warm_start"
"""Subfolder of `output_dir` for everything the warm start leaves."""
SUMMARY_FILE = "summary.json"


def load_problems(recipe: Recipe) -> tuple[list[Row], list[Row]]:
    """
    Held-out and training rows, the latter with a budget each where there are several.

    Raises:
        [`DataError`]: A problem is in both.
    """
    run, seed = recipe.run, recipe.training.seed
    eval_rows, train_rows = (
        load_rows(data, split=split, count=count, seed=seed, domains=run.domains, max_difficulty=run.max_difficulty)
        for data, split, count in (
            (run.eval_data, "test", run.num_eval_problems),
            (run.train_data, "train", run.num_train_problems),
        )
    )
    shared = {(row.context, row.question) for row in eval_rows} & {(row.context, row.question) for row in train_rows}
    if shared:
        question = next(iter(shared))[1]
        raise DataError(
            f"{len(shared)} held-out problems are training problems too, such as {question[:80]!r}. "
            "Remove them from one of the two."
        )
    if recipe.training.budgets:
        train_rows = with_budgets(train_rows, recipe.training.budgets, seed=seed)
    return eval_rows, train_rows


def earlier_rollouts(recipe: Recipe) -> list[ScoredRollout]:
    """
    The rollouts that this process paid for in earlier launches of the run.

    Those are all of a resumed run, the steps that a kill undid included, and the search of a warm start in any case.
    """
    name = trace_name(recipe.training.process_index)
    files = []
    if isinstance(recipe.arguments, ComposeArguments) and recipe.arguments.warm_start_settings is not None:
        files.append(recipe.output_dir / WARM_START_FOLDER / name)
    if recipe.run.resume or recipe.training.resume_from_checkpoint:
        files.append(recipe.output_dir / name)
    return [recorded.rollout for file in files for recorded in read_traces(file)]


def build_engine(recipe: Recipe, earlier: Sequence[ScoredRollout]) -> tuple[Engine, Layers]:
    """
    The engine with its executors, and the layers of the sandbox.

    Every executor is tried and the sandbox is started, so that what is missing is reported now and not in the
    middle of a batch.

    Args:
        recipe ([`~aflow_trl.recipes.Recipe`]):
            Recipe of the run.
        earlier (`Sequence[ScoredRollout]`):
            Rollouts that earlier launches of the run paid for.

    Raises:
        [`FatalEndpointError`]: An executor does not answer.
        [`RecipeError`]: The cache of replies cannot be used.
        [`SandboxUnavailableError`]: The machine cannot confine programs.
    """
    args, cache = recipe.workflow, _cache(recipe)
    spending = Spending(usd=spent_usd(earlier, recipe.executor.price))
    app = SimulatedApp(latency_s=args.simulated_latency_s)
    clients: list[LLMClient] = []

    def client_for(config: ExecutorConfig) -> LLMClient:
        for client in clients:
            if client.config == config:
                return client
        simulated = config.executor_base_url == SIMULATED
        clients.append(
            simulated_client(config, app=app, cache=cache, spending=spending)
            if simulated
            else LLMClient(config, None, cache, spending)
        )
        return clients[-1]

    main = client_for(recipe.executor)
    models = {name: client_for(config) for name, config in recipe.further_executors.items()}
    allow_weak_sandbox(recipe.run.allow_weak_sandbox)

    async def probe() -> Layers:
        try:
            for client in clients:
                await preflight(client)
            return (await fork_server()).layers
        finally:
            for client in clients:
                await client.aclose()

    # The others read the profile that the first process leaves.
    with PartialState().main_process_first():
        layers = run_coroutine(probe())
    if cache is not None:
        try:
            cache.stats()
        except (OSError, sqlite3.Error) as error:
            raise RecipeError(
                f"the cache {cache.path} cannot be used: {error}. Name another file with call_cache, or turn it off."
            ) from error
    print_rank0(f"sandbox: {layers}")
    for client in clients:
        print_rank0(f"executor {client.config.executor_model} at {client.host}: {client.profile or 'ready'}")
        if None in (client.config.price.input_usd, client.config.price.output_usd):
            print_rank0(
                f"warning: the price of {client.config.executor_model} at {client.host} is unknown, so USD are not "
                "counted; give executor_input_usd_per_mtok and executor_output_usd_per_mtok"
            )
    return Engine(main, operators=recipe.operators, share=args.share, models=models), layers


def spent_usd(rollouts: Sequence[ScoredRollout], price: Price) -> float | None:
    """
    USD of earlier launches, so that a cap holds for the run and not for a launch.

    A rollout that was executed while the price was unknown is counted at the present price of the executor.

    Returns:
        `float`, *optional*: `None` if the present price is unknown as well.
    """
    total = 0.0
    for rollout in rollouts:
        cost = rollout.trace.paid_usd
        if cost is None:
            nodes = [node for node in rollout.trace.nodes if not node.shared]
            tokens = (sum(node.prompt_tokens for node in nodes), sum(node.completion_tokens for node in nodes))
            cost = price.cost(Usage(*tokens))
        if cost is None:
            return None
        total += cost
    return total


def build_rollouts(
    recipe: Recipe, engine: Engine, earlier: Sequence[ScoredRollout], folder: Path | None = None
) -> Rollouts:
    """The service that the reward functions of a run share, with the accounts of earlier launches."""
    args, training = recipe.workflow, recipe.training
    rollouts = Rollouts(
        engine,
        seed=training.seed,
        quantize_correctness=args.quantize_correctness,
        gate_secondary=args.gate_secondary,
        judge=LLMJudge(engine.client) if args.judge_domains else None,
        judge_domains=args.judge_domains or (),
        trace_path=(folder or recipe.output_dir) / trace_name(training.process_index),
    )
    rollouts.count(earlier)
    PROGRESS.usd = lambda: engine.client.spending.usd
    return rollouts


def build_trainer(
    recipe: Recipe, reward_funcs: Sequence[RewardFunction], dataset: Dataset, eval_dataset: Dataset
) -> WorkflowGRPOTrainer:
    """
    The trainer of a recipe, with one line of progress for each logged step.

    The held-out problems are its `eval_dataset`, which `eval_strategy` evaluates during training.
    """
    path = model_path(recipe)
    try:
        trainer = WorkflowGRPOTrainer(
            path,
            list(reward_funcs),
            recipe.training,
            train_dataset=dataset,
            eval_dataset=eval_dataset,
            peft_config=get_peft_config(recipe.model),
            callbacks=[ConsoleProgress(print_rank0), INTERRUPTION, StepRecord(count_steps)],
        )
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise RecipeError(f"the trainer refuses this recipe: {_first_sentence(error)}") from error
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    _set_up_trackers(trainer)
    if trainer.is_world_process_zero():
        write_spec(recipe.policy_spec, recipe.output_dir)
    print_rank0(f"rewards: {trainer.reward_roles}")
    return trainer


def _set_up_trackers(trainer: WorkflowGRPOTrainer) -> None:
    """Begin the run of each tracker now, so that one that refuses does so before the evaluation."""
    for callback in trainer.callback_handler.callbacks:
        if hasattr(callback, "setup"):
            try:
                callback.setup(trainer.args, trainer.state, trainer.model)
            except Exception as error:  # trackers have no common base class of errors
                name = type(callback).__name__.removesuffix("Callback").lower()
                raise RecipeError(
                    f"report_to: {name} refuses: {_first_sentence(error)} Name another tracker, or none."
                ) from error


def _first_sentence(error: Exception) -> str:
    """An error of a library as one line: what follows is often advice for its developers."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def model_path(recipe: Recipe) -> str:
    """Folder or name of the policy's model; the tiny policy is built if it is not cached."""
    if recipe.model.model_name_or_path != TINY_POLICY:
        enter_phase(f"loading the policy {recipe.model.model_name_or_path}")
        return local_model(str(recipe.model.model_name_or_path))
    enter_phase("loading the tiny policy (built when it is first needed, then cached)")
    folder = build_tiny_policy(
        recipe.training.seed, prompt=recipe.run.policy_prompt, operators=recipe.operators, task=recipe.run.task
    )
    return str(folder)


def train(recipe: Recipe, trainer: WorkflowGRPOTrainer) -> None:
    """
    Train and save the result.

    Raises:
        [`RunStoppedError`]: The run was stopped; the message says how to continue from the checkpoint.
    """
    enter_phase("training")
    with INTERRUPTION.in_training():
        trainer.train(resume_from_checkpoint=recipe.training.resume_from_checkpoint)
        # Without an upload, which follows with the card of the run.
        trainer.save_model(recipe.training.output_dir, _internal_call=True)


def close_executors(engine: Engine, trainer: WorkflowGRPOTrainer) -> None:
    """Close the executors' connections, on the event loop that opened them."""
    trainer.run_async(engine.aclose())


def publish(
    recipe: Recipe,
    trainer: WorkflowGRPOTrainer,
    summary: Mapping[str, Any],
    card: CardContent,
    plot: Callable[[Path], None],
    show: Callable[[], None],
) -> None:
    """
    Write model card, summary and plots into `output_dir`, push to the Hub if the recipe says so, and then print.

    Args:
        recipe ([`~aflow_trl.recipes.Recipe`]):
            Recipe of the run.
        trainer ([`~aflow_trl.WorkflowGRPOTrainer`]):
            Trained.
        summary (`Mapping[str, Any]`):
            Content of `summary.json`.
        card ([`~aflow_trl.trainer.CardContent`]):
            What the model card says.
        plot (`Callable[[Path], None]`):
            Called in the main process with `output_dir`; draws.
        show (`Callable[[], None]`):
            Called in the main process, after everything is safe; prints.
    """
    trainer.card_content = card
    trainer.create_model_card(model_name=recipe.output_dir.name)
    if trainer.is_world_process_zero():
        write_json(recipe.output_dir / SUMMARY_FILE, summary)
        plot(recipe.output_dir)
        plot_timeline(list(trainer.timeline.spans), recipe.output_dir / "step_timeline.png")
    wait_for_everyone()
    if recipe.training.push_to_hub:
        trainer.push_to_hub()
    if trainer.is_world_process_zero():
        show()


def policy_name(recipe: Recipe, trainer: WorkflowGRPOTrainer) -> str:
    """Name under which the policy is found: that of the Hub, or its folder."""
    if recipe.training.push_to_hub:
        return str(trainer.hub_model_id)
    return recipe.output_dir.name if recipe.output_dir.is_absolute() else str(recipe.output_dir)


def run_metadata(recipe: Recipe, trainer: WorkflowGRPOTrainer) -> dict[str, Any]:
    """The part of a summary that every task has."""
    guard = trainer.collapse_guard
    return {
        "seed": recipe.training.seed,
        "versions": versions(),
        "recipe": recipe.public_source,
        "seconds": mean_seconds(trainer.state.log_history),
        "collapse": {"rollbacks": guard.rollbacks, "events": guard.events} if guard is not None else {},
    }


def totals(rollouts: Rollouts) -> dict[str, Any]:
    """Model calls, rollouts, USD, ledger of the whole run over all processes, and the profiles of its endpoints."""
    processes = gather_object([rollouts.totals | {"usd": rollouts.engine.client.spending.usd}])
    costs = [process.pop("usd") for process in processes]
    sums = {name: sum(process[name] for process in processes) for name in rollouts.totals}
    ledger = Ledger.sum(gather_object([rollouts.ledger]))
    endpoints = [
        {"model": client.config.executor_model, "host": client.host} | asdict(client.profile)
        for client in dict.fromkeys(rollouts.engine.clients.values())
        if client.profile is not None
    ]
    return sums | {
        "usd": None if None in costs else sum(costs),
        "ledger": ledger.to_json(),
        "endpoints": endpoints,
    }


def _cache(recipe: Recipe) -> CallCache | None:
    """Cache of replies: used unless it is turned off, or replies are free."""
    path = recipe.workflow.call_cache
    if path == OFF or (path is None and recipe.is_simulated):
        return None
    return CallCache(path or recipe.output_dir / "calls.sqlite")
