"""The warm start of a composing policy: sample workflows, search by execution, teach the policy the winners."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object, wait_for_everyone
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import SFTConfig, SFTTrainer, get_peft_config

from ..data import Row, policy_messages, split_digest
from ..dsl import CLOSING_TAG, analyze, extract, format_workflow, parse, sample_workflow, workflow_templates
from ..errors import RecipeError, RunStoppedError
from ..operators import vocabulary
from ..recipes import Recipe
from ..rollouts import Rollouts
from ..storage import write_json
from ..warm_start import (
    Candidate,
    EvalRequest,
    Group,
    HalvingSearch,
    Run,
    SearchLog,
    WarmStartSettings,
    successive_halving,
)
from .session import (
    WARM_START,
    close_clients,
    connect,
    load_arguments,
    load_problems,
    make_rollouts,
    prompt_arguments,
    say,
)

FOLDER = "warm_start"
"""In `output_dir`: `winners.json`, `search.jsonl` and what was trained."""
SFT_EXAMPLES = 4_096
TOKENIZER_OPTIONS = ("revision", "trust_remote_code")
"""Options of the model that its tokenizer is loaded with, too."""
ADAPTER_OPTIONS = ("use_", "lora_", "load_in_")
"""Beginnings of the names of the options that say what is trained."""
MIN_LEVEL_ROWS = 20
"""A domain is split by difficulty where each part has at least so many problems."""


@dataclass(frozen=True, slots=True)
class WarmStart:
    """What a warm start found."""

    winners: Mapping[Group, Sequence[Candidate]]
    model: Path
    """Folder of the adapter, or of the model where there is none."""
    facts: dict[str, Any]
    """For the summary: candidates, calls, winners of each group."""


def run_warm_start(recipe: Recipe) -> dict[str, Any]:
    """
    The warm start alone; a training of the same recipe goes on from it.

    Args:
        recipe ([`~aflow_trl.recipe.Recipe`]):
            Recipe with `warm_start`.

    Returns:
        `dict[str, Any]`: Calls made, workflows tried and winners of each group of problems.
    """
    _, rows = load_problems(recipe)
    engine, _ = connect(recipe)
    return warm_start(recipe, make_rollouts(recipe, engine), rows).facts


def warm_start(recipe: Recipe, rollouts: Rollouts, rows: Sequence[Row]) -> WarmStart:
    """
    Search and teach; what an earlier launch with the same settings has done is taken from disk.

    Args:
        recipe ([`~aflow_trl.recipe.Recipe`]):
            Recipe with `warm_start`.
        rollouts ([`~aflow_trl.rewards.Rollouts`]):
            Execution and scoring.
        rows (`Sequence[Row]`):
            Training problems.

    Returns:
        [`WarmStart`]: Winners, and where the taught policy is.

    Raises:
        [`RecipeError`]: The folder holds a warm start with other settings.
        [`FatalEndpointError`]: The executor can serve no further call; what was measured is kept.
    """
    settings = recipe.workflow.warm_start_settings
    assert settings is not None
    folder = Path(recipe.training.output_dir) / FOLDER
    _claim(recipe, settings, rows, folder)
    groups = group_rows(rows, recipe.training.hard_from if settings.by_difficulty else None)
    taught = folder / "policy"
    model = None
    if not (folder / "winners.json").is_file():
        if not (folder / "candidates.json").is_file():
            model, tokenizer = _load(recipe)
            found = _candidates(recipe, settings, model, tokenizer, rows)
            if recipe.training.process_index == 0:
                write_json(folder / "candidates.json", found)
            wait_for_everyone()
        # What a policy samples depends on the batch size and the machine: a search goes on with what it began with.
        candidates = json.loads((folder / "candidates.json").read_text(encoding="utf-8"))
        say(f"warm start: {len(candidates)} workflows on {len(groups)} groups of problems")
        _search(recipe, settings, rollouts, groups, candidates, folder)
    facts = json.loads((folder / "winners.json").read_text(encoding="utf-8"))
    known = {str(group): group for group in groups}
    names = ("workflow", "right", "scored", "calls", "weight")
    winners = {
        known[name]: [Candidate(**{key: one[key] for key in names}) for one in own]
        for name, own in facts["winners"].items()
    }
    if not taught.is_dir():
        if model is None:
            model, tokenizer = _load(recipe)
        say(f"warm start: teaching the winners in {settings.sft_steps} steps")
        _teach(recipe, settings, model, tokenizer, _lessons(recipe, groups, winners), taught)
    del model
    gc.collect()
    torch.cuda.empty_cache()
    return WarmStart(winners, taught, facts)


def group_rows(rows: Sequence[Row], hard_from: int | None) -> dict[Group, list[Row]]:
    """
    Problems by domain, and by difficulty where both parts of a domain are large enough to search in.

    Args:
        rows (`Sequence[Row]`):
            Problems.
        hard_from (`int`, *optional*):
            Difficulty from which a problem is hard. If `None`, difficulty plays no part.

    Returns:
        `dict[Group, list[Row]]`: In a fixed order.
    """
    groups: dict[Group, list[Row]] = {}
    for domain in sorted({row.domain for row in rows}):
        own = [row for row in rows if row.domain == domain]
        hard = [row for row in own if hard_from is not None and row.difficulty >= hard_from]
        if min(len(hard), len(own) - len(hard)) < MIN_LEVEL_ROWS:
            groups[Group(domain)] = own
            continue
        groups[Group(domain, "easy")] = [row for row in own if row not in hard]
        groups[Group(domain, "hard")] = hard
    return groups


def winner_name(place: int) -> str:
    """Name of the choice of each group's winner in this place."""
    return f"winner {place + 1} of each group"


def winners_for(recipe: Recipe, start: WarmStart, rows: Sequence[Row]) -> dict[str, list[str]]:
    """
    What the search alone would run: the first winner of each problem's group, the second, and so on.

    Args:
        recipe ([`~aflow_trl.recipe.Recipe`]):
            Recipe of the run.
        start ([`WarmStart`]):
            The warm start.
        rows (`Sequence[Row]`):
            Problems of all processes.

    Returns:
        `dict[str, list[str]]`: By name, a workflow for each problem of this process's share.
    """
    training = recipe.training
    own = rows[training.process_index :: training.world_size]
    found = [start.winners[_group_of(row, start.winners, training.hard_from)] for row in own]
    places = range(max(len(winners) for winners in start.winners.values()))
    return {
        winner_name(place): [winners[min(place, len(winners) - 1)].workflow for winners in found] for place in places
    }


def _group_of(row: Row, known: Collection[Group], hard_from: int) -> Group:
    split = Group(row.domain, "hard" if row.difficulty >= hard_from else "easy")
    group = split if split in known else Group(row.domain)
    if group not in known:
        raise RecipeError(f"train_data holds no {row.domain} problem, so no workflow was searched for eval_data's.")
    return group


def _claim(recipe: Recipe, settings: WarmStartSettings, rows: Sequence[Row], folder: Path) -> None:
    """Refuse a folder whose warm start had other settings, problems, policy or executor."""
    executor = recipe.executor
    own = asdict(settings) | {
        "workflows": list(settings.workflows),
        "rows": split_digest(rows),
        "policy": recipe.model.model_name_or_path,
        "policy_prompt": recipe.workflow.policy_prompt,
        "operators": list(vocabulary(recipe.workflow.operators)),
        "executor": f"{executor.executor_model} {executor.executor_base_url}",
        "models": recipe.workflow.models,
        "seed": recipe.training.seed,
        "hard_from": recipe.training.hard_from,
        "revision": recipe.model.model_revision,
        "adapter": {key: value for key, value in vars(recipe.model).items() if key.startswith(ADAPTER_OPTIONS)},
    }
    path = folder / "settings.json"
    if path.is_file() and (known := json.loads(path.read_text(encoding="utf-8"))) != own:
        changed = ", ".join(name for name in own if own[name] != known.get(name))
        raise RecipeError(
            f"{folder} holds a warm start with other settings ({changed}). Remove it, or name another output_dir."
        )
    wait_for_everyone()
    if recipe.training.process_index == 0:
        write_json(path, own)


def _load(recipe: Recipe) -> tuple[Any, Any]:
    """The untrained policy and its tokenizer."""
    name = load_arguments(recipe)
    options = dict(recipe.training.model_init_kwargs or {})
    model = AutoModelForCausalLM.from_pretrained(name, **options)
    if "quantization_config" not in options:
        model = model.to(recipe.training.device)
    tokenizer = AutoTokenizer.from_pretrained(
        name, **{key: options[key] for key in TOKENIZER_OPTIONS if key in options}
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def _candidates(
    recipe: Recipe, settings: WarmStartSettings, model: Any, tokenizer: Any, rows: Sequence[Row]
) -> dict[str, int]:
    """Workflows to try, canonical, with the most model calls of each: equal on every process."""
    words = vocabulary(recipe.workflow.operators)
    dice = random.Random(f"{recipe.training.seed} warm start")
    found = [parse(text, vocabulary=words) for text in settings.workflows]
    if settings.forms:
        found += workflow_templates(vocabulary=words)
    found += [sample_workflow(dice, vocabulary=words) for _ in range(settings.grammar_samples)]
    if settings.policy_samples:
        asked = [dice.choice(rows) for _ in range(settings.policy_samples)]
        texts = _sample_policy(recipe, model, tokenizer, asked)
        drawn = [extract(text, vocabulary=words).workflow for text in texts]
        found += [workflow for workflow in drawn if workflow is not None]
    return {format_workflow(one): analyze(one, vocabulary=words).worst_case_calls for one in found}


def _sample_policy(recipe: Recipe, model: Any, tokenizer: Any, rows: Sequence[Row]) -> list[str]:
    """One completion a row, from all processes, sampled as in training."""
    training = recipe.training
    arguments = prompt_arguments(recipe)
    own = rows[training.process_index :: training.world_size]
    texts: list[str] = []
    model.eval()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.no_grad():
        torch.manual_seed(training.seed + training.process_index)
        for start in range(0, len(own), training.per_device_train_batch_size):
            part = own[start : start + training.per_device_train_batch_size]
            inputs = tokenizer.apply_chat_template(
                [policy_messages(row, **arguments) for row in part],
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
                padding=True,
                tokenizer_kwargs={"padding_side": "left"},
            ).to(model.device)
            output = model.generate(
                **inputs,
                do_sample=True,
                temperature=training.temperature_at(0),
                top_p=training.top_p,
                top_k=training.top_k,
                max_new_tokens=training.max_completion_length,
                stop_strings=[CLOSING_TAG],
                tokenizer=tokenizer,
                pad_token_id=tokenizer.pad_token_id,
            )
            texts += tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return list(gather_object(texts))


def _search(
    recipe: Recipe,
    settings: WarmStartSettings,
    rollouts: Rollouts,
    groups: Mapping[Group, Sequence[Row]],
    candidates: Mapping[str, int],
    folder: Path,
) -> None:
    """Successive halving in all groups; writes `winners.json`."""
    training = recipe.training
    budget = settings.max_calls // len(groups)
    contests = []
    shuffled: dict[Group, list[Row]] = {}
    for group, own in groups.items():
        shuffled[group] = random.Random(f"{training.seed} {group}").sample(list(own), len(own))
        contests.append(HalvingSearch(group, len(own), candidates, budget, settings.winners, training.seed))
    journal = SearchLog(folder / "search.jsonl", training.process_index == 0)

    async def measure(jobs: Sequence[EvalRequest]) -> list[Run]:
        if (known := journal.next(jobs)) is not None:
            return known
        # The workflows of one problem stay together: they share calls.
        problems = [list(own) for _, own in groupby(jobs, key=lambda job: (job.group, job.row))]
        mine = [job for own in problems[training.process_index :: training.world_size] for job in own]
        scored = await rollouts.execute(
            [job.workflow for job in mine],
            [shuffled[job.group][job.row].columns() for job in mine],
            salt=f"{training.seed} warm start",
            phase=WARM_START,
            step=0,
        )
        runs = {
            job: Run(one.correctness, one.trace.model_calls, one.trace.paid_calls)
            for job, one in zip(mine, scored, strict=True)
        }
        everyone = dict(gather_object(list(runs.items())))
        for fatal in gather_object([rollouts.engine.fatal]):
            if fatal is not None:
                raise fatal
        ordered = [everyone[job] for job in jobs]
        lost = sum(run.correctness is None for run in ordered)
        if lost > recipe.workflow.max_unscored_share * len(ordered):
            raise RunStoppedError(
                f"{lost} of {len(ordered)} runs of the search could not be scored: the endpoint, the sandbox or a "
                "scorer keeps failing, see the traces. What was measured before is kept: mend the cause and start the "
                "same command again."
            )
        journal.append(jobs, ordered)
        return ordered

    async def work() -> None:
        try:
            await successive_halving(contests, measure)
        finally:
            await close_clients(rollouts.engine)

    asyncio.run(work())
    winners = {str(contest.group): [arm.to_json() for arm in contest.best] for contest in contests}
    if empty := [name for name, own in winners.items() if not own]:
        raise RecipeError(
            f"warm_start: max_calls {settings.max_calls} is too small to try a workflow on {empty[0]} problems. "
            "Raise it."
        )
    if training.process_index == 0:
        paid = sum(contest.paid for contest in contests)
        tried = {str(contest.group): contest.tried for contest in contests}
        write_json(folder / "winners.json", {"model_calls": paid, "tried": tried, "winners": winners})
    wait_for_everyone()


def _lessons(
    recipe: Recipe, groups: Mapping[Group, Sequence[Row]], winners: Mapping[Group, Sequence[Candidate]]
) -> list[dict[str, Any]]:
    """Prompts with a winner of their group, drawn by weight: several stay alive for the RL to choose from."""
    dice = random.Random(recipe.training.seed)
    arguments = prompt_arguments(recipe)
    pairs = [(row, group) for group, own in groups.items() for row in own]
    dice.shuffle(pairs)
    lessons = []
    for row, group in pairs[:SFT_EXAMPLES]:
        chosen = dice.choices(winners[group], [arm.weight for arm in winners[group]])[0]
        reply = {"role": "assistant", "content": f"<workflow>{chosen.workflow}{CLOSING_TAG}"}
        lessons.append({"prompt": policy_messages(row, **arguments), "completion": [reply]})
    return lessons


def _teach(
    recipe: Recipe,
    settings: WarmStartSettings,
    model: Any,
    tokenizer: Any,
    lessons: Sequence[dict[str, Any]],
    folder: Path,
) -> None:
    """Fine-tune the policy with TRL's `SFTTrainer`; the folder appears when it is whole."""
    training = recipe.training
    scratch = folder.with_name("policy.tmp")
    args = SFTConfig(
        output_dir=str(scratch),
        max_steps=settings.sft_steps,
        per_device_train_batch_size=settings.sft_batch_size,
        learning_rate=settings.sft_learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, settings.sft_steps // 10),
        completion_only_loss=True,
        max_length=None,
        adam_beta2=training.adam_beta2,
        adam_epsilon=training.adam_epsilon,
        bf16=training.bf16,
        fp16=training.fp16,
        use_cpu=training.use_cpu,
        gradient_checkpointing=training.gradient_checkpointing,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=10,
        seed=training.seed,
        dataloader_pin_memory=training.dataloader_pin_memory,
    )
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(list(lessons)),
        processing_class=tokenizer,
        peft_config=get_peft_config(recipe.model),
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.train()
    trainer.save_model(str(scratch))
    if trainer.is_world_process_zero():
        if folder.exists():
            shutil.rmtree(folder)
        scratch.rename(folder)
    wait_for_everyone()
