"""Checks of a recipe as a whole: names that do not exist, values that do not fit together."""

from __future__ import annotations

from pathlib import Path

from ..data import check_policy_prompt, is_data_file
from ..dsl import MAX_REGEX_DEPTH, Vocabulary, parse
from ..errors import DSLError, RecipeError
from ..operators import load_operators
from ..policies import check_gguf
from ..sandbox import library_folder_of
from ..scoring import domain_remedy, known_domains, load_scorers
from ..trainer import SKIP_UNDER_DEEPSPEED, TARGETS
from .arguments import REWARDS, ComposeArguments, WorkflowArguments
from .recipe import Recipe


def check_recipe(recipe: Recipe) -> None:
    """Raise a [`RecipeError`] for the first thing that is wrong; it names the value, the reason and the remedy."""
    check_policy_prompt(recipe.run.policy_prompt)
    load_scorers(recipe.run.scorer_modules or [])
    if unknown := sorted(set(recipe.run.domains or ()) - set(known_domains())):
        raise RecipeError(f"domains holds {unknown[0]!r}. {domain_remedy()}")
    if not recipe.model.model_name_or_path:
        raise RecipeError("model_name_or_path is missing. Name a model of the Hub, a folder, a GGUF file, or 'tiny'.")
    check_gguf(recipe.model.model_name_or_path)
    _check_rewards(recipe)
    _check_resume(recipe)
    _check_folders(recipe)
    if recipe.is_sharded and recipe.training.collapse_guard == "rollback":
        raise RecipeError(
            "collapse_guard: rollback keeps whole parameters, which FSDP and DeepSpeed shard. Use collapse_guard: "
            "stop, or DDP."
        )
    if recipe.training.nonfinite == "skip" and recipe.uses_deepspeed:
        raise RecipeError(SKIP_UNDER_DEEPSPEED)
    if recipe.training.cost_targets is not None and not isinstance(recipe.arguments, ComposeArguments):
        name = next(name for name in TARGETS if getattr(recipe.training, name) is not None)
        raise RecipeError(
            f"{name} holds the cost of composed workflows, but task is {recipe.run.task}. Remove it, or use task: "
            "compose."
        )
    if isinstance(recipe.arguments, WorkflowArguments):
        load_operators(recipe.arguments.operator_modules or [])
        _check_execution(recipe)
        _check_constrained_depth(recipe)
    if isinstance(recipe.arguments, ComposeArguments):
        vocabulary = recipe.operators.vocabulary
        _check_workflows("baseline_workflows", recipe.arguments.baseline_workflows or [], vocabulary)
        settings = recipe.arguments.warm_start_settings
        if settings is not None:
            _check_workflows("warm_start, workflows", settings.workflows, vocabulary)
            if recipe.is_sharded:
                raise RecipeError(
                    "warm_start samples from and fine-tunes a whole model, which FSDP and DeepSpeed shard. Use DDP, "
                    "or start this run from a model that was fine-tuned on one GPU."
                )


def _check_workflows(name: str, texts: list[str] | tuple[str, ...], vocabulary: Vocabulary) -> None:
    for text in texts:
        if not isinstance(text, str):
            raise RecipeError(f"{name} holds {text!r}, which YAML did not read as text. Put it in quotes.")
        try:
            parse(text, vocabulary=vocabulary)
        except DSLError as error:
            raise RecipeError(f"{name}: {error}") from None


def _check_rewards(recipe: Recipe) -> None:
    names, training = recipe.reward_names, recipe.training
    for name in names:
        if name not in REWARDS[recipe.run.task]:
            raise RecipeError(f"unknown reward function {name!r}. Use some of {', '.join(REWARDS[recipe.run.task])}.")
    if training.reward_weights is not None and len(training.reward_weights) != len(names):
        raise RecipeError(
            f"reward_weights has {len(training.reward_weights)} values for {len(names)} reward functions "
            f"({', '.join(names)}). Give one weight for each."
        )
    if training.primary_reward is not None and training.primary_reward not in names:
        raise RecipeError(f"primary_reward is {training.primary_reward!r}; use one of {', '.join(names)}.")


def _check_resume(recipe: Recipe) -> None:
    if not recipe.run.resume:
        return
    if recipe.training.save_only_model:
        raise RecipeError("resume needs the optimiser's state, which save_only_model leaves out. Remove one of them.")
    if recipe.training.resume_from_checkpoint is not None:
        raise RecipeError("resume and resume_from_checkpoint are both given. Remove one of them.")


def _check_folders(recipe: Recipe) -> None:
    """Hidden tests must not lie where the sandbox lets programs read."""
    files = {name: getattr(recipe.run, name) for name in ("train_data", "eval_data")}
    paths = {name: Path(value) for name, value in files.items() if is_data_file(value)}
    for name, path in {**paths, "output_dir": recipe.output_dir}.items():
        if (folder := library_folder_of(path)) is not None:
            raise RecipeError(
                f"{name} is {path}, under {folder}, whose files untrusted programs can read as libraries: they could "
                "read the answers. Name a path elsewhere."
            )


def _check_execution(recipe: Recipe) -> None:
    if unused := sorted(set(recipe.further_executors) - set(recipe.operators) - set(recipe.operators.models)):
        raise RecipeError(f"models holds {unused[0]!r}, but operators does not. Add it there, or remove it here.")
    if recipe.training.target_usd_per_problem is not None:
        for config in recipe.executors:
            if None in (config.price.input_usd, config.price.output_usd):
                raise RecipeError(
                    f"target_usd_per_problem is given, but the price of {config.executor_model} is unknown. Give "
                    "executor_input_usd_per_mtok and executor_output_usd_per_mtok, or use target_calls_per_problem."
                )
    executors = recipe.further_executors.values()
    if any(config.executor_max_usd != recipe.executor.executor_max_usd for config in executors):
        raise RecipeError("executor_max_usd holds for the whole run. Give it beside models, not inside.")
    if not recipe.is_simulated and recipe.workflow.simulated_latency_s:
        raise RecipeError("simulated_latency_s is set, but executor_base_url is not 'simulated'. Remove one of them.")


def _check_constrained_depth(recipe: Recipe) -> None:
    depth = recipe.workflow.constrained_depth
    if depth is None:
        return
    if not 1 <= depth <= MAX_REGEX_DEPTH:
        raise RecipeError(
            f"constrained_depth is {depth}. Use 1 to {MAX_REGEX_DEPTH}: a regular expression has to spell out the "
            "nesting, and grows tenfold with each level."
        )
    if not recipe.training.use_vllm:
        raise RecipeError("constrained_depth needs use_vllm: true; plain generation cannot be constrained.")
