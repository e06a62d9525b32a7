"""Conditions under which a run stops with a checkpoint, because continuing would only waste it."""

from __future__ import annotations

from typing import Any

from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...rollouts import Rollouts


class StopConditions(TrainerCallback):
    """
    Saves a checkpoint and stops training when the executor can serve no further call (revoked key, no credit, budget
    spent), or when too many rollouts were left unscored in too many steps in a row.

    Args:
        rollouts ([`~aflow_trl.rollouts.Rollouts`]):
            Service to watch.
        max_unscored_share (`float`, *optional*, defaults to `0.5`):
            Share of rollouts that are unscored, or had most of their requests rejected, beyond which a step counts as
            lost; over all processes.
        max_lost_steps (`int`, *optional*, defaults to `3`):
            Consecutive lost steps after which training stops.
    """

    def __init__(self, rollouts: Rollouts, max_unscored_share: float = 0.5, max_lost_steps: int = 3) -> None:
        self.rollouts, self.max_unscored_share, self.max_lost_steps = rollouts, max_unscored_share, max_lost_steps
        self.reason: str | None = None
        """Why training was stopped; `None` if it was not."""
        self._lost_steps = 0

    def state_dict(self) -> dict[str, Any]:
        """State that a checkpoint holds."""
        return {"lost_steps": self._lost_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        # A run that was stopped for lost steps starts to count again, or it would stop at its first step.
        self._lost_steps = state["lost_steps"] % self.max_lost_steps

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Request a checkpoint and the end of training if a condition holds, the same on every process."""
        # Several optimiser steps may train on one batch; each batch counts once.
        counts = self.rollouts.counts.pop(state.global_step - 1, (0, 0))
        gathered = gather_object([(self.rollouts.engine.fatal, *counts)])
        fatal = next((error for error, _, _ in gathered if error is not None), None)
        lost, total = (sum(column) for column in zip(*(row[1:] for row in gathered), strict=True))
        if total:
            self._lost_steps = self._lost_steps + 1 if lost > self.max_unscored_share * total else 0
        if fatal is not None:
            self.reason = str(fatal)
        elif self._lost_steps >= self.max_lost_steps:
            self.reason = (
                f"{lost} of {total} rollouts could not be scored, or had most of their requests rejected, and more "
                f"than {self.max_unscored_share:.0%} in each of the last {self._lost_steps} steps "
                "(max_unscored_share, max_lost_steps): the endpoint, the sandbox or a scorer keeps failing, or the "
                "prompts are too long for the model; see the traces"
            )
        if self.reason is not None:
            control.should_save = control.should_training_stop = True
        return control
