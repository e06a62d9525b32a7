"""Ends a run in good order when it can no longer learn anything true."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..rewards import Rollouts


class StopOnFatal(TrainerCallback):
    """
    Saves a checkpoint and stops once the executor can serve no further call.

    Args:
        rollouts ([`~aflow_trl.rewards.Rollouts`]):
            Execution to watch.
    """

    def __init__(self, rollouts: Rollouts) -> None:
        self.rollouts = rollouts

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Ask for a checkpoint and the end of training if a call failed for good."""
        if self.rollouts.engine.fatal is not None:
            control.should_save = True
            control.should_training_stop = True
        return control
