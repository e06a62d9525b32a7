"""Progress of a training on the console."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class ConsoleProgress(TrainerCallback):
    """
    One line for each logged step: reward, accuracy, valid share, calls, USD, remaining time.

    Args:
        print_line (`Callable[[str], None]`):
            Prints a line.
    """

    def __init__(self, print_line: Callable[[str], None]) -> None:
        self.print_line = print_line
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
        steps_done = state.global_step - self._first_step
        seconds_per_step = (time.monotonic() - self._started) / max(1, steps_done)
        remaining_s = seconds_per_step * (state.max_steps - state.global_step)
        figures = {
            "reward": logs["reward"],
            "accuracy": logs.get("accuracy/all"),
            "valid": logs.get("workflows/valid"),
            "calls": logs.get("executor/calls_per_workflow"),
            "unscored": logs.get("workflows/unscored") or None,
        }
        values = "  ".join(f"{name} {value:.2f}" for name, value in figures.items() if value is not None)
        if logs.get("executor/usd"):
            values += f"  {logs['executor/usd']:.4f} USD a step"
        self.print_line(f"step {state.global_step:>4}/{state.max_steps}  {values}  {remaining_s:.0f} s left")


class StepRecord(TrainerCallback):
    """
    Passes on every step that is done, and what is logged.

    Args:
        record (`Callable`):
            Called with the number of the step and of all steps; and with the `metrics`, where some are logged.
    """

    def __init__(self, record: Callable[..., None]) -> None:
        self.record = record

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Pass the step on."""
        self.record(state.global_step, state.max_steps)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Pass the metrics on."""
        self.record(state.global_step, state.max_steps, metrics=dict(kwargs.get("logs") or {}))
