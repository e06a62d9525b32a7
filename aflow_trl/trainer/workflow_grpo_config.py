"""Configuration of the trainer."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers.trainer_utils import HubStrategy
from trl import GRPOConfig

from ..dsl import CLOSING_TAG
from ..rewards import reward_binding
from .advantages import DEFAULT_TOLERANCE, SCALES, AdvantageConfig

WA_GRPO = "wa_grpo"
TRL_ESTIMATORS = {"grpo": "group", "dr_grpo": "none", "batch": "batch"}
"""Estimators that TRL computes, and the `scale_rewards` of each."""
ESTIMATORS = (WA_GRPO, *TRL_ESTIMATORS)
NONFINITE = ("stop", "skip", "off")
COLLAPSE_GUARDS = ("stop", "rollback", "off")
ROLLOUT_LAGS = (0, 1, 2, 4)
TARGETS = {"target_calls_per_problem": "model_calls", "target_usd_per_problem": "usd"}
"""Targets for the mean cost, and what of a rollout each is compared with."""
_TRL_LOSS_TYPE: str = GRPOConfig.loss_type


@dataclass
class WorkflowGRPOConfig(GRPOConfig):
    r"""
    Configuration class for the [`WorkflowGRPOTrainer`].

    Inherits every parameter of [`~trl.GRPOConfig`]; the following are new or have another default.

    Parameters:
        > Parameters that control the advantage

        advantage_estimator (`str`, *optional*, defaults to `"wa_grpo"`):
            `"wa_grpo"`, or one that TRL computes: `"grpo"` (divides by the standard deviation of the group),
            `"dr_grpo"` (divides by nothing, with the Dr. GRPO loss) or `"batch"` (standard deviation of the batch).
        primary_reward (`str`, *optional*):
            Name of the reward function that decides. If `None`, the first one. The others, weighted by
            `reward_weights`, only break ties (`"wa_grpo"` only). Where it returns `None` for a whole group, as a
            reward for another task does, the first other reward that scores the group decides it.
        advantage_scale (`str`, *optional*, defaults to `"batch"`):
            Divisor of differences in the primary reward under `"wa_grpo"`: `"none"`, or the standard deviation over
            the `"batch"`, the `"group"`, or all groups of one `"task"` (one domain) in the batch.
        tie_break_alpha (`float`, *optional*, defaults to `0.1`):
            Maximum advantage that a tie-break may give. 0 turns tie-breaking off.
        tie_tolerance (`float`, *optional*, defaults to `1e-4`):
            Primary rewards that differ by no more than this are tied.
        correct_from (`float`, *optional*, defaults to `1.0`):
            Primary reward from which a completion counts as right, in the units of the primary reward (where its
            weight is negative: up to which). The other rewards break ties among right completions only, because being
            cheap is no merit of a wrong one (`"wa_grpo"` only).
        reward_weights (`list[float]`, *optional*):
            As in TRL. Under `"wa_grpo"` the primary reward decides by order, so that of its weight only the sign
            matters; a weight of 0 is refused. The weights of the others are relative to each other.
        target_calls_per_problem (`float`, `dict[str, float]` or `str`, *optional*):
            Mean number of model calls that the policy is held at, by a price that rises while it spends more and falls
            while it spends less; see [`~aflow_trl.trainer.cost_dial.CostDial`]. Right still beats wrong (`"wa_grpo"`
            and workflow rewards only). With a target for each of several budgets (`{"low": 1.5, "high": 6}`; JSON on a
            command line), rows have a column `budget`, prompts end with it, and one policy learns them all.
        target_usd_per_problem (`float`, `dict[str, float]` or `str`, *optional*):
            The same in USD.
        advantage_clip (`float`, *optional*):
            Maximum absolute advantage, for every estimator. If `None`, advantages are not clipped.
        scale_rewards (`str`, *optional*):
            Follows from `advantage_estimator` (TRL's) or `advantage_scale` (`"wa_grpo"`). A value that contradicts
            them is refused.
        loss_type (`str`, *optional*):
            As in TRL; `"dr_grpo"` for the estimator of that name, which refuses any other.

        > Parameters that stop or protect a run

        nonfinite (`str`, *optional*, defaults to `"stop"`):
            Response to NaN or infinity in the loss, the log-probabilities or the gradients: `"stop"` ends the run with
            a checkpoint of the last good parameters, `"skip"` drops the step and counts it, `"off"` does nothing.
        max_sampling_logp_difference (`float`, *optional*, defaults to `0.1`):
            Maximum mean difference, in nats per token, between the log-probabilities that vLLM and the trainer assign
            to the rollouts. Beyond it a warning is logged; after three generations in a row the run stops with a
            checkpoint.
        max_unscored_share (`float`, *optional*, defaults to `0.5`):
            Share of rollouts that are unscored, or had most of their requests rejected, beyond which a step counts as
            lost (workflow rewards only).
        max_lost_steps (`int`, *optional*, defaults to `3`):
            Consecutive lost steps after which the run stops with a checkpoint.
        collapse_guard (`str`, *optional*, defaults to `"stop"`):
            Response to a collapse of the policy: `"stop"`; `"rollback"` to the last good parameters at half the
            learning rate (`nonfinite: stop` then acts as `skip`); or `"off"`. Active where the reward functions
            execute workflows, since it needs to score a probe.
        probe_problems (`int`, *optional*, defaults to `16`):
            Number of training problems that the collapse guard samples the policy on.
        probe_steps (`int`, *optional*, defaults to `10`):
            Probe every `probe_steps` steps.

        > Parameters that control the batches

        balance_domains (`bool`, *optional*, defaults to `False`):
            Whether every domain gets the same share of each batch of prompts.
        hard_share (`float`, *optional*):
            Share of hard problems in each batch, within each domain if `balance_domains`. If `None`, difficulty is
            ignored.
        hard_from (`int`, *optional*, defaults to `3`):
            Minimum difficulty of a hard problem.

        > Parameters that control generation

        temperature_initial (`float`, *optional*):
            Sampling temperature at step 0. If given, the temperature moves linearly to `temperature_final` over
            `temperature_warmup_steps` steps, in generation and in the loss. If `None`, it stays at `temperature`.
        temperature_final (`float`, *optional*):
            Temperature at the end of the schedule. If `None`, `temperature`.
        temperature_warmup_steps (`int`, *optional*, defaults to `0`):
            Number of steps of the schedule.
        stop_strings (`list[str]`, *optional*):
            Texts that end a completion and remain part of it. If `None`, `["</workflow>"]` where the reward functions
            execute workflows, and none elsewhere.

        > Parameters that overlap execution and training

        rollout_lag (`int`, *optional*, defaults to `0`):
            Number of batches (0, 1, 2 or 4) that are executed while earlier ones are trained on, so that the policy
            is up to as many updates ahead of the one that wrote its batch. The loss compares with the latter.

        > Parameters that control what is recorded

        save_traces (`bool`, *optional*, defaults to `True`):
            Whether to write a trace of every rollout, and rewards and advantages of every step, into `output_dir`
            (workflow rewards only).
        hub_strategy (`str`, *optional*, defaults to `"end"`):
            With `push_to_hub`, when to upload: at the `"end"` or at `"every_save"`. What goes up is the model and its
            reports, never traces, caches, journals or arguments.
    """

    advantage_estimator: str = field(
        default=WA_GRPO, metadata={"help": f"How advantages are computed: one of {', '.join(ESTIMATORS)}."}
    )
    primary_reward: str | None = field(
        default=None, metadata={"help": "Name of the reward function that decides. Defaults to the first one."}
    )
    advantage_scale: str = field(
        default="batch",
        metadata={"help": f"Divisor of differences in the primary reward under wa_grpo: {', '.join(SCALES)}."},
    )
    tie_break_alpha: float = field(
        default=0.1, metadata={"help": "Maximum advantage that a tie-break may give. 0 turns it off."}
    )
    tie_tolerance: float = field(
        default=DEFAULT_TOLERANCE,
        metadata={"help": "Primary rewards that differ by no more than this are tied."},
    )
    correct_from: float = field(default=1.0, metadata={"help": "Primary reward from which the others break ties."})
    target_calls_per_problem: float | str | dict[str, float] | None = field(
        default=None, metadata={"help": "Mean number of model calls that the policy is held at; or one by budget."}
    )
    target_usd_per_problem: float | str | dict[str, float] | None = field(
        default=None, metadata={"help": "Mean cost in USD that the policy is held at; or one by budget."}
    )
    advantage_clip: float | None = field(default=None, metadata={"help": "Maximum absolute advantage."})
    scale_rewards: str | None = field(
        default=None, metadata={"help": "Follows from advantage_estimator or advantage_scale; see there."}
    )
    loss_type: str | None = field(
        default=None, metadata={"help": "As in TRL; dr_grpo for the estimator of that name."}
    )
    nonfinite: str = field(
        default="stop",
        metadata={"help": "Response to NaN or infinity in a step: stop, skip or off.", "choices": list(NONFINITE)},
    )
    max_sampling_logp_difference: float = field(
        default=0.1,
        metadata={"help": "Maximum mean difference between the log-probabilities of vLLM and trainer, in nats/token."},
    )
    max_unscored_share: float = field(
        default=0.5, metadata={"help": "Share of unscored rollouts beyond which a step counts as lost."}
    )
    max_lost_steps: int = field(
        default=3, metadata={"help": "Consecutive lost steps after which the run stops with a checkpoint."}
    )
    collapse_guard: str = field(
        default="stop",
        metadata={"help": "Response to a collapse of the policy.", "choices": list(COLLAPSE_GUARDS)},
    )
    probe_problems: int = field(
        default=16, metadata={"help": "Number of problems that the collapse guard samples the policy on."}
    )
    probe_steps: int = field(default=10, metadata={"help": "Probe every N steps."})
    balance_domains: bool = field(
        default=False, metadata={"help": "Whether every domain gets the same share of each batch."}
    )
    hard_share: float | None = field(default=None, metadata={"help": "Share of hard problems in each batch."})
    hard_from: int = field(default=3, metadata={"help": "Minimum difficulty of a hard problem."})
    temperature_initial: float | None = field(
        default=None, metadata={"help": "Sampling temperature at step 0 of a linear schedule."}
    )
    temperature_final: float | None = field(
        default=None, metadata={"help": "Temperature at the end of the schedule. Defaults to `temperature`."}
    )
    temperature_warmup_steps: int = field(default=0, metadata={"help": "Number of steps of the temperature schedule."})
    stop_strings: list[str] | None = field(
        default=None,
        metadata={"help": "Texts that end a completion and remain part of it. Defaults to the end of a workflow."},
    )
    rollout_lag: int = field(
        default=0,
        metadata={
            "help": "Number of batches that are executed while earlier ones are trained on.",
            "choices": list(ROLLOUT_LAGS),
        },
    )
    save_traces: bool = field(
        default=True, metadata={"help": "Whether to write traces, rewards and advantages into output_dir."}
    )
    hub_strategy: HubStrategy | str = field(
        default="end", metadata={"help": "With push_to_hub, when to upload: at the end, or at every_save."}
    )

    def __post_init__(self) -> None:
        # YAML 1.1 reads a bare `off` as false.
        for name in ("nonfinite", "collapse_guard"):
            if getattr(self, name) is False:
                setattr(self, name, "off")
        for name, choices in (
            ("advantage_estimator", ESTIMATORS),
            ("advantage_scale", SCALES),
            ("nonfinite", NONFINITE),
            ("collapse_guard", COLLAPSE_GUARDS),
            ("rollout_lag", ROLLOUT_LAGS),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {getattr(self, name)!r}.")
        for name in ("tie_break_alpha", "tie_tolerance", "temperature_warmup_steps"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}.")
        for name in ("max_lost_steps", "probe_problems", "probe_steps"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in TARGETS:
            setattr(self, name, _read_target(name, getattr(self, name)))
        for name in ("max_sampling_logp_difference", "advantage_clip", "temperature_initial", "temperature_final"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}.")
        for name in ("max_unscored_share", "hard_share"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {value}.")
        targets = [name for name in TARGETS if getattr(self, name) is not None]
        if len(targets) > 1:
            raise ValueError(f"{' and '.join(targets)} are both given. Remove one of them.")
        if targets and self.uses_trl_advantages:
            raise ValueError(
                f"{targets[0]} is given, but advantage_estimator is {self.advantage_estimator!r}, which TRL computes. "
                f"Use {WA_GRPO}, or remove the target."
            )
        if self.temperature_final is not None and self.temperature_initial is None:
            raise ValueError("temperature_final needs temperature_initial. Give both, or set temperature alone.")
        self._resolve_trl_fields()
        super().__post_init__()

    def _resolve_trl_fields(self) -> None:
        """Set what the estimator decides of TRL's fields, and refuse what contradicts it."""
        estimator = self.advantage_estimator
        if estimator == WA_GRPO:
            # TRL knows no scale over a task; its own advantages are replaced in any case.
            scale, decided_by = self.advantage_scale if self.advantage_scale != "task" else "batch", "advantage_scale"
            if self.multi_objective_aggregation != "sum_then_normalize":
                raise ValueError(
                    f"multi_objective_aggregation is {self.multi_objective_aggregation!r}, but wa_grpo orders the "
                    "primary reward before the others and does not aggregate them. Remove it, or use an estimator of "
                    f"TRL: {', '.join(TRL_ESTIMATORS)}."
                )
        else:
            scale, decided_by = TRL_ESTIMATORS[estimator], "advantage_estimator"
        given = {True: "group", False: "none"}.get(self.scale_rewards, self.scale_rewards)  # type: ignore[call-overload]
        if given not in (None, scale):
            raise ValueError(
                f"scale_rewards is {self.scale_rewards!r}, but {decided_by}: {getattr(self, decided_by)} means "
                f"{scale!r}. Remove scale_rewards, or choose another {decided_by}."
            )
        self.scale_rewards = scale
        if estimator == "dr_grpo" and self.loss_type not in (None, "dr_grpo"):
            raise ValueError(
                f"loss_type is {self.loss_type!r}, but advantage_estimator: dr_grpo is defined with the loss "
                "'dr_grpo'. Remove loss_type, or choose another advantage_estimator."
            )
        self.loss_type = "dr_grpo" if estimator == "dr_grpo" else self.loss_type or _TRL_LOSS_TYPE

    @classmethod
    def from_grpo_config(cls, config: GRPOConfig) -> WorkflowGRPOConfig:
        """
        A configuration that leaves everything to TRL: the advantage is TRL's, nothing is stopped, watched or recorded.

        Args:
            config ([`~trl.GRPOConfig`]):
                Configuration of TRL's trainer.

        Returns:
            [`WorkflowGRPOConfig`]: With the same values of all TRL's fields.
        """
        neutral = {"advantage_estimator": "grpo", "nonfinite": "off", "collapse_guard": "off", "stop_strings": []}
        new = cls.__new__(cls)
        for item in dataclasses.fields(cls):
            if item.default is not dataclasses.MISSING:
                setattr(new, item.name, item.default)
        # TRL has already checked and completed its fields; running its checks again would apply them twice.
        for name, value in (vars(config) | neutral).items():
            setattr(new, name, value)
        return new

    @property
    def uses_trl_advantages(self) -> bool:
        """Whether TRL computes the advantage."""
        return self.advantage_estimator in TRL_ESTIMATORS

    def advantage_config(self, num_generations: int, primary: int, *, primary_may_abstain: bool) -> AdvantageConfig:
        """Settings of `wa_grpo` for groups of a size and a primary reward function."""
        return AdvantageConfig(
            num_generations,
            primary,
            self.advantage_scale,
            self.tie_break_alpha,
            self.tie_tolerance,
            self.advantage_clip,
            self.correct_from,
            primary_may_abstain,
        )

    @property
    def cost_targets(self) -> tuple[str, dict[str, float]] | None:
        """
        Cost of a rollout that is held at a target (`model_calls` or `usd`), and the target of each budget; a single
        target has the budget `""`.
        """
        for name, unit in TARGETS.items():
            value = getattr(self, name)
            if value is not None:
                return unit, value if isinstance(value, dict) else {"": value}
        return None

    @property
    def budgets(self) -> list[str]:
        """Budgets that have a target of their own, the smallest first."""
        _, targets = self.cost_targets or ("", {})
        return sorted(filter(None, targets), key=lambda budget: targets[budget])

    def temperature_at(self, step: int) -> float:
        """Sampling temperature at an optimiser step."""
        if self.temperature_initial is None:
            return float(self.temperature)
        final = self.temperature if self.temperature_final is None else self.temperature_final
        share = min(1.0, step / self.temperature_warmup_steps) if self.temperature_warmup_steps else 1.0
        return self.temperature_initial + share * (final - self.temperature_initial)


def _read_target(name: str, value: Any) -> float | dict[str, float] | None:
    """A target from a recipe or a command line: a positive number, or one for each budget."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(
                f'{name} is {value!r}. Give a number, or JSON with one for each budget: {{"low": 2, "high": 6}}.'
            ) from None
    if value is None:
        return None
    targets = value if isinstance(value, Mapping) else {"": value}
    for budget, target in targets.items():
        where = f"{name} of the budget {budget!r}" if budget else name
        if isinstance(target, bool) or not isinstance(target, int | float) or not 0 < target < math.inf:
            raise ValueError(f"{where} must be positive, got {target!r}.")
        if isinstance(value, Mapping) and not re.fullmatch(r"[\w.-]+", str(budget)):
            raise ValueError(f"{name} has the budget {budget!r}. Use a word, which the policy will read.")
    if not targets:
        raise ValueError(f"{name} holds no budget. Give a number, or a target for each budget.")
    if isinstance(value, Mapping):
        return {str(budget): float(target) for budget, target in value.items()}
    return float(value)


def complete_config(
    model: Any, functions: Sequence[Callable[..., Any]], args: GRPOConfig | None
) -> WorkflowGRPOConfig:
    """
    The configuration with the defaults that depend on the reward functions.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`]):
            Policy, which names the output folder where no configuration is given.
        functions (`Sequence[Callable]`):
            Reward functions.
        args ([`~trl.GRPOConfig`], *optional*):
            Configuration of the user.

    Returns:
        [`WorkflowGRPOConfig`]: A copy; the object of the user stays as it is.
    """
    bindings = [reward_binding(function) for function in functions]
    if args is None:
        name = model if isinstance(model, str) else model.config._name_or_path
        output_dir = f"{name.split('/')[-1]}-WA-GRPO"
        args = WorkflowGRPOConfig(output_dir) if any(bindings) else GRPOConfig(output_dir)
    config = copy.copy(args) if isinstance(args, WorkflowGRPOConfig) else WorkflowGRPOConfig.from_grpo_config(args)
    if config.reward_weights is None and all(bindings):
        config.reward_weights = [item.default_weight for item in bindings if item is not None]
    if config.stop_strings is None:
        config.stop_strings = [CLOSING_TAG] if any(bindings) else []
    if config.stop_strings:
        stop = list(config.stop_strings)
        options = {"stop": stop, "include_stop_str_in_output": True} if config.use_vllm else {"stop_strings": stop}
        config.generation_kwargs = options | (config.generation_kwargs or {})
    return config
