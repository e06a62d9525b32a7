"""Protection of the parameters from NaN and infinity."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

SKIP_UNDER_DEEPSPEED = (
    "nonfinite: skip drops a step before the optimiser sees it, but DeepSpeed applies it inside the backward pass. "
    "Use nonfinite: stop or off, or DDP."
)


class NumericalGuard(TrainerCallback):
    """
    Keeps a step with NaN or infinity in its loss, log-probabilities or gradients away from the parameters.

    Under fp16 the loss scaler skips steps with infinite gradients as a matter of course; there only the loss and the
    log-probabilities are checked. DeepSpeed applies the step inside the backward pass, before any callback: there the
    run ends without a checkpoint of the damaged parameters, and a step cannot be skipped.

    Args:
        mode (`str`):
            `"stop"`, `"skip"` or `"off"`.
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.reason: str | None = None
        """Why training was stopped; `None` if it was not."""
        self.scaled = False
        """Whether a loss scaler is active."""
        self.steps_in_backward = False
        """Whether the parameters are updated before the callback sees the gradients, as by DeepSpeed."""
        self.skipped = 0
        """Number of steps that were dropped."""
        self._nonfinite: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """State that a checkpoint holds."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.skipped = state["skipped"]

    def check(self, source: str, values: Tensor) -> None:
        """Remember whether a value is not finite, without synchronising with the device."""
        if self.mode != "off":
            nonfinite = ~torch.isfinite(values.detach()).all()
            self._nonfinite[source] = self._nonfinite[source] | nonfinite if source in self._nonfinite else nonfinite

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Drop the gradients of a step that is not finite, on every process, before the optimiser sees them."""
        if self.mode == "off":
            return control
        parameters = [parameter for parameter in kwargs["model"].parameters() if parameter.grad is not None]
        if not self.scaled and parameters:
            finite = [torch.isfinite(parameter.grad).all() for parameter in parameters if parameter.grad is not None]
            self.check("gradients", torch.where(torch.stack(finite).all(), 0.0, torch.nan))
        local = [source for source, nonfinite in self._nonfinite.items() if bool(nonfinite)]
        self._nonfinite.clear()
        # One process may see what the others do not; all of them have to drop the step, or parameters would diverge.
        sources = sorted(set(gather_object(local)))
        if not sources:
            return control
        if not self.scaled:
            for parameter in parameters:
                parameter.grad = None
        self.skipped += 1
        if self.mode == "stop":
            found = f"NaN or infinity in the {' and the '.join(sources)} of step {state.global_step + 1}"
            remedy = "Lower learning_rate or max_grad_norm, or use bf16 instead of fp16"
            if self.steps_in_backward:
                self.reason = f"{found}, which DeepSpeed has applied: restart from the checkpoint before it. {remedy}"
            else:
                self.reason = f"{found}; the parameters are those of the step before. {remedy}, or set nonfinite: skip"
            control.should_save, control.should_training_stop = not self.steps_in_backward, True
        return control
