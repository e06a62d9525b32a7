"""What ends a run in good order: numbers that are none, rollouts of another policy than the one that is trained."""

from __future__ import annotations

import logging
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)


STALE_GENERATIONS = 3
"""Generations in a row whose log-probabilities are too far off, after which a run ends: one may be an odd batch."""


class SyncGuard(TrainerCallback):
    """
    Sees to it that what vLLM generates comes from the parameters that are trained.

    vLLM holds weights of its own, which TRL brings up to date before every generation. If that fails without an error,
    training goes on with the rollouts of an old policy. What gives it away: the log-probabilities that vLLM reports
    are not the trainer's.

    Args:
        limit (`float`):
            Largest mean absolute difference, in nats a token.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.reason: str | None = None
        """Why training was ended; `None` if it was not."""
        self._stale = 0
        self._latest = 0.0

    def look(self, difference: float) -> bool:
        """Whether the difference of a generation is beyond the limit."""
        stale = not difference <= self.limit
        self._stale, self._latest = (self._stale + 1 if stale else 0), difference
        if stale:
            logger.warning(
                "log-probabilities of the rollouts differ from the trainer's by %.3f nats a token on average, above "
                "max_sampling_logp_difference %g: do they come from the current parameters?",
                difference,
                self.limit,
            )
        return stale

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """End the run if it was so several times in a row; all processes have seen the same mean."""
        if self._stale >= STALE_GENERATIONS:
            self.reason = (
                f"the rollouts of the last {self._stale} generations do not come from the current parameters: their "
                f"log-probabilities differ by {self._latest:.3f} nats a token on average from the trainer's "
                f"(max_sampling_logp_difference {self.limit:g}). The weights do not reach vLLM, or it computes in "
                "another precision: see that dtype and quantization are the same on both sides"
            )
            control.should_save = control.should_training_stop = True
        return control


class NumericalGuard(TrainerCallback):
    """
    Keeps a step with NaN or infinity in its loss, log-probabilities or gradients from reaching the parameters.

    Under fp16 the loss scaler leaves out steps with infinite gradients by itself, as a matter of course; there only
    the loss and the log-probabilities are looked at.

    Args:
        mode (`str`):
            `"stop"`, `"skip"` or `"off"`.
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.reason: str | None = None
        """Why training was ended; `None` if it was not."""
        self.scaled = False
        """Whether a loss scaler is at work."""
        self.skipped = 0
        """Steps that were left out."""
        self._bad: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.skipped = state["skipped"]

    def look(self, place: str, values: Tensor) -> None:
        """Remember whether something is not finite. The device is not waited for."""
        if self.mode != "off":
            bad = ~torch.isfinite(values.detach()).all()
            self._bad[place] = self._bad[place] | bad if place in self._bad else bad

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Drop the gradients of a bad step, the same on every process, before the optimiser sees them."""
        if self.mode == "off":
            return control
        parameters = [parameter for parameter in kwargs["model"].parameters() if parameter.grad is not None]
        scaled = self.scaled
        if not scaled and parameters:
            finite = [torch.isfinite(parameter.grad).all() for parameter in parameters if parameter.grad is not None]
            self.look("gradients", torch.where(torch.stack(finite).all(), 0.0, torch.nan))
        own = [place for place, bad in self._bad.items() if bool(bad)]
        self._bad.clear()
        found = sorted(set(gather_object(own)))
        if not found:
            return control
        if not scaled:
            for parameter in parameters:
                parameter.grad = None
        self.skipped += 1
        if self.mode == "stop":
            self.reason = (
                f"NaN or infinity in the {' and the '.join(found)} of step {state.global_step + 1}; the parameters "
                "are those of the step before. Lower learning_rate or max_grad_norm, use bf16 instead of fp16, or set "
                "nonfinite: skip"
            )
            control.should_save = control.should_training_stop = True
        return control
