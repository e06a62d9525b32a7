"""Arguments of a recipe as frozen dataclasses: those of every run, and those of its task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..engine import SHARE_MODES
from ..rewards import DEFAULT_WEIGHTS, IMPROVE_WEIGHTS, REASON_WEIGHTS
from ..warm_start import WarmStartSettings, read_settings

TINY_POLICY = "tiny"
"""Value of `model_name_or_path` for the policy that is built when it is first needed."""
COMPOSE, IMPROVE, REASON = "compose", "improve", "reason"
TASKS = (COMPOSE, IMPROVE, REASON)
OFF = "off"
SAMPLED = "sampled"
"""Value of `improvement_records` for random workflows that the run measures."""
HELD_OUT_SHARE = 0.25
"""Share of imported improvement records that the policy is evaluated on and never trained on."""
SAMPLED_HELD_OUT_SHARE = 0.75
"""Workflows sampled for evaluation, as a multiple of those for training: they are cheap, and a few say little."""


@dataclass(frozen=True)
class RunArguments:
    r"""
    Arguments of every task: problems, prompt, rewards.

    Parameters:
        task (`str`, *optional*, defaults to `"compose"`):
            `"compose"` writes a workflow for a problem, `"improve"` improves a given workflow for a task, `"reason"`
            answers problems directly, with `<think>` and `<answer>`.
        train_data (`str`, *optional*, defaults to `"synthetic"`):
            Training problems: `"synthetic"`, a file, or a dataset of the Hub.
        eval_data (`str`, *optional*, defaults to `"synthetic"`):
            Held-out problems, in the same forms. No problem may be in both.
        num_train_problems (`int`, *optional*, defaults to `1000`):
            Maximum number of training problems.
        num_eval_problems (`int`, *optional*, defaults to `200`):
            Maximum number of held-out problems.
        scorer_modules (`list[str]`, *optional*):
            Modules that define further domains, with [`~aflow_trl.scoring.scorer`].
        domains (`list[str]`, *optional*):
            Domains whose problems are used. If `None`, all.
        max_difficulty (`int`, *optional*):
            Maximum difficulty of the problems. If `None`, all are used.
        policy_prompt (`str`, *optional*, defaults to `"full"`):
            Prompt of the policy, one of `configs/policy_prompts.yaml`.
        reward_funcs (`list[str]`, *optional*):
            Reward functions, the primary one first. If `None`, all of the task; see also `reward_weights`.
        allow_weak_sandbox (`bool`, *optional*, defaults to `False`):
            Whether programs may run on a machine that cannot confine them; a warning names what leaks.
        resume (`bool`, *optional*, defaults to `False`):
            Whether to continue from the latest complete checkpoint in `output_dir`; without one, the run starts anew.
    """

    task: str = field(default=COMPOSE, metadata={"help": "What is trained.", "choices": list(TASKS)})
    train_data: str = field(
        default="synthetic", metadata={"help": "Training problems: synthetic, a file, or a Hub dataset."}
    )
    eval_data: str = field(default="synthetic", metadata={"help": "Held-out problems, in the same forms."})
    num_train_problems: int = field(default=1000, metadata={"help": "Maximum number of training problems."})
    num_eval_problems: int = field(default=200, metadata={"help": "Maximum number of held-out problems."})
    scorer_modules: list[str] | None = field(default=None, metadata={"help": "Modules that define further domains."})
    domains: list[str] | None = field(default=None, metadata={"help": "Domains whose problems are used."})
    max_difficulty: int | None = field(default=None, metadata={"help": "Maximum difficulty of the problems."})
    policy_prompt: str = field(default="full", metadata={"help": "Prompt of the policy."})
    reward_funcs: list[str] | None = field(default=None, metadata={"help": "Reward functions, primary first."})
    allow_weak_sandbox: bool = field(
        default=False, metadata={"help": "Whether programs may run where they cannot be confined."}
    )
    resume: bool = field(
        default=False, metadata={"help": "Whether to continue from the latest complete checkpoint in output_dir."}
    )

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"task is {self.task!r}. Use one of {', '.join(TASKS)}.")
        if self.domains is not None and not self.domains:
            raise ValueError("domains is empty, so there would be no problems. Name some, or leave it out for all.")
        _check_at_least_one(self, "num_train_problems", "num_eval_problems", "max_difficulty")


@dataclass(frozen=True)
class WorkflowArguments:
    r"""
    Arguments of the tasks that execute workflows.

    Parameters:
        operators (`list[str]`, *optional*):
            Operators that a workflow may use. If `None`, all that are defined.
        operator_modules (`list[str]`, *optional*):
            Modules that define further operators.
        quantize_correctness (`bool`, *optional*, defaults to `False`):
            Whether correctness takes one of five levels.
        models (`dict` or `str`, *optional*):
            Further executors: by operator, or by a lower-case name that a workflow may call one by, what differs from
            the recipe's executor. With `{"strong": {"executor_model": "gpt-4o"}}` a workflow may hold
            `Review(model="strong")`.
        share (`str`, *optional*, defaults to `"step"`):
            Scope in which equal operator calls are made once: a `step`, a `group`, or `off`.
        call_cache (`str`, *optional*):
            SQLite file of replies that are never paid for again, or `off`. Defaults to `calls.sqlite` in
            `output_dir`, and to `off` with the simulated executor.
        judge_domains (`list[str]`, *optional*):
            Domains (`math`, `qa`) whose answers the executor's model grades instead of the rules.
        gate_secondary (`bool`, *optional*, defaults to `True`):
            Whether the secondary rewards count only where the answer is right.
        constrained_depth (`int`, *optional*):
            With vLLM: restrict decoding to workflows with at most this depth of nesting (1 to 3), see
            [`~aflow_trl.dsl.workflow_regex`]. If `None`, decoding is unconstrained.
        simulated_latency_s (`float`, *optional*, defaults to `0.0`):
            Latency of a call of the simulated executor, in seconds.
    """

    operators: list[str] | None = field(default=None, metadata={"help": "Operators that a workflow may use."})
    operator_modules: list[str] | None = field(default=None, metadata={"help": "Modules that define operators."})
    quantize_correctness: bool = field(default=False, metadata={"help": "Whether correctness takes five levels."})
    models: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "By operator or name, what differs from the recipe's executor (JSON on a command line)."},
    )
    share: str = field(
        default="step",
        metadata={
            "help": "Scope in which equal calls are made once: step, group or off.",
            "choices": list(SHARE_MODES),
        },
    )
    call_cache: str | None = field(
        default=None, metadata={"help": "SQLite file of replies, or off. Default: calls.sqlite in output_dir."}
    )
    judge_domains: list[str] | None = field(
        default=None, metadata={"help": "Domains whose answers the executor's model grades: math, qa."}
    )
    gate_secondary: bool = field(
        default=True, metadata={"help": "Whether secondary rewards count only where the answer is right."}
    )
    constrained_depth: int | None = field(
        default=None, metadata={"help": "With vLLM: restrict decoding to workflows of this depth at most (1 to 3)."}
    )
    simulated_latency_s: float = field(
        default=0.0, metadata={"help": "Latency of a call of the simulated executor, in seconds."}
    )

    def __post_init__(self) -> None:
        # YAML 1.1 reads a bare `off` as false.
        for name in ("share", "call_cache"):
            if getattr(self, name) is False:
                object.__setattr__(self, name, OFF)
        if isinstance(self.call_cache, bool):
            raise ValueError("call_cache is true. Name a file, or leave it out for calls.sqlite in output_dir.")
        if isinstance(self.models, str):
            object.__setattr__(self, "models", _read_json("models", self.models))
        if self.models is not None and not isinstance(self.models, Mapping):
            raise ValueError(
                f"models is a {type(self.models).__name__}. Give a mapping of operators or names to settings."
            )
        if self.share not in SHARE_MODES:
            raise ValueError(f"share is {self.share!r}. Use one of {', '.join(SHARE_MODES)}.")
        if unknown := set(self.judge_domains or ()) - {"math", "qa"}:
            raise ValueError(
                f"judge_domains holds {sorted(unknown)[0]!r}. A model can grade math and qa; code has tests."
            )


@dataclass(frozen=True)
class ComposeArguments(WorkflowArguments):
    r"""
    Arguments of `task: compose`, beside those of [`WorkflowArguments`].

    Parameters:
        baseline_workflows (`list[str]`, *optional*):
            Fixed workflows that the trained policy is compared with.
        warm_start (`bool`, `dict` or `str`, *optional*):
            Search for good workflows by execution and fine-tune the policy on them before reinforcement learning:
            `true`, or what differs from the defaults of [`~aflow_trl.warm_start.WarmStartSettings`] (JSON on a command
            line).
    """

    baseline_workflows: list[str] | None = field(
        default=None, metadata={"help": "Fixed workflows that the trained policy is compared with."}
    )
    warm_start: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Search for good workflows and fine-tune on them first: true, or settings (JSON)."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        read_settings(self.warm_start)

    @property
    def warm_start_settings(self) -> WarmStartSettings | None:
        """Settings of the warm start; `None` for none."""
        return read_settings(self.warm_start)


@dataclass(frozen=True)
class ImproveArguments(WorkflowArguments):
    r"""
    Arguments of `task: improve`, beside those of [`WorkflowArguments`].

    Parameters:
        improvement_records (`str`, *optional*, defaults to `"sampled"`):
            JSONL of the workflows to improve, or `"sampled"`: random ones, measured before training.
        num_records (`int`, *optional*, defaults to `60`):
            Number of workflows that are sampled, or maximum number of records that are read.
        problems_per_gain (`int`, *optional*, defaults to `8`):
            Number of problems on which a new workflow is measured against the current one.
        reward_scale (`float`, *optional*, defaults to `10.0`):
            Reward of a gain of 1 (all problems solved instead of none).
        reward_clip (`float`, *optional*, defaults to `5.0`):
            Maximum absolute reward.
    """

    improvement_records: str = field(
        default="sampled", metadata={"help": "JSONL of the workflows to improve, or sampled."}
    )
    num_records: int = field(default=60, metadata={"help": "Number of workflows sampled, or maximum of records read."})
    problems_per_gain: int = field(default=8, metadata={"help": "Number of problems that a gain is measured on."})
    reward_scale: float = field(default=10.0, metadata={"help": "Reward of a gain of 1."})
    reward_clip: float = field(default=5.0, metadata={"help": "Maximum absolute reward."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("reward_scale", "reward_clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        _check_at_least_one(self, "num_records", "problems_per_gain")


@dataclass(frozen=True)
class ReasonArguments:
    r"""
    Arguments of `task: reason`.

    Parameters:
        max_prompt_length (`int`, *optional*, defaults to `256`):
            Maximum number of tokens of a prompt; longer ones are left out and counted.
    """

    max_prompt_length: int = field(default=256, metadata={"help": "Maximum number of tokens of a prompt."})

    def __post_init__(self) -> None:
        _check_at_least_one(self, "max_prompt_length")


TASK_ARGUMENTS: dict[str, type] = {COMPOSE: ComposeArguments, IMPROVE: ImproveArguments, REASON: ReasonArguments}
REWARDS = {COMPOSE: DEFAULT_WEIGHTS, IMPROVE: IMPROVE_WEIGHTS, REASON: REASON_WEIGHTS}
"""Reward functions of each task with their default weights, the primary one first."""


def _read_json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{name} is {text!r}, which is not JSON ({error}).") from None


def _check_at_least_one(arguments: object, *names: str) -> None:
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
