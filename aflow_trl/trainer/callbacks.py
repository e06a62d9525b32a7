"""What happens beside the optimiser steps: a run that cannot go on is ended in good order, progress is shown."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from accelerate.utils import gather_object
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
        if any(gather_object([self.rollouts.engine.fatal is not None])):
            control.should_save = True
            control.should_training_stop = True
        return control


class ConsoleProgress(TrainerCallback):
    """
    One readable line a logged step: reward, accuracy, valid share, calls, time left.

    Args:
        say (`Callable[[str], None]`):
            Where lines go.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self._started = time.monotonic()
        self._first_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._started, self._first_step = time.monotonic(), state.global_step

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Print the line."""
        logs = kwargs.get("logs") or {}
        if not state.is_world_process_zero or "reward" not in logs:
            return
        done = state.global_step - self._first_step
        left = (time.monotonic() - self._started) / max(1, done) * (state.max_steps - state.global_step)
        shown = {
            "reward": logs["reward"],
            "accuracy": logs.get("accuracy/all"),
            "valid": logs.get("workflows/valid"),
            "calls": logs.get("executor/calls_per_workflow"),
            "unscored": logs.get("workflows/unscored") or None,
        }
        values = "  ".join(f"{name} {value:.2f}" for name, value in shown.items() if value is not None)
        self.say(f"step {state.global_step:>4}/{state.max_steps}  {values}  {left:.0f} s left")
