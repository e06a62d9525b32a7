"""Flags that several commands share, and the objects they describe."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from ..engine import Engine
from ..errors import RecipeError
from ..llm import SIMULATED, CallCache, ExecutorConfig, LLMClient, further_executors
from ..operators import OperatorRegistry, load_operators
from ..sandbox import allow_weak_sandbox
from ..scoring import load_scorers
from ..simulator import simulated_client
from ..storage import read_run

# argparse has no public name for the type.
Commands = argparse._SubParsersAction
SIMULATED_DATA = ("synthetic", "synthetic-mixed")
"""Generated problems, which the simulated executor knows."""
ANY_MACHINE = ("--use_cpu", "true", "--bf16", "false", "--fp16", "false")
"""Overrides with which any recipe loads on a machine that will not train it, such as one without a GPU."""


def add_executor_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that describe the executor."""
    parser.add_argument(
        "--base-url",
        metavar="URL",
        help="OpenAI-compatible endpoint (default: that of the run named by --model, else OPENAI_BASE_URL or OpenAI)",
    )
    parser.add_argument(
        "--executor", metavar="MODEL", help="model behind the endpoint (default: as --base-url, else gpt-4o-mini)"
    )
    parser.add_argument(
        "--api-key-env", metavar="NAME", help="environment variable that holds the API key (default: OPENAI_API_KEY)"
    )
    parser.add_argument(
        "--simulated",
        action="store_true",
        help="have the simulated executor answer, which knows its own problems only (default for synthetic data)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other key of the executor, as in a recipe, such as executor_max_tokens=4096 or "
        "executor_omit='[seed]'; may be repeated",
    )
    parser.add_argument(
        "--models",
        metavar="JSON",
        help="further executors by operator or name, as in a recipe (default: those of the run named by --model)",
    )
    parser.add_argument(
        "--allow-weak-sandbox",
        action="store_true",
        help="run programs of the model on a machine that cannot confine them (docs/security.md)",
    )
    parser.add_argument(
        "--operator-module", action="append", default=[], help="module that defines further operators; may be repeated"
    )
    parser.add_argument(
        "--scorer-module",
        action="append",
        default=[],
        help="module that defines further domains (default: those of the run named by --model); may be repeated",
    )


def add_policy_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that select a checkpoint, a budget and a prompt of a policy."""
    parser.add_argument(
        "--checkpoint", type=int, metavar="STEP", help="checkpoint of a run (default: its final model)"
    )
    parser.add_argument(
        "--budget",
        metavar="WORD",
        help="how much a workflow may cost, for a policy that was trained with budgets (see target_calls_per_problem)",
    )
    parser.add_argument(
        "--policy-prompt", default=None, help="prompt of the policy (default: the one it was trained with)"
    )


def load_modules(options: argparse.Namespace) -> OperatorRegistry:
    """
    Import the modules of the user that the flags of [`add_executor_flags`] name, and the scorers of a run.

    Returns:
        [`~aflow_trl.operators.OperatorRegistry`]: All operators.

    Raises:
        [`RecipeError`]: A module cannot be imported.
    """
    folder = getattr(options, "model", None)
    run = read_run(Path(folder)) if folder else None
    load_scorers(options.scorer_module or (run or {}).get("recipe", {}).get("scorer_modules") or [])
    return load_operators(options.operator_module)


def executor_config(
    options: argparse.Namespace, *, data: str = "", base_url: str | None = None, model: str | None = None
) -> ExecutorConfig:
    """
    The executor that the flags of [`add_executor_flags`] describe.

    Args:
        options (`argparse.Namespace`):
            Flags.
        data (`str`, *optional*, defaults to `""`):
            Problems; the simulated executor is the default for synthetic ones.
        base_url (`str`, *optional*):
            Another endpoint than that of the flags.
        model (`str`, *optional*):
            Another model than that of the flags.

    Raises:
        [`RecipeError`]: The flags contradict each other, or describe no executor.
    """
    base_url, model = base_url or options.base_url, model or options.executor
    if options.simulated and base_url not in (None, SIMULATED):
        raise RecipeError(f"--simulated and the endpoint {base_url} exclude each other.")
    settings = _executor_settings(options.set)
    recorded: dict[str, Any] = {}
    if base_url is None and model is None and not {"executor_base_url", "executor_model"} & settings.keys():
        recorded = _executor_of_run(getattr(options, "model", None))
    if options.simulated or (data in SIMULATED_DATA and base_url is None and not recorded):
        base_url = SIMULATED
    given = {"executor_base_url": base_url, "executor_model": model, "executor_api_key_env": options.api_key_env}
    if base_url == SIMULATED:  # free; the price of another endpoint is looked up or unknown
        given |= {"executor_input_usd_per_mtok": 0.0, "executor_output_usd_per_mtok": 0.0}
    try:
        return ExecutorConfig(
            **recorded | {name: value for name, value in given.items() if value is not None} | settings
        )
    except (TypeError, ValueError) as error:
        raise RecipeError(str(error)) from None


def _executor_of_run(folder: str | None) -> dict[str, Any]:
    """The executor with which the run in a folder was trained; empty if it is none."""
    run = read_run(Path(folder)) if folder else None
    names = {item.name for item in fields(ExecutorConfig)}
    # A budget was that of the training.
    return {
        name: value for name, value in (run or {}).get("executor", {}).items() if name in names - {"executor_max_usd"}
    }


def executor_client(
    options: argparse.Namespace,
    *,
    data: str = "",
    cache_folder: Path | None = None,
    base_url: str | None = None,
    model: str | None = None,
) -> LLMClient:
    """
    Client of the executor of [`executor_config`]. A line says who answers.

    Args:
        options (`argparse.Namespace`):
            Flags.
        data (`str`, *optional*, defaults to `""`):
            Problems, as for [`executor_config`].
        cache_folder (`Path`, *optional*):
            Folder in which paid replies are kept.
        base_url (`str`, *optional*):
            Another endpoint than that of the flags.
        model (`str`, *optional*):
            Another model than that of the flags.
    """
    allow_weak_sandbox(options.allow_weak_sandbox)
    config = executor_config(options, data=data, base_url=base_url, model=model)
    return _client(config, cache_folder)


def _client(config: ExecutorConfig, cache_folder: Path | None) -> LLMClient:
    if config.executor_base_url == SIMULATED:
        print("executor: the simulated executor, which is no language model", file=sys.stderr)
        return simulated_client(config)
    client = LLMClient(config, cache=None if cache_folder is None else CallCache(cache_folder / "calls.sqlite"))
    print(f"executor: {config.executor_model} at {client.host}", file=sys.stderr)
    return client


def executor_engine(
    options: argparse.Namespace, operators: OperatorRegistry, *, data: str = "", cache_folder: Path | None = None
) -> Engine:
    """
    Engine of the executor of [`executor_config`], and of the further ones of `--models` or of the run of `--model`.

    Args:
        options (`argparse.Namespace`):
            Flags.
        operators ([`~aflow_trl.operators.OperatorRegistry`]):
            Operators of the workflows.
        data (`str`, *optional*, defaults to `""`):
            Problems, as for [`executor_config`].
        cache_folder (`Path`, *optional*):
            Folder in which paid replies are kept.

    Raises:
        [`RecipeError`]: The flags contradict each other.
    """
    main = executor_client(options, data=data, cache_folder=cache_folder)
    changes = _models_of_run(options, operators) if options.models is None else read_models(options.models)
    models = {name: _client(config, cache_folder) for name, config in further_executors(changes, main.config).items()}
    return Engine(main, operators=operators, models=models)


def _models_of_run(options: argparse.Namespace, operators: OperatorRegistry) -> Mapping[str, Any]:
    """
    `models` of the recipe with which the run of `--model` was trained, without those of operators that are not loaded.
    With `--simulated` they answer in process, too.
    """
    run = read_run(Path(options.model)) if options.model else None
    models = (run or {}).get("recipe", {}).get("models") or {}
    models = read_models(models) if isinstance(models, str) else models
    simulated = {"executor_base_url": SIMULATED} if options.simulated else {}
    return {name: changes | simulated for name, changes in models.items() if name in operators or name.islower()}


def read_models(text: str) -> Mapping[str, Any]:
    """
    The executors that a flag `--models` describes.

    Raises:
        [`RecipeError`]: It is no JSON object.
    """
    try:
        models = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecipeError(f"--models is no JSON: {error}") from None
    if not isinstance(models, dict):
        raise RecipeError(f"--models is a {type(models).__name__}. Give an object of operators or names.")
    return models


def _executor_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Keys of the executor and their values, read as in a recipe."""
    names = {item.name for item in fields(ExecutorConfig)}
    settings = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in names:
            raise RecipeError(f"--set {text}: give KEY=VALUE, where the key is one of {', '.join(sorted(names))}.")
        settings[name] = yaml.safe_load(value)
    return settings
