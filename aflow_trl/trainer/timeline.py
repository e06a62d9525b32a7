"""Where the time of a step goes: the parts of the trainer, and the execution of batches beside it."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

GENERATION = "generation"
LOG_PROBABILITIES = "log_probabilities"
WAITING = "waiting"
FORWARD_BACKWARD = "forward_backward"
OPTIMIZER = "optimizer"
GUARD = "guard"
PARTS = (GENERATION, LOG_PROBABILITIES, WAITING, FORWARD_BACKWARD, OPTIMIZER, GUARD)
"""Parts of a step of the trainer, one after the other."""
EXECUTION = "execution"
"""Execution of a batch, from the call of its reward functions to their results; beside the trainer where it lags."""
OF_A_BATCH = ("execution/critical_path_s", "execution/bound_s", "execution/scoring_s")
"""Metrics of a batch that explain how long its execution took."""
KEPT_STEPS = 8


@dataclass(frozen=True, slots=True)
class Span:
    """One part of a step, or the execution of a batch."""

    name: str
    step: int
    """Optimiser step that it belongs to; that of an execution is the step that trains on the batch."""
    start_s: float
    end_s: float
    """Seconds on the monotonic clock."""


def mean_seconds(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """
    Seconds of each part of a step, and of what is executed beside it, on average over the logged steps.

    Args:
        history (`Sequence[Mapping[str, Any]]`):
            `log_history` of the trainer.

    Returns:
        `dict[str, float]`: Seconds by part; `step` for the whole; for the batches `execution`, `critical_path` (of
        the longest workflow), `bound` (which also counts the calls that may be in flight at once; no execution takes
        less) and `scoring` (of the answer that took longest). Empty without a step.
    """
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    for entry in history:
        for key, value in entry.items():
            stage, _, name = key.partition("/")
            if value is not None and (stage == "time" or key in OF_A_BATCH):
                seconds[name.removesuffix("_s")].append(value)
    return {name: sum(values) / len(values) for name, values in seconds.items()}


class Timeline(TrainerCallback):
    """
    Measures every step, in this process. Where parts are nested, a second counts for the innermost.

    Args:
        metrics (`Mapping[str, list[float]]`):
            Metrics of the training, to which `time/PART` and `time/step` are added in seconds.
    """

    def __init__(self, metrics: dict[str, dict[str, list[float]]]) -> None:
        self._metrics = metrics
        self.spans: deque[Span] = deque()
        """Spans of the last steps."""
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._nested: list[float] = []
        """Seconds of inner parts, one entry for each part that is open."""
        self._step = 0
        self._began: float | None = None
        """When the present step began."""
        self._optimizer_began = 0.0

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """The block is a part of the present step; nothing is measured where the timeline is no callback."""
        if self._began is None:
            yield
            return
        start = time.monotonic()
        self._nested.append(0.0)
        try:
            yield
        finally:
            self._add(name, start)

    def add_execution(self, step: int, start_s: float, end_s: float) -> None:
        """Note the execution of the batch that a step trains on."""
        if self._began is None:
            return
        self.spans.append(Span(EXECUTION, step, start_s, end_s))
        self._seconds[EXECUTION] += end_s - start_s

    def _add(self, name: str, start: float) -> None:
        end = time.monotonic()
        self._seconds[name] += end - start - self._nested.pop()
        if self._nested:
            self._nested[-1] += end - start
        self.spans.append(Span(name, self._step, start, end))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin a step."""
        self._step, self._began = state.global_step, time.monotonic()
        self._seconds.clear()
        while self.spans and self.spans[0].step < self._step - KEPT_STEPS:
            self.spans.popleft()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin the optimiser's part."""
        self._optimizer_began = time.monotonic()
        self._nested.append(0.0)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the optimiser's part."""
        self._add(OPTIMIZER, self._optimizer_began)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log the step."""
        metrics = self._metrics["train"]
        for name in PARTS:
            metrics[f"time/{name}"].append(self._seconds[name])
        # Several steps may train on one batch.
        if EXECUTION in self._seconds:
            metrics[f"time/{EXECUTION}"].append(self._seconds[EXECUTION])
        metrics["time/step"].append(time.monotonic() - (self._began or 0.0))
