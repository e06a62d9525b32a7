"""SIGTERM and Ctrl-C: a checkpoint after the step, and the end of training."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption(TrainerCallback):
    """
    Turns SIGTERM or Ctrl-C during training into a checkpoint of the present step and the end of training, on every
    process. A further Ctrl-C, and any signal in another phase, stops the process at once.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        """Why training was stopped; `None` if it was not."""
        self._received = ""
        self._in_training = False
        self._stop: Callable[[str], NoReturn]

    @contextmanager
    def handling_signals(self, stop: Callable[[str], NoReturn]) -> Iterator[None]:
        """
        Receive the signals of the process; to be used in its main thread.

        Args:
            stop (`Callable[[str], NoReturn]`):
                Ends the process at any point of the program, given the name of the signal. An exception would not do:
                one that is raised in a destructor is ignored.
        """
        self._stop = stop
        previous = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def in_training(self) -> Iterator[None]:
        """Within, a signal waits for the end of the step, or of saving."""
        self.reason, self._received, self._in_training = None, "", True
        try:
            yield
        finally:
            self._in_training = False
        if self._received and self.reason is None:
            self._stop(self._received)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Request a checkpoint and the end of training if any process has received a signal."""
        received = next(filter(None, gather_object([self._received])), "")
        if received:
            self.reason = f"{received} was received"
            control.should_save = control.should_training_stop = True
        return control

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        # A launcher that dies may cause a second SIGTERM, which must not cost the checkpoint of the first.
        if not self._in_training or (self._received and number == signal.SIGINT):
            self._stop(name)
        self._received = name
        # Not `print`, which the signal may have interrupted.
        os.write(2, f"{name}: stopping after this step, with a checkpoint (Ctrl-C: at once)\n".encode())


INTERRUPTION = Interruption()
"""Signals belong to the process, so there is one for all its trainers."""
