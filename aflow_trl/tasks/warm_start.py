"""The warm start of a run: candidates, search by execution, fine-tuning on the winners; resumable at every stage."""

from __future__ import annotations

import gc
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object, wait_for_everyone
from trl import get_peft_config

from ..data import Row, split_digest
from ..dsl import format_workflow, parse
from ..errors import RecipeError, RunStoppedError
from ..event_loops import run_coroutine
from ..policies import load_model, load_tokenizer, sample_completions
from ..recipes import Recipe
from ..rollouts import Rollouts, trace_name
from ..storage import PROGRESS, check_settings, write_json
from ..trainer import WorkflowGRPOConfig
from ..warm_start import (
    Candidate,
    EvalRequest,
    EvalResult,
    Group,
    HalvingSearch,
    SearchLog,
    WarmStartSettings,
    candidate_workflows,
    draw_winner,
    fine_tune,
    group_of,
    group_rows,
    search_prices,
    sft_examples,
    successive_halving,
    winners_at,
)
from .preflight import check_trainer
from .prompt_length import leave_out_what_does_not_fit
from .run_folder import enter_phase
from .session import (
    WARM_START_FOLDER,
    build_engine,
    build_rollouts,
    earlier_rollouts,
    load_problems,
    model_path,
)

PHASE = "warm start"
"""Phase of the search, in traces."""
SETTINGS_FILE = "warm_start_settings.json"
CANDIDATES_FILE = "candidates.json"
WINNERS_FILE = "winners.json"
LOG_FILE = "search.jsonl"
EXECUTOR_SETTINGS = (
    *("executor_base_url", "executor_model", "executor_temperature", "executor_top_p", "executor_max_tokens"),
    *("executor_reasoning_effort", "executor_omit"),
)
"""Fields of the executor that decide its replies."""


@dataclass(frozen=True, slots=True)
class WarmStart:
    """Result of a warm start."""

    winners: Mapping[Group, Sequence[Candidate]]
    policy: Path
    """Folder of the fine-tuned adapter, or of the model where there is no adapter."""
    metadata: dict[str, Any]
    """For the summary: calls made, number of candidates, winners of each group."""


def run_warm_start(recipe: Recipe) -> dict[str, Any]:
    """
    Run the warm start alone; a training of the same recipe continues from it.

    Args:
        recipe ([`~aflow_trl.recipes.Recipe`]):
            Recipe with `warm_start`.

    Returns:
        `dict[str, Any]`: Calls made, number of candidates and winners of each group of problems.
    """
    eval_rows, rows = load_problems(recipe)
    earlier = earlier_rollouts(recipe)
    engine, _ = build_engine(recipe, earlier)
    check_trainer(recipe)
    rows, _, _ = leave_out_what_does_not_fit(recipe, rows, eval_rows)
    return warm_start(recipe, build_rollouts(recipe, engine, earlier), rows).metadata


def warm_start(recipe: Recipe, rollouts: Rollouts, rows: Sequence[Row]) -> WarmStart:
    """
    Search and fine-tune. Whatever an earlier launch with the same settings has finished is read from disk.

    Args:
        recipe ([`~aflow_trl.recipes.Recipe`]):
            Recipe with `warm_start`.
        rollouts ([`~aflow_trl.rollouts.Rollouts`]):
            Execution and scoring.
        rows (`Sequence[Row]`):
            Training problems.

    Returns:
        [`WarmStart`]: Winners, and the fine-tuned policy.

    Raises:
        [`RecipeError`]: The folder holds a warm start with other settings.
        [`FatalEndpointError`]: The executor can serve no further call; finished results are kept.
    """
    settings = recipe.compose.warm_start_settings
    assert settings is not None
    training = recipe.training
    folder = recipe.output_dir / WARM_START_FOLDER
    _check_settings(recipe, settings, rows, folder)
    groups = group_rows(rows, training.hard_from if settings.by_difficulty else None)
    policy_folder = folder / "policy"
    base: tuple[Any, Any] | None = None
    model = tokenizer = None
    if not (folder / WINNERS_FILE).is_file():
        if not (folder / CANDIDATES_FILE).is_file():
            model, tokenizer = base = _load(recipe)
            candidates = candidate_workflows(
                settings,
                recipe.operators.vocabulary,
                rows,
                lambda sampled_rows: _sample_policy(recipe, model, tokenizer, sampled_rows),
                seed=training.seed,
            )
            if training.process_index == 0:
                write_json(folder / CANDIDATES_FILE, candidates)
            wait_for_everyone()
        # Samples of a policy depend on batch size and machine: a search continues with the candidates it began with.
        candidates = json.loads((folder / CANDIDATES_FILE).read_text(encoding="utf-8"))
        enter_phase(f"warm start: {len(candidates)} workflows on {len(groups)} groups of problems")
        _search(recipe, settings, rollouts, groups, candidates, folder)
    metadata = json.loads((folder / WINNERS_FILE).read_text(encoding="utf-8"))
    groups_at = {replace(group, budget=budget) for group in groups for budget in training.budgets or [""]}
    group_by_name = {str(group): group for group in groups_at}
    winners = {
        group_by_name[name]: [Candidate.from_json(content) for content in contents]
        for name, contents in metadata["winners"].items()
    }
    if not policy_folder.is_dir():
        base = base or _load(recipe)
        enter_phase(f"warm start: fine-tuning on the winners in {settings.sft_steps} steps")
        examples = sft_examples(groups, winners, recipe.prompt, seed=training.seed)
        fine_tune(
            *base,
            examples,
            settings,
            training,
            get_peft_config(recipe.model),
            policy_folder,
        )
    # The trainer loads the policy again; two copies may not fit into the memory of a GPU.
    base = model = tokenizer = None
    gc.collect()
    torch.cuda.empty_cache()
    return WarmStart(winners, policy_folder, metadata)


def winner_name(rank: int) -> str:
    """Name of the system that runs the winner of this rank on each problem of a group."""
    return f"winner {rank + 1} of each group"


def at_budget(name: str, budget: str) -> str:
    """Name of a system at a budget."""
    return f"{name}, {budget} budget" if budget else name


def winners_for(found: WarmStart, rows: Sequence[Row], training: WorkflowGRPOConfig) -> dict[str, list[str]]:
    """
    What the search alone would run: the first winner of each problem's group, the second, and so on; with a target for
    the cost, winners that are drawn by weight, which meet the target.

    Args:
        found ([`WarmStart`]):
            The warm start.
        rows (`Sequence[Row]`):
            Problems of this process.
        training ([`~aflow_trl.WorkflowGRPOConfig`]):
            Configuration of the training.

    Returns:
        `dict[str, list[str]]`: By name, a workflow for each problem.
    """
    hard_from = training.hard_from
    if training.cost_targets is not None:
        drawn = {}
        for budget in training.budgets or [""]:
            rng = random.Random(f"{training.seed} {training.process_index} winners")
            choices = [found.winners[group_of(replace(row, budget=budget), found.winners, hard_from)] for row in rows]
            drawn[at_budget(winner_name(0), budget)] = [draw_winner(choice, rng).workflow for choice in choices]
        return drawn
    winners = [found.winners[group_of(row, found.winners, hard_from)] for row in rows]
    ranks = range(max(len(candidates) for candidates in found.winners.values()))
    return {
        winner_name(rank): [candidates[min(rank, len(candidates) - 1)].workflow for candidates in winners]
        for rank in ranks
    }


def _check_settings(recipe: Recipe, settings: WarmStartSettings, rows: Sequence[Row], folder: Path) -> None:
    """Refuse a folder whose warm start had other settings, problems, policy or executor."""
    training = recipe.training
    executor = {name: getattr(recipe.executor, name) for name in EXECUTOR_SETTINGS}
    adapter = {name: value for name, value in vars(recipe.model).items() if name.startswith(("use_", "lora_"))}
    content = {
        "search": asdict(settings) | {"workflows": list(settings.workflows)},
        "rows": split_digest(rows),
        "seed": training.seed,
        "hard_from": training.hard_from,
        "targets": training.cost_targets,
        "policy": recipe.model.model_name_or_path,
        "adapter": adapter,
        "prompt": recipe.run.policy_prompt,
        "operators": list(recipe.operators),
        "model_options": asdict(recipe.model_options),
        "sampling": _plain(asdict(recipe.sampling_at(0))),
        "executor": executor,
        "models": recipe.workflow.models,
        "judge_domains": recipe.workflow.judge_domains,
        "quantize_correctness": recipe.workflow.quantize_correctness,
    }
    remedy = "Remove it, or name another output_dir."
    check_settings(folder / SETTINGS_FILE, content, remedy)
    wait_for_everyone()
    if training.process_index == 0:
        write_json(folder / SETTINGS_FILE, content)


def _plain(content: Any) -> Any:
    """Content as it comes back from a JSON file."""
    return json.loads(json.dumps(content, default=str))


def _load(recipe: Recipe) -> tuple[Any, Any]:
    """The untrained policy and its tokenizer."""
    name, options = model_path(recipe), recipe.model_options
    return load_model(name, options, device=recipe.training.device), load_tokenizer(name, options)


def _sample_policy(recipe: Recipe, model: Any, tokenizer: Any, rows: Sequence[Row]) -> list[str]:
    """One completion for each row, over all processes, sampled as in training."""
    training = recipe.training
    share = rows[training.process_index :: training.world_size]
    model.eval()
    completions = sample_completions(
        model,
        tokenizer,
        [recipe.prompt.messages(row) for row in share],
        recipe.sampling_at(0),
        seed=training.seed + training.process_index,
        batch_size=training.per_device_train_batch_size,
        num_samples=1,
    )
    return list(gather_object([texts[0] for texts in completions]))


def _search(
    recipe: Recipe,
    settings: WarmStartSettings,
    rollouts: Rollouts,
    groups: Mapping[Group, Sequence[Row]],
    candidates: Mapping[str, int],
    folder: Path,
) -> None:
    """Successive halving in all groups; writes the winners."""
    training = recipe.training
    budget = settings.max_calls // len(groups)
    vocabulary = recipe.operators.vocabulary
    # Candidates are canonical; the recipe may spell a workflow differently.
    protected = {format_workflow(parse(text, vocabulary=vocabulary)) for text in settings.workflows}
    unit, targets = training.cost_targets or ("model_calls", {})
    prices = search_prices(list(targets.values()))
    searches = []
    shuffled: dict[Group, list[Row]] = {}
    for group, rows in groups.items():
        shuffled[group] = random.Random(f"{training.seed} {group}").sample(list(rows), len(rows))
        searches.append(
            HalvingSearch(
                group, len(rows), candidates, budget, settings.winners, training.seed, protected, unit, prices
            )
        )
    log = SearchLog(folder / LOG_FILE, training.process_index == 0)
    trace_path, rollouts.trace_path = rollouts.trace_path, folder / trace_name(training.process_index)

    async def measure(requests: Sequence[EvalRequest]) -> list[EvalResult]:
        if (recorded := log.next(requests)) is not None:
            return recorded
        results = await _measure(recipe, rollouts, shuffled, requests)
        log.append(requests, results)
        PROGRESS.count("model calls of the search", sum(search.paid for search in searches), settings.max_calls)
        return results

    async def work() -> None:
        try:
            await successive_halving(searches, measure)
        finally:
            await rollouts.engine.aclose()

    try:
        run_coroutine(work())
    finally:
        rollouts.trace_path = trace_path
    survivors = {search.group: search.best for search in searches}
    if empty := [str(group) for group, candidates_of_group in survivors.items() if not candidates_of_group]:
        raise RecipeError(
            f"warm_start: max_calls {settings.max_calls} is too small to try a workflow on {empty[0]} problems. "
            "Raise it."
        )
    total = sum(len(rows) for rows in groups.values())
    shares = {group: len(rows) / total for group, rows in groups.items()}
    winners = {
        str(replace(group, budget=budget)): [winner.to_json() for winner in chosen]
        for budget in targets or [""]
        for group, chosen in winners_at(survivors, shares, unit, targets.get(budget)).items()
    }
    if training.process_index == 0:
        paid = sum(search.paid for search in searches)
        tried = {str(search.group): search.tried for search in searches}
        write_json(folder / WINNERS_FILE, {"model_calls": paid, "tried": tried, "winners": winners})
    wait_for_everyone()


async def _measure(
    recipe: Recipe, rollouts: Rollouts, rows: Mapping[Group, Sequence[Row]], requests: Sequence[EvalRequest]
) -> list[EvalResult]:
    """Results of requests, executed by all processes together."""
    training = recipe.training
    # The workflows of one problem stay together, because they share calls.
    problems = [list(same) for _, same in groupby(requests, key=lambda request: (request.group, request.row))]
    share = [request for problem in problems[training.process_index :: training.world_size] for request in problem]
    scored = await rollouts.execute(
        [request.workflow for request in share],
        [rows[request.group][request.row].columns() for request in share],
        salt=f"{training.seed} warm start",
        phase=PHASE,
        step=0,
    )
    local = {
        request: EvalResult(
            rollout.correctness, rollout.trace.model_calls, rollout.trace.paid_calls, rollout.trace.usd
        )
        for request, rollout in zip(share, scored, strict=True)
    }
    by_request = dict(gather_object(list(local.items())))
    for fatal in gather_object([rollouts.engine.fatal]):
        if fatal is not None:
            raise fatal
    results = [by_request[request] for request in requests]
    lost = sum(gather_object([sum(rollout.lost for rollout in scored)]))
    if lost > training.max_unscored_share * len(results):
        raise RunStoppedError(
            f"{lost} of {len(results)} runs of the search could not be scored, or had most of their requests "
            "rejected: the endpoint, the sandbox or a scorer keeps failing, see the traces. Earlier results are kept: "
            "fix the cause and start the same command again."
        )
    return results
