"""Numbers that are none: what NaN or infinity in a training step leads to."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


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
