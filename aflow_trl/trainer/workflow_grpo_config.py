"""Configuration of the trainer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trl import GRPOConfig

from ..dsl import CLOSING_TAG
from .advantages import DEFAULT_TOLERANCE, SCALES

TRL_ESTIMATORS = {"grpo": "group", "dr_grpo": "none", "batch": "batch"}
"""Estimators that are TRL's own, and the `scale_rewards` each stands for."""
NONFINITE = ("stop", "skip", "off")
ESTIMATORS = ("wa_grpo", *TRL_ESTIMATORS, "wa_grpo_classic")


@dataclass
class WorkflowGRPOConfig(GRPOConfig):
    r"""
    Configuration class for the [`WorkflowGRPOTrainer`].

    Inherits every parameter from [`~trl.GRPOConfig`]; only what is listed here is new.

    Parameters:
        > Parameters that control the advantage

        advantage_estimator (`str`, *optional*, defaults to `"wa_grpo"`):
            `"wa_grpo"`; TRL's own `"grpo"` (group std), `"dr_grpo"` (no std, Dr. GRPO loss) or `"batch"` (batch std);
            or `"wa_grpo_classic"`, the earlier published form, for comparison.
        primary_reward (`str`, *optional*):
            Name of the reward function that decides. If `None`, the first one. The others, weighted by
            `reward_weights`, only break ties (`"wa_grpo"` only).
        advantage_scale (`str`, *optional*, defaults to `"batch"`):
            What `"wa_grpo"` divides differences of the primary reward by: `"none"`, or the standard deviation over the
            `"batch"`, the `"group"` or all groups of one `"task"` in the batch (of one domain).
        tie_break_alpha (`float`, *optional*, defaults to `0.1`):
            Largest advantage a tie-break may give. 0 turns it off.
        tie_tolerance (`float`, *optional*, defaults to `1e-4`):
            Primary rewards that differ by no more are tied.
        advantage_clip (`float`, *optional*):
            Largest absolute advantage, whatever the estimator. If `None`, advantages are not clipped.
        nonfinite (`str`, *optional*, defaults to `"stop"`):
            What NaN or infinity in the loss, the log-probabilities or the gradients leads to: `"stop"` ends the run
            with a checkpoint of the last good parameters, `"skip"` leaves the step out and counts it, `"off"` does
            nothing.

        max_sampling_logp_difference (`float`, *optional*, defaults to `0.1`):
            Largest mean difference, in nats a token, between the log-probabilities that vLLM and the trainer give to
            the rollouts. Beyond it a warning is given; after three generations in a row the run ends with a
            checkpoint.

        > Parameters that control the batches

        balance_domains (`bool`, *optional*, defaults to `False`):
            Whether every domain has the same share of each batch of prompts.
        hard_share (`float`, *optional*):
            Share of hard problems in each batch, within each domain if `balance_domains`. If `None`, difficulty plays
            no part.
        hard_from (`int`, *optional*, defaults to `3`):
            Difficulty from which a problem is hard.

        > Parameters that control generation

        temperature_initial (`float`, *optional*):
            Sampling temperature at step 0. If given, the temperature goes linearly to `temperature_final` over
            `temperature_warmup_steps` steps, in generation and in the loss. If `None`, it stays at `temperature`.
        temperature_final (`float`, *optional*):
            Temperature at the end of the schedule. If `None`, `temperature`.
        temperature_warmup_steps (`int`, *optional*, defaults to `0`):
            Steps of the schedule.
        stop_strings (`list[str]`, *optional*, defaults to `["</workflow>"]`):
            Texts that end a completion; the text itself stays part of it.
    """

    advantage_estimator: str = field(
        default="wa_grpo",
        metadata={"help": f"How advantages are computed: one of {', '.join(ESTIMATORS)}."},
    )
    primary_reward: str | None = field(
        default=None, metadata={"help": "Name of the reward function that decides. Defaults to the first one."}
    )
    advantage_scale: str = field(
        default="batch",
        metadata={"help": f"What wa_grpo divides differences of the primary reward by: {', '.join(SCALES)}."},
    )
    tie_break_alpha: float = field(
        default=0.1, metadata={"help": "Largest advantage a tie-break may give. 0 turns it off."}
    )
    tie_tolerance: float = field(
        default=DEFAULT_TOLERANCE, metadata={"help": "Primary rewards that differ by no more are tied."}
    )
    advantage_clip: float | None = field(default=None, metadata={"help": "Largest absolute advantage."})
    nonfinite: str = field(
        default="stop",
        metadata={"help": "What NaN or infinity in a step leads to: stop, skip or off.", "choices": list(NONFINITE)},
    )
    max_sampling_logp_difference: float = field(
        default=0.1,
        metadata={"help": "Largest mean difference of vLLM's log-probabilities from the trainer's, in nats a token."},
    )
    balance_domains: bool = field(
        default=False, metadata={"help": "Whether every domain has the same share of each batch."}
    )
    hard_share: float | None = field(default=None, metadata={"help": "Share of hard problems in each batch."})
    hard_from: int = field(default=3, metadata={"help": "Difficulty from which a problem is hard."})
    temperature_initial: float | None = field(
        default=None, metadata={"help": "Sampling temperature at step 0 of a linear schedule."}
    )
    temperature_final: float | None = field(
        default=None, metadata={"help": "Temperature at the end of the schedule. Defaults to `temperature`."}
    )
    temperature_warmup_steps: int = field(default=0, metadata={"help": "Steps of the temperature schedule."})
    stop_strings: list[str] = field(
        default_factory=lambda: [CLOSING_TAG],
        metadata={"help": "Texts that end a completion; the text itself stays part of it."},
    )

    def __post_init__(self) -> None:
        if self.advantage_estimator not in ESTIMATORS:
            raise ValueError(
                f"advantage_estimator must be one of {', '.join(ESTIMATORS)}, got {self.advantage_estimator!r}."
            )
        if self.advantage_scale not in SCALES:
            raise ValueError(f"advantage_scale must be one of {', '.join(SCALES)}, got {self.advantage_scale!r}.")
        if self.tie_break_alpha < 0 or self.tie_tolerance < 0:
            raise ValueError("tie_break_alpha and tie_tolerance must be 0 or more.")
        if not self.max_sampling_logp_difference > 0:
            raise ValueError(
                f"max_sampling_logp_difference must be positive, got {self.max_sampling_logp_difference}."
            )
        if self.nonfinite not in NONFINITE:
            raise ValueError(f"nonfinite must be one of {', '.join(NONFINITE)}, got {self.nonfinite!r}.")
        if self.advantage_clip is not None and self.advantage_clip <= 0:
            raise ValueError(f"advantage_clip must be positive, got {self.advantage_clip}.")
        if self.hard_share is not None and not 0 <= self.hard_share <= 1:
            raise ValueError(f"hard_share must be between 0 and 1, got {self.hard_share}.")
        self._check_temperature()
        if self.advantage_estimator in TRL_ESTIMATORS:
            self.scale_rewards = TRL_ESTIMATORS[self.advantage_estimator]
        if self.advantage_estimator == "dr_grpo":
            self.loss_type = "dr_grpo"
        if self.stop_strings:
            if self.mask_truncated_completions:
                raise ValueError(
                    "mask_truncated_completions would mask every completion that a stop string ended, because TRL "
                    "takes them for truncated. Set mask_truncated_completions: false or stop_strings: []."
                )
            self._add_stop_strings()
        super().__post_init__()

    def temperature_at(self, step: int) -> float:
        """Sampling temperature at an optimiser step."""
        if self.temperature_initial is None:
            return float(self.temperature)
        final = self.temperature if self.temperature_final is None else self.temperature_final
        share = min(1.0, step / self.temperature_warmup_steps) if self.temperature_warmup_steps else 1.0
        return self.temperature_initial + share * (final - self.temperature_initial)

    def _check_temperature(self) -> None:
        for name in ("temperature_initial", "temperature_final"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}.")
        if self.temperature_final is not None and self.temperature_initial is None:
            raise ValueError("temperature_final needs temperature_initial. Give both, or set temperature alone.")
        if self.temperature_warmup_steps < 0:
            raise ValueError(f"temperature_warmup_steps must be 0 or more, got {self.temperature_warmup_steps}.")

    def _add_stop_strings(self) -> None:
        given: dict[str, Any] = vars(self)["generation_kwargs"] or {}
        if self.use_vllm:
            stop = {"stop": list(self.stop_strings), "include_stop_str_in_output": True}
        else:
            stop = {"stop_strings": list(self.stop_strings)}
        self.generation_kwargs = {**stop, **given}
