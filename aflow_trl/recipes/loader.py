"""Reading a recipe: one YAML file, flags, or both."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers.utils.logging import set_verbosity_error
from trl import ModelConfig, TrlParser

from ..assets import asset_names, asset_path
from ..dsl import workflow_regex
from ..errors import RecipeError
from ..llm import ExecutorConfig
from ..policies import model_init_kwargs
from ..trainer import WorkflowGRPOConfig, is_complete, last_checkpoint
from .arguments import COMPOSE, IMPROVE, REASON, REWARDS, TASK_ARGUMENTS, RunArguments, WorkflowArguments
from .checks import check_recipe
from .recipe import Recipe
from .values import check_values, kind_of, lines_of, read_yaml

TASK_DEFAULTS: dict[str, dict[str, Any]] = {
    COMPOSE: {},
    IMPROVE: {"num_generations": 4, "advantage_scale": "task"},
    REASON: {
        "advantage_estimator": "grpo",
        "learning_rate": 1e-6,
        "num_generations": 4,
        "max_completion_length": 256,
        "beta": 0.0,
        "epsilon": 0.2,
        "gradient_accumulation_steps": 2,
        "save_steps": 100,
        "stop_strings": ["</answer>"],
        "report_to": "tensorboard",
        "output_dir": "runs/reason",
    },
}
"""Defaults that a task changes; a recipe and its flags override them."""


def load_recipe(arguments: Sequence[str]) -> Recipe:
    """
    Read a recipe and its overrides, and check everything that can be checked without loading anything.

    Args:
        arguments (`Sequence[str]`):
            A recipe (a path, or the name of one that ships with the package) followed by `--key value` overrides.

    Returns:
        [`Recipe`]: The recipe.

    Raises:
        [`RecipeError`]: Something in it is wrong; the message names the value and the remedy.
    """
    path, flags = _split(arguments)
    source = _read(path) if path is not None else {}
    task = _task(source, flags)
    parts = (RunArguments, TASK_ARGUMENTS.get(task, TASK_ARGUMENTS[COMPOSE]), *_SHARED_PARTS)
    _check_keys(path, source, flags, parts, task)
    where = _places(path, source, flags)
    given = {flag[2:].partition("=")[0].replace("-", "_") for flag in flags if flag.startswith("--")}
    flags, lists = _split_lists(flags, parts)
    source = {name: _as_list(name, value, parts) for name, value in source.items()}
    check_values(source | _flag_values(flags) | lists, parts, where)
    parser = _Parser(parts, prog="aflow-trl train")
    parser.set_defaults(**TASK_DEFAULTS.get(task, {}))
    # transformers warns while a config is built, before the user can have set a verbosity.
    set_verbosity_error()
    os.environ |= {str(name): str(value) for name, value in source.get("env", {}).items()}
    parser.set_defaults_with_config(**{name: value for name, value in source.items() if name != "env"} | lists)
    try:
        run, task_arguments, executor, training, model = parser.parse_args_into_dataclasses(flags)
    except _ArgumentError as error:
        name = error.name
        raise RecipeError(f"{where.get(name, name)}: {error.reason}.") from None
    except (ValueError, TypeError, ImportError) as error:  # ImportError: DeepSpeed is configured but not installed
        named = [name for name in where if re.search(rf"\b{name}\b", str(error))]
        # The enums of transformers name the value only.
        named = named or [name for name in where if str(error).startswith(f"{source.get(name)} is not a valid")]
        raise RecipeError(f"{where[named[0]] if len(named) == 1 else path or 'flags'}: {error}") from None
    effective = dict(source)
    for name in given & {item.name for part in parts for item in fields(part)}:
        holder = next(part for part in (run, task_arguments, executor, training, model) if hasattr(part, name))
        effective[name] = getattr(holder, name)
    recipe = Recipe(run, task_arguments, executor, training, model, effective)
    check_recipe(recipe)
    _complete_training(recipe)
    return recipe


class _ArgumentError(Exception):
    """A value that cannot be converted to the type of its key."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        match = re.match(r"argument --(\w+)\S*: (.*)", message, re.DOTALL)
        self.name, self.reason = (match[1], f"{match[1]}: {match[2].rstrip('.')}") if match else ("flags", message)


class _Parser(TrlParser):
    """A parser whose errors are exceptions: the usage of three hundred keys helps nobody."""

    def error(self, message: str) -> NoReturn:
        """Raise an exception in place of the usage."""
        raise _ArgumentError(message)


def _as_list(name: str, value: Any, parts: Sequence[type]) -> Any:
    """A single value of a key that holds a list."""
    return [value] if isinstance(value, str) and (kind_of(name, parts) or "").startswith("list") else value


def _places(path: Path | None, source: Mapping[str, Any], flags: Sequence[str]) -> dict[str, str]:
    """Where each key was given: file and line, or the command line."""
    lines = lines_of(path.read_text(encoding="utf-8")) if path is not None else {}
    places = {name: f"{path}:{lines[name]}" if name in lines else str(path) for name in source}
    return places | {name: f"--{name}" for name in _flag_values(flags)}


def _flag_values(flags: Sequence[str]) -> dict[str, str]:
    """Values of flags with a single one."""
    values = {}
    for flag, following in zip(flags, [*flags[1:], "--"], strict=False):
        name, equals, value = flag.removeprefix("--").partition("=")
        if flag.startswith("--") and (equals or not following.startswith("--")):
            values[name.replace("-", "_")] = value if equals else following
    return values


_SHARED_PARTS = (ExecutorConfig, WorkflowGRPOConfig, ModelConfig)


def _complete_training(recipe: Recipe) -> None:
    """Fill in what other parts of the recipe decide about the training."""
    training = recipe.training
    if training.reward_weights is None:
        training.reward_weights = [REWARDS[recipe.run.task][name] for name in recipe.reward_names]
    given = training.model_init_kwargs if isinstance(training.model_init_kwargs, dict) else {}
    training.model_init_kwargs = model_init_kwargs(recipe.model_options) | given
    if training.push_to_hub and training.hub_private_repo is None:
        # A policy may have seen private questions; who wants it public says so.
        training.hub_private_repo = True
    if isinstance(recipe.arguments, WorkflowArguments) and recipe.arguments.constrained_depth is not None:
        training.vllm_structured_outputs_regex = workflow_regex(
            recipe.arguments.constrained_depth, vocabulary=recipe.operators.vocabulary
        )
    if recipe.run.resume:
        checkpoint = last_checkpoint(recipe.output_dir)
        training.resume_from_checkpoint = None if checkpoint is None else str(checkpoint)
    elif training.resume_from_checkpoint and not is_complete(Path(training.resume_from_checkpoint)):
        raise RecipeError(
            f"{training.resume_from_checkpoint} is no complete checkpoint: it does not exist, or the run was killed "
            "while it was written. --resume takes the latest complete one in output_dir."
        )


def _split_lists(flags: Sequence[str], parts: Sequence[type]) -> tuple[list[str], dict[str, list[Any]]]:
    """
    Flags, without those whose value is a list in JSON; and these lists by key.

    `--stop_strings a b` is the usual form; `--stop_strings '["a", "b"]'` is that of other tools, and the only one for
    an empty list.
    """
    list_names = {item.name for part in parts for item in fields(part) if "list" in str(item.type)}
    rest: list[str] = []
    lists: dict[str, list[Any]] = {}
    remaining = iter(flags)
    for flag in remaining:
        name, equals, value = flag.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not flag.startswith("--") or name not in list_names:
            rest.append(flag)
            continue
        value = value if equals else next(remaining, "")
        content = _json_list(value)
        if content is not None:
            lists[name] = content
        else:
            rest += [f"--{name}", value]
    return rest, lists


def _json_list(text: str) -> list[Any] | None:
    """Content of a list in JSON; `None` for any other text, as a workflow may begin with a bracket as well."""
    try:
        content = json.loads(text)
    except ValueError:
        return None
    return content if isinstance(content, list) else None


def _check_keys(
    path: Path | None, source: Mapping[str, Any], flags: Sequence[str], parts: Sequence[type], task: str
) -> None:
    """Refuse keys that no part reads, with the nearest key or the task they belong to."""
    names = {item.name for part in parts for item in fields(part) if item.init}
    flag_names = [flag[2:].partition("=")[0].replace("-", "_") for flag in flags if flag.startswith("--")]
    for key in (*source, *flag_names):
        if key in names | {"env", "help", "config"} or key.removeprefix("no_") in names:
            continue
        owners = [name for name, part in TASK_ARGUMENTS.items() if key in {item.name for item in fields(part)}]
        if owners:
            raise RecipeError(f"{key} is for task: {' or '.join(owners)}; this recipe has task: {task}. Remove it.")
        if key in source:
            close = difflib.get_close_matches(key, names, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else " See `aflow-trl train --help` for all keys."
            raise RecipeError(f"{path}: unknown key {key!r}.{hint}")


def _split(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    flags = list(arguments)
    if not flags or flags[0].startswith("-"):
        return None, flags
    name = flags.pop(0)
    path = Path(name)
    if path.is_file():
        return path, flags
    shipped = asset_path("recipes", name) if len(path.parts) == 1 else None
    if shipped is None:
        names = ", ".join(asset_names("recipes"))
        raise RecipeError(f"the recipe {name!r} does not exist. Give a path, or one that ships: {names}.")
    return shipped, flags


def _task(source: Mapping[str, Any], flags: Sequence[str]) -> str:
    """Task of a recipe, which decides how the rest is read; a wrong one is refused by the parser."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--task", default=str(source.get("task", COMPOSE)))
    return str(parser.parse_known_args(list(flags))[0].task)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not YAML: {error}") from None
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys to values.")
    if not isinstance(content.get("env", {}), dict):
        raise RecipeError(f"{path}: env maps names of environment variables to values, got {content['env']!r}.")
    return content
