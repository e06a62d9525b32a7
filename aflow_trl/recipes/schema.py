"""A recipe: one YAML file (or flags) for everything a run needs, checked before anything is loaded."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import yaml
from transformers.utils.logging import set_verbosity_error
from trl import ModelConfig, TrlParser

from ..data import DOMAINS, check_policy_prompt
from ..dsl import MAX_REGEX_DEPTH, parse
from ..engine import SHARE_MODES
from ..errors import DSLError, RecipeError
from ..llm import SIMULATED, ExecutorConfig
from ..operators import load_operators, vocabulary
from ..rewards import DEFAULT_WEIGHTS, IMPROVE_WEIGHTS, REASON_WEIGHTS
from ..trainer import COLLAPSE_GUARDS, WorkflowGRPOConfig, is_complete, last_checkpoint
from ..warm_start import read_settings

TINY_POLICY = "tiny"
"""Value of `model_name_or_path` for the policy that is built on the spot."""
TASKS = ("compose", "improve", "reason")


@dataclass
class WorkflowArguments:
    r"""
    What a run is about: problems, operators, rewards and what is compared at the end.

    Parameters:
        task (`str`, *optional*, defaults to `"compose"`):
            `"compose"` writes a workflow for a problem, `"improve"` a better one than a given one for a task,
            `"reason"` answers problems itself, with `<think>` and `<answer>`.
        train_data (`str`, *optional*, defaults to `"synthetic"`):
            Training problems: `"synthetic"`, a path ending in `.jsonl`, or a dataset of the Hub.
        eval_data (`str`, *optional*, defaults to `"synthetic"`):
            Held-out problems, likewise. No problem of it may be in the training data.
        num_train_problems (`int`, *optional*, defaults to `1000`):
            Most training problems.
        num_eval_problems (`int`, *optional*, defaults to `200`):
            Most held-out problems.
        domains (`list[str]`, *optional*):
            Domains whose problems are used. If `None`, all.
        max_difficulty (`int`, *optional*):
            Most difficult problems that are used. If `None`, all.
        policy_prompt (`str`, *optional*, defaults to `"full"`):
            Prompt of the policy, one of `configs/policy_prompts.yaml`.
        operators (`list[str]`, *optional*):
            Operators a workflow may use. If `None`, all that are known.
        operator_modules (`list[str]`, *optional*):
            Modules that define further operators.
        reward_funcs (`list[str]`, *optional*):
            Reward functions, the primary one first. If `None`, all five; see also `reward_weights`.
        quantize_correctness (`bool`, *optional*, defaults to `False`):
            Whether correctness takes one of five levels.
        models (`dict` or `str`, *optional*):
            Executors of their own for some operators: by operator, what differs from the recipe's executor, such as
            `{"Review": {"executor_model": "gpt-4o"}}`.
        share (`str`, *optional*, defaults to `"step"`):
            Which equal operator calls are made once: those of a `step`, of a `group`, or none (`off`).
        call_cache (`str`, *optional*):
            SQLite file of replies that are never paid for again, `off` for none. Defaults to `calls.sqlite` in
            `output_dir`, and to none with the simulated executor.
        judge_domains (`list[str]`, *optional*):
            Domains (`math`, `qa`) whose answers the executor's model grades instead of the rules.
        gate_secondary (`bool`, *optional*, defaults to `True`):
            Whether the secondary rewards count only where the answer is right.
        baseline_workflows (`list[str]`, *optional*):
            Fixed workflows that the trained policy is compared with.
        allow_weak_sandbox (`bool`, *optional*, defaults to `False`):
            Whether programs may run on a machine that cannot confine them; a warning names what leaks.
        max_unscored_share (`float`, *optional*, defaults to `0.5`):
            Share of unscored rollouts in a step beyond which the step counts as lost.
        max_lost_steps (`int`, *optional*, defaults to `3`):
            Lost steps in a row after which the run stops with a checkpoint.
        constrained_depth (`int`, *optional*):
            With vLLM: let the policy write nothing but workflows nested this deep at most (1 to 3), see
            [`~aflow_trl.dsl.workflow_regex`]. If `None`, it writes what it likes.
        warm_start (`bool`, `dict` or `str`, *optional*):
            Search for good workflows by execution and teach them to the policy before it learns from rewards: `true`,
            or what differs from the defaults of [`~aflow_trl.warmstart.WarmStartSettings`] (JSON on a command line).
        collapse_guard (`str`, *optional*, defaults to `"stop"`):
            What a collapse of the policy leads to: `"stop"`, or `"rollback"` to the last good parameters at half the
            learning rate (and `nonfinite: stop` becomes `skip`), or `"off"`, which watches nothing.
        probe_problems (`int`, *optional*, defaults to `16`):
            Training problems on which the guard tries the policy.
        probe_steps (`int`, *optional*, defaults to `10`):
            Steps between two tries.
        resume (`bool`, *optional*, defaults to `False`):
            Whether to go on from the latest complete checkpoint in `output_dir`; without one, the run starts anew.
        simulated_latency_s (`float`, *optional*, defaults to `0.0`):
            Seconds a call of the simulated executor takes.
        improvement_records (`str`, *optional*, defaults to `"sampled"`):
            For `improve`: JSONL of the workflows to improve, or `"sampled"`: random ones, measured before training.
        num_records (`int`, *optional*, defaults to `60`):
            For `improve`: workflows that are sampled, or most records that are read.
        problems_per_gain (`int`, *optional*, defaults to `8`):
            For `improve`: problems on which a new workflow is measured against the one it came from.
        reward_scale (`float`, *optional*, defaults to `10.0`):
            For `improve`: reward of a gain of 1, which is all problems instead of none.
        reward_clip (`float`, *optional*, defaults to `5.0`):
            For `improve`: largest absolute reward.
        max_prompt_length (`int`, *optional*, defaults to `256`):
            For `reason`: tokens of the longest prompt; longer ones are left out and counted.
    """

    task: str = field(default="compose", metadata={"help": "What is trained.", "choices": list(TASKS)})
    train_data: str = field(
        default="synthetic", metadata={"help": "Training problems: synthetic, a .jsonl path, or a Hub dataset."}
    )
    eval_data: str = field(default="synthetic", metadata={"help": "Held-out problems, likewise."})
    num_train_problems: int = field(default=1000, metadata={"help": "Most training problems."})
    num_eval_problems: int = field(default=200, metadata={"help": "Most held-out problems."})
    domains: list[str] | None = field(default=None, metadata={"help": "Domains whose problems are used."})
    max_difficulty: int | None = field(default=None, metadata={"help": "Most difficult problems that are used."})
    policy_prompt: str = field(default="full", metadata={"help": "Prompt of the policy."})
    operators: list[str] | None = field(default=None, metadata={"help": "Operators a workflow may use."})
    operator_modules: list[str] | None = field(default=None, metadata={"help": "Modules that define operators."})
    reward_funcs: list[str] | None = field(default=None, metadata={"help": "Reward functions, primary first."})
    quantize_correctness: bool = field(default=False, metadata={"help": "Whether correctness takes five levels."})
    models: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "By operator, what differs from the recipe's executor (JSON on a command line)."},
    )
    share: str = field(
        default="step",
        metadata={"help": "Equal calls made once: of a step, of a group, or off.", "choices": list(SHARE_MODES)},
    )
    call_cache: str | None = field(
        default=None, metadata={"help": "SQLite file of replies; off for none. Default: calls.sqlite in output_dir."}
    )
    judge_domains: list[str] | None = field(
        default=None, metadata={"help": "Domains whose answers the executor's model grades: math, qa."}
    )
    gate_secondary: bool = field(
        default=True, metadata={"help": "Whether secondary rewards count only where the answer is right."}
    )
    baseline_workflows: list[str] | None = field(
        default=None, metadata={"help": "Fixed workflows the trained policy is compared with."}
    )
    allow_weak_sandbox: bool = field(
        default=False, metadata={"help": "Whether programs may run where they cannot be confined."}
    )
    max_unscored_share: float = field(
        default=0.5, metadata={"help": "Share of unscored rollouts beyond which a step counts as lost."}
    )
    max_lost_steps: int = field(default=3, metadata={"help": "Lost steps in a row after which the run stops."})
    constrained_depth: int | None = field(
        default=None, metadata={"help": "With vLLM: write nothing but workflows nested this deep at most (1 to 3)."}
    )
    warm_start: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Search for good workflows first and teach them: true, or settings (JSON on a command line)."
        },
    )
    collapse_guard: str = field(
        default="stop",
        metadata={"help": "What a collapse of the policy leads to.", "choices": list(COLLAPSE_GUARDS)},
    )
    probe_problems: int = field(default=16, metadata={"help": "Problems on which the guard tries the policy."})
    probe_steps: int = field(default=10, metadata={"help": "Steps between two tries."})
    resume: bool = field(
        default=False, metadata={"help": "Whether to go on from the latest complete checkpoint in output_dir."}
    )
    simulated_latency_s: float = field(
        default=0.0, metadata={"help": "Seconds a call of the simulated executor takes."}
    )
    improvement_records: str = field(
        default="sampled", metadata={"help": "improve: JSONL of workflows to improve, or sampled."}
    )
    num_records: int = field(default=60, metadata={"help": "improve: workflows sampled, or most records read."})
    problems_per_gain: int = field(default=8, metadata={"help": "improve: problems a gain is measured on."})
    reward_scale: float = field(default=10.0, metadata={"help": "improve: reward of a gain of 1."})
    reward_clip: float = field(default=5.0, metadata={"help": "improve: largest absolute reward."})
    max_prompt_length: int = field(default=256, metadata={"help": "reason: tokens of the longest prompt."})

    def __post_init__(self) -> None:
        if not 0 <= self.max_unscored_share <= 1:
            raise ValueError(f"max_unscored_share must be between 0 and 1, got {self.max_unscored_share}.")
        self.warm_start_settings = read_settings(self.warm_start)
        if isinstance(self.models, str):
            self.models = json.loads(self.models)
        if self.task not in TASKS:
            raise ValueError(f"task is {self.task!r}. Use one of {', '.join(TASKS)}.")
        if unknown := set(self.domains or ()) - set(DOMAINS):
            raise ValueError(f"domains holds {sorted(unknown)[0]!r}. Use some of {', '.join(DOMAINS)}.")
        for name in ("reward_scale", "reward_clip"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        if self.collapse_guard not in COLLAPSE_GUARDS:
            # YAML reads a bare off as false.
            raise ValueError(
                f"collapse_guard is {self.collapse_guard!r}. Use one of {', '.join(COLLAPSE_GUARDS)}, in quotes."
            )
        if self.share not in SHARE_MODES:
            raise ValueError(f"share is {self.share!r}. Use one of {', '.join(SHARE_MODES)}.")
        if unknown := set(self.judge_domains or ()) - {"math", "qa"}:
            raise ValueError(
                f"judge_domains holds {sorted(unknown)[0]!r}. A model can grade math and qa; code has tests."
            )
        counts = ("num_train_problems", "num_eval_problems", "max_lost_steps", "num_records", "problems_per_gain")
        for name in (*counts, "max_prompt_length", "max_difficulty", "probe_problems", "probe_steps"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")


def operator_executors(
    models: dict[str, Any], executor: ExecutorConfig, operators: Collection[str]
) -> dict[str, ExecutorConfig]:
    """
    Executors of operators that have one of their own.

    Args:
        models (`dict[str, Any]`):
            By operator, the fields that differ.
        executor ([`~aflow_trl.llm.ExecutorConfig`]):
            Executor of all the others.
        operators (`Collection[str]`):
            Operators there are.

    Raises:
        [`RecipeError`]: An operator or a field is unknown, or a value is wrong.
    """
    known = {item.name for item in fields(ExecutorConfig)}
    configs = {}
    for name, changes in models.items():
        if name not in operators:
            raise RecipeError(f"models names the operator {name!r}. Use some of {', '.join(operators)}.")
        if not isinstance(changes, dict) or (unknown := sorted(set(changes) - known)):
            found = repr(unknown[0]) if isinstance(changes, dict) else f"a {type(changes).__name__}"
            raise RecipeError(
                f"models, {name}: {found} is no field of an executor. Use some of {', '.join(sorted(known))}."
            )
        if "executor_model" in changes:
            # The price of one model says nothing about another.
            names = ("executor_input_usd_per_mtok", "executor_output_usd_per_mtok", "executor_cached_usd_per_mtok")
            changes = dict.fromkeys(names) | changes
        try:
            configs[name] = replace(executor, **changes)
        except ValueError as error:
            raise RecipeError(f"models, {name}: {error}") from None
    return configs


@dataclass(frozen=True)
class Recipe:
    """Everything a run needs."""

    workflow: WorkflowArguments
    executor: ExecutorConfig
    training: WorkflowGRPOConfig
    model: Any
    source: dict[str, Any]
    """What the recipe file said, for the record."""

    @property
    def reward_weights(self) -> dict[str, float]:
        """Reward functions of the task with their default weights, the primary one first."""
        return REWARDS[self.workflow.task]

    @property
    def reward_names(self) -> list[str]:
        """Reward functions of the run, in order."""
        return list(self.workflow.reward_funcs or self.reward_weights)

    @property
    def operator_executors(self) -> dict[str, ExecutorConfig]:
        """Executors of the operators that have one of their own."""
        models = self.workflow.models
        words = vocabulary(self.workflow.operators)
        return operator_executors(models, self.executor, words) if isinstance(models, dict) else {}


REWARDS = {"compose": DEFAULT_WEIGHTS, "improve": IMPROVE_WEIGHTS, "reason": REASON_WEIGHTS}
TASK_DEFAULTS: dict[str, dict[str, Any]] = {
    "compose": {},
    "improve": {"num_generations": 4, "advantage_scale": "task"},
    "reason": {
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
"""What a task changes of the defaults; a recipe and its flags come first."""

PARTS = (WorkflowArguments, ExecutorConfig, WorkflowGRPOConfig, ModelConfig)


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
    known = {f.name for part in PARTS for f in fields(part) if f.init}
    for key in source:
        if key not in known | {"env"}:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else " See `aflow-trl train --help` for all keys."
            raise RecipeError(f"{path}: unknown key {key!r}.{hint}")
    config = ["--config", str(path)] if path is not None else []
    parser = TrlParser(PARTS, prog="aflow-trl train")
    parser.set_defaults(**TASK_DEFAULTS.get(_task(source, flags), {}))
    # transformers warns while a config is built, before the user can have asked for it.
    set_verbosity_error()
    try:
        workflow, executor, training, model = parser.parse_args_and_config([*config, *flags])
    except (ValueError, TypeError, ImportError) as error:  # the last: DeepSpeed is asked for and not installed
        raise RecipeError(f"{path or 'flags'}: {error}") from None
    recipe = Recipe(workflow, executor, training, model, source)
    check_recipe(recipe)
    _find_checkpoint(recipe)
    return recipe


def check_recipe(recipe: Recipe) -> None:
    """Raise a [`RecipeError`] for names that do not exist and values that do not fit together."""
    workflow, training = recipe.workflow, recipe.training
    load_operators(workflow.operator_modules or [])
    words = vocabulary(workflow.operators)
    check_policy_prompt(workflow.policy_prompt)
    for text in workflow.baseline_workflows or []:
        if not isinstance(text, str):
            raise RecipeError(f"baseline_workflows holds {text!r}, which YAML did not read as text. Put it in quotes.")
        try:
            parse(text, vocabulary=words)
        except DSLError as error:
            raise RecipeError(f"baseline_workflows: {error}") from None
    if _is_sharded(training):
        if workflow.collapse_guard == "rollback":
            raise RecipeError(
                "collapse_guard: rollback keeps whole parameters, which FSDP and DeepSpeed shard. Use collapse_guard: "
                "stop, or DDP."
            )
        if workflow.warm_start_settings is not None:
            raise RecipeError(
                "warm_start samples from and teaches a whole model, which FSDP and DeepSpeed shard. Use DDP, or start "
                "this run from a model that was taught on one GPU."
            )
    if workflow.constrained_depth is not None:
        if not 1 <= workflow.constrained_depth <= MAX_REGEX_DEPTH:
            raise RecipeError(
                f"constrained_depth is {workflow.constrained_depth}. Use 1 to {MAX_REGEX_DEPTH}: nesting has to be "
                "written out, tenfold with each level."
            )
        if not training.use_vllm:
            raise RecipeError("constrained_depth needs use_vllm: true; plain generation cannot be constrained.")
        if workflow.task == "reason":
            raise RecipeError("constrained_depth is for policies that write workflows, not for task: reason.")
    if workflow.warm_start_settings is not None:
        if workflow.task != "compose":
            raise RecipeError(f"warm_start is for task: compose; this recipe has task: {workflow.task}. Remove it.")
        for text in workflow.warm_start_settings.workflows:
            try:
                parse(text, vocabulary=words)
            except DSLError as error:
                raise RecipeError(f"warm_start, workflows: {error}") from None
    names = recipe.reward_names
    for name in names:
        if name not in recipe.reward_weights:
            raise RecipeError(f"unknown reward function {name!r}. Use some of {', '.join(recipe.reward_weights)}.")
    if training.reward_weights is not None and len(training.reward_weights) != len(names):
        raise RecipeError(
            f"reward_weights has {len(training.reward_weights)} values for {len(names)} reward functions "
            f"({', '.join(names)}). Give one weight for each."
        )
    if training.primary_reward is not None and training.primary_reward not in names:
        raise RecipeError(f"primary_reward is {training.primary_reward!r}; use one of {', '.join(names)}.")
    if not recipe.model.model_name_or_path:
        raise RecipeError("model_name_or_path is missing. Name a model of the Hub, a folder, or 'tiny'.")
    own = recipe.operator_executors.values()
    if any(config.executor_max_usd != recipe.executor.executor_max_usd for config in own):
        raise RecipeError("executor_max_usd is one for the run. Give it beside models, not inside.")
    simulated = recipe.executor.executor_base_url == SIMULATED
    if not simulated and workflow.simulated_latency_s:
        raise RecipeError("simulated_latency_s is set, but executor_base_url is not 'simulated'. Remove one of them.")


def _is_sharded(training: WorkflowGRPOConfig) -> bool:
    """Whether parameters are sharded over processes, as the recipe or `accelerate launch` says."""
    launched = any(os.environ.get(f"ACCELERATE_USE_{kind}", "false") == "true" for kind in ("FSDP", "DEEPSPEED"))
    return launched or bool(training.deepspeed or training.fsdp)


def _find_checkpoint(recipe: Recipe) -> None:
    training = recipe.training
    if recipe.workflow.resume:
        if training.save_only_model:
            raise RecipeError(
                "resume needs the optimiser's state, which save_only_model leaves out. Remove one of them."
            )
        if training.resume_from_checkpoint is not None:
            raise RecipeError("resume and resume_from_checkpoint are both given. Remove one of them.")
        found = last_checkpoint(Path(training.output_dir))
        training.resume_from_checkpoint = None if found is None else str(found)
    elif training.resume_from_checkpoint and not is_complete(Path(training.resume_from_checkpoint)):
        raise RecipeError(
            f"{training.resume_from_checkpoint} is no complete checkpoint: it does not exist, or the run was killed "
            "while it was written. --resume takes the latest complete one in output_dir."
        )


def shipped(kind: str, name: str) -> Path | None:
    """Path of a file that ships with the package (kind: its folder); `None` if there is none."""
    resource = files("aflow_trl").joinpath(kind, name)
    if not resource.is_file():
        return None
    with as_file(resource) as path:
        return path


def _split(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    flags = list(arguments)
    if not flags or flags[0].startswith("-"):
        return None, flags
    name = flags.pop(0)
    path = Path(name)
    if path.is_file():
        return path, flags
    found = shipped("recipes", name) if len(path.parts) == 1 else None
    if found is None:
        folder = files("aflow_trl").joinpath("recipes")
        known = ", ".join(sorted(item.name for item in folder.iterdir() if item.name.endswith(".yaml")))
        raise RecipeError(f"the recipe {name!r} does not exist. Give a path, or one that ships: {known}.")
    return found, flags


def _task(source: dict[str, Any], flags: Sequence[str]) -> str:
    """Task of a recipe, needed before the rest can be read; a wrong one is refused later."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--task", default=str(source.get("task", "compose")))
    return str(parser.parse_known_args(list(flags))[0].task)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not YAML: {error}") from None
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys to values.")
    return content


def report_and_exit(error: Exception) -> None:
    """Print an error of the user's making without a traceback, and leave with exit code 2."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2)
