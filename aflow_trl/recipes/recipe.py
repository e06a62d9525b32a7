"""A recipe: arguments of the run and of its task, executor, training, model; read once, changed by nobody."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from trl import ModelConfig

from ..data import PolicyPrompt
from ..errors import RecipeError
from ..llm import SIMULATED, ExecutorConfig, further_executors
from ..operators import DEFAULT_OPERATORS, OperatorRegistry
from ..policies import ModelOptions, PolicySpec, SamplingOptions, load_tokenizer, takes_system_role
from ..trainer import ReplaySettings, WorkflowGRPOConfig
from .arguments import (
    REASON,
    REWARDS,
    TINY_POLICY,
    ComposeArguments,
    ImproveArguments,
    ReasonArguments,
    RunArguments,
    WorkflowArguments,
)

ADDRESS = ("executor_base_url", "executor_model")


@dataclass(frozen=True)
class Recipe:
    """Everything that a run needs."""

    run: RunArguments
    arguments: ComposeArguments | ImproveArguments | ReasonArguments
    """Arguments of the task."""
    executor: ExecutorConfig
    training: WorkflowGRPOConfig
    """Complete: reward weights, model loading, constrained decoding and the checkpoint to resume are filled in."""
    model: ModelConfig
    source: Mapping[str, Any]
    """Keys of the recipe file and of flags, with the values that hold, for the record."""

    @property
    def public_source(self) -> dict[str, Any]:
        """[`source`] without secrets, for the summary and the model card."""
        public: dict[str, Any] = _public(self.source)
        return public

    @property
    def public_executor(self) -> dict[str, Any]:
        """The executor without secrets: address, model and everything that differs from its default."""
        given = {
            item.name: value
            for item in fields(self.executor)
            if (value := getattr(self.executor, item.name)) != item.default or item.name in ADDRESS
        }
        public: dict[str, Any] = _public(given)
        return public

    @property
    def workflow(self) -> WorkflowArguments:
        """Arguments of a task that executes workflows."""
        assert isinstance(self.arguments, WorkflowArguments)
        return self.arguments

    @property
    def compose(self) -> ComposeArguments:
        """Arguments of `task: compose`."""
        assert isinstance(self.arguments, ComposeArguments)
        return self.arguments

    @property
    def improve(self) -> ImproveArguments:
        """Arguments of `task: improve`."""
        assert isinstance(self.arguments, ImproveArguments)
        return self.arguments

    @property
    def reason(self) -> ReasonArguments:
        """Arguments of `task: reason`."""
        assert isinstance(self.arguments, ReasonArguments)
        return self.arguments

    @property
    def reward_names(self) -> list[str]:
        """Reward functions of the run, in order."""
        return list(self.run.reward_funcs or REWARDS[self.run.task])

    @cached_property
    def operators(self) -> OperatorRegistry:
        """Operators that a workflow may use."""
        if not isinstance(self.arguments, WorkflowArguments):
            return DEFAULT_OPERATORS
        operators = DEFAULT_OPERATORS.select(self.arguments.operators)
        return operators.with_models([name for name in self.arguments.models or () if name not in DEFAULT_OPERATORS])

    @cached_property
    def prompt(self) -> PolicyPrompt:
        """What the policy is asked with, in the roles that the chat template of its model has."""
        name = self.model.model_name_or_path
        if name == TINY_POLICY:  # its template is our own
            return PolicyPrompt(self.run.policy_prompt, self.operators)
        try:
            tokenizer = load_tokenizer(name, self.model_options)
        except (OSError, ValueError) as error:
            raise RecipeError(
                f"model_name_or_path: the tokenizer of {name!r} cannot be loaded: {str(error).strip().splitlines()[0]}"
            ) from None
        return PolicyPrompt(self.run.policy_prompt, self.operators, takes_system_role(tokenizer))

    @property
    def further_executors(self) -> dict[str, ExecutorConfig]:
        """Executors of operators that have a separate one, and of the models that workflows may name."""
        models = self.workflow.models
        return further_executors(models, self.executor) if isinstance(models, Mapping) else {}

    @property
    def executors(self) -> list[ExecutorConfig]:
        """All executors of the run, the main one first; none for a task without workflows."""
        if not isinstance(self.arguments, WorkflowArguments):
            return []
        configs = [self.executor, *self.further_executors.values()]
        return [config for number, config in enumerate(configs) if config not in configs[:number]]

    @property
    def is_simulated(self) -> bool:
        """Whether the executor is the simulated one."""
        return self.executor.executor_base_url == SIMULATED

    @property
    def uses_deepspeed(self) -> bool:
        """Whether DeepSpeed trains, as the recipe or `accelerate launch` says."""
        return bool(self.training.deepspeed) or os.environ.get("ACCELERATE_USE_DEEPSPEED", "false") == "true"

    @property
    def is_sharded(self) -> bool:
        """Whether parameters are sharded over processes."""
        fsdp = bool(self.training.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false") == "true"
        return fsdp or self.uses_deepspeed

    @property
    def replay_settings(self) -> ReplaySettings:
        """Settings under which a replay computes rewards and advantages as this recipe would."""
        names, training = self.reward_names, self.training
        primary = names.index(training.primary_reward) if training.primary_reward else 0
        assert training.reward_weights is not None
        return ReplaySettings(
            names,
            list(training.reward_weights),
            training.advantage_estimator,
            training.advantage_config(training.num_generations, primary, primary_may_abstain=False),
            self.workflow.gate_secondary,
            self.workflow.quantize_correctness,
            self.workflow.operators,
            self.workflow.operator_modules or [],
            list(self.operators.models),
            training.cost_targets,
        )

    @property
    def executor_name(self) -> str:
        """Name of the executor, for reports."""
        return "simulated executor" if self.is_simulated else self.executor.executor_model

    @property
    def output_dir(self) -> Path:
        """Output folder of the run."""
        return Path(self.training.output_dir)

    @property
    def model_options(self) -> ModelOptions:
        """How the base model is loaded."""
        model = self.model
        return ModelOptions(
            model.model_revision if model.model_revision != "main" else None,
            model.dtype,
            model.attn_implementation,
            self.training.trust_remote_code,
            model.load_in_8bit,
            model.load_in_4bit,
            model.bnb_4bit_quant_type,
            model.use_bnb_nested_quant,
        )

    @property
    def policy_spec(self) -> PolicySpec:
        """Everything needed to ask the policy later as it is asked in training."""
        training = self.training
        modules = self.workflow.operator_modules if self.run.task != REASON else None
        final_step = training.temperature_warmup_steps
        return PolicySpec(
            self.run.policy_prompt,
            tuple(self.operators),
            tuple(modules or ()),
            self.sampling_at(final_step),
            self.model_options,
            tuple(training.budgets),
        )

    def sampling_at(self, step: int) -> SamplingOptions:
        """Sampling of the policy at a step of the temperature schedule."""
        training = self.training
        defaults = SamplingOptions()
        stop_strings = training.stop_strings
        return SamplingOptions(
            training.temperature_at(step),
            training.top_p,
            training.top_k,
            training.min_p,
            training.repetition_penalty,
            training.max_completion_length or defaults.max_completion_length,
            defaults.stop_strings if stop_strings is None else tuple(stop_strings),
            training.chat_template_kwargs or {},
            training.generation_kwargs or {},
        )


_SECRET_NAMES = re.compile(
    r"token|secret|password|api[-_]?key|(?:^|[-_])key$|credential|authorization|cookie|subscription", re.IGNORECASE
)
_COUNTED_TOKENS = re.compile(r"tokens|_per_mtok|token_type|api_key_env$", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(r"(?<=://)([^\s?#]+)[?#]\S*")


def _is_secret(name: object) -> bool:
    """Whether the value of a key is left out of everything that is published."""
    text = str(name)
    return text == "env" or (bool(_SECRET_NAMES.search(text)) and not _COUNTED_TOKENS.search(text))


def _public(value: Any) -> Any:
    """A value without keys that name secrets, and URLs without credentials and queries."""
    if isinstance(value, Mapping):
        return {
            # A header may hold a key whatever its name; one that names a variable does not.
            name: {key: text for key, text in item.items() if str(text).startswith("$")}
            if name == "executor_extra_headers" and isinstance(item, Mapping)
            else _public(item)
            for name, item in value.items()
            if not _is_secret(name) and not (name == "executor_extra_headers" and isinstance(item, str))
        }
    if isinstance(value, list):
        return [_public(item) for item in value]
    return _QUERY.sub(r"\1", _CREDENTIALS.sub("", value)) if isinstance(value, str) else value
