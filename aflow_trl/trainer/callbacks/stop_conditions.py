"""What happens beside the optimiser steps: a run that cannot go on is ended in good order, progress is shown."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...rollouts import Rollouts


class StopRun(TrainerCallback):
    """
    Saves a checkpoint and ends training when going on would only waste it: the executor can serve no further call, or
    too many rollouts were left unscored in too many steps in a row.

    Args:
        rollouts ([`~aflow_trl.rewards.Rollouts`]):
            Execution to watch.
        max_unscored_share (`float`, *optional*, defaults to `0.5`):
            Share of unscored rollouts, over all processes, beyond which a step counts as lost.
        max_lost_steps (`int`, *optional*, defaults to `3`):
            Lost steps in a row after which training ends.
    """

    def __init__(self, rollouts: Rollouts, max_unscored_share: float = 0.5, max_lost_steps: int = 3) -> None:
        self.rollouts, self.max_unscored_share, self.max_lost_steps = rollouts, max_unscored_share, max_lost_steps
        self.reason: str | None = None
        """Why training was ended; `None` if it was not."""
        self._lost_steps = 0
        self._lost = False
        self._seen = 0

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"lost_steps": self._lost_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        # A run that was ended for it starts counting anew.
        self._lost_steps = state["lost_steps"] % self.max_lost_steps

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Ask for a checkpoint and the end of training if one of the conditions holds, the same on every process."""
        gathered = gather_object([(self.rollouts.engine.fatal, *self.rollouts.last_batch)])
        fatal = next((error for error, _, _ in gathered if error is not None), None)
        unscored, total = (sum(column) for column in zip(*(row[1:] for row in gathered), strict=True))
        if self.rollouts.batches > self._seen:
            self._seen = self.rollouts.batches
            self._lost_steps = self._lost_steps + 1 if unscored > self.max_unscored_share * total else 0
            self._lost = self._lost_steps >= self.max_lost_steps
        if fatal is not None:
            self.reason = str(fatal)
        elif self._lost:
            self.reason = (
                f"{unscored} of {total} rollouts could not be scored, and more than {self.max_unscored_share:.0%} in "
                f"each of the last {self._lost_steps} steps (max_unscored_share, max_lost_steps): the endpoint, the "
                "sandbox or a scorer keeps failing, see the traces"
            )
        if self.reason is not None:
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
