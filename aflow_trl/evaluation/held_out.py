"""Evaluation inside a training run, of the current policy and of fixed workflows on held-out problems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accelerate.utils import gather_object

from ..data import Row
from ..rollouts import Rollouts, ScoredRollout
from ..trainer import WorkflowGRPOTrainer


class HeldOutEvaluator:
    """
    Runs the policy of a trainer and fixed workflows on held-out problems. The work is split over the processes.

    Args:
        trainer ([`~aflow_trl.WorkflowGRPOTrainer`]):
            Trainer that holds the policy and the event loop of the reward functions.
        rollouts ([`~aflow_trl.rollouts.Rollouts`]):
            Engine and scoring.
        rows (`Sequence[Row]`):
            Held-out problems.
        prompts (`Sequence`):
            Prompt of each problem, as in training.
        seed (`int`):
            Seed of the policy's sampling and of the executor's randomness; training never uses either.
    """

    def __init__(
        self,
        trainer: WorkflowGRPOTrainer,
        rollouts: Rollouts,
        rows: Sequence[Row],
        prompts: Sequence[Any],
        *,
        seed: int,
    ) -> None:
        self.trainer, self.rollouts, self.rows, self.prompts, self.seed = trainer, rollouts, rows, prompts, seed

    def policy(self, phase: str) -> list[ScoredRollout]:
        """Rollouts of the current policy, one per problem, sampled as in training; `phase` labels their traces."""
        return self.run(self.trainer.sample(self.prompts, seed=self.seed), phase)

    def workflow(self, text: str) -> list[ScoredRollout]:
        """Rollouts of a fixed workflow, one per problem; the workflow labels their traces."""
        return self.run([text] * len(self.trainer.local_share(self.rows)), text)

    def run(self, texts: Sequence[str], phase: str) -> list[ScoredRollout]:
        """
        Execute completions, and gather the rollouts of all processes.

        Args:
            texts (`Sequence[str]`):
                Completions for this process's share of the problems; further ones are ignored.
            phase (`str`):
                Label of the traces.

        Returns:
            `list[ScoredRollout]`: One per problem, in order, the same on every process.

        Raises:
            [`FatalEndpointError`]: The executor can serve no further call; raised on every process.
        """
        share = self.trainer.local_share(list(enumerate(self.rows)))
        # The same executor randomness in every phase, so that differences are due to the policy.
        rollouts = self.trainer.run_async(
            self.rollouts.execute(
                texts[: len(share)],
                [row.columns() for _, row in share],
                salt=f"{self.seed} evaluation",
                phase=phase,
                step=self.trainer.state.global_step,
            )
        )
        # Shares interleave, so the problems are numbered and sorted again.
        gathered = gather_object([(index, rollout) for (index, _), rollout in zip(share, rollouts, strict=True)])
        self.trainer.raise_fatal()
        return [rollout for _, rollout in sorted(gathered, key=lambda pair: pair[0])]
