"""Expected time of a step, and the lag of the rollouts that pays: from its execution and the profile of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import RecipeError
from ..trainer import ROLLOUT_LAGS, WAITING

MIN_GAIN = 1.1
"""Least speed-up for which rollouts that lag, which are older than the policy, are recommended."""
NEARLY = 1.05
"""A shorter lag is preferred to one that is faster by less than this factor."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a step."""

    execution_s: float
    """Execution of a batch."""
    trainer_s: float
    """Everything else: generation, log-probabilities, loss, optimiser, guard."""

    def at(self, lag: int) -> float:
        """
        Seconds of a step whose rollouts lag by so many batches.

        The batch that is `lag` ahead is generated before the one that is due is awaited, so that an execution has
        `lag` whole steps and the wait of its own: E = lag * step + (step - trainer). A step is at least the trainer.
        """
        return max((self.execution_s + self.trainer_s) / (lag + 1), self.trainer_s)

    @property
    def best_lag(self) -> int:
        """The shortest lag that is worth it; 0 where the executor is cheap."""
        fastest = min(map(self.at, ROLLOUT_LAGS))
        lag = next(lag for lag in ROLLOUT_LAGS if self.at(lag) <= NEARLY * fastest)
        return lag if self.at(0) >= MIN_GAIN * self.at(lag) else 0


def trainer_seconds(output_dir: Path) -> float:
    """
    Seconds of a step of an earlier run without what it waited for the executor.

    Raises:
        [`RecipeError`]: The folder holds no summary with the profile of a run.
    """
    path = output_dir / "summary.json"
    try:
        seconds: Mapping[str, float] = json.loads(path.read_text(encoding="utf-8"))["seconds"]
        return seconds["step"] - seconds[WAITING]
    except (OSError, ValueError, KeyError):
        raise RecipeError(
            f"{path} holds no profile of a run. Name the output folder of a finished training of the same policy, "
            "batch and machine."
        ) from None
