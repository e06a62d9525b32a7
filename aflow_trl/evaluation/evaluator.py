"""Task accuracy on held-out problems, for a policy and for fixed workflows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from accelerate.utils import gather_object

from ..data import Row
from ..rollouts import Rollouts, ScoredRollout
from ..trainer import WorkflowGRPOTrainer

T = TypeVar("T")
GENERATION_BATCH = 64
"""Prompts generated at once."""
Z_95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""


class Evaluator:
    """
    Runs policies and fixed workflows on held-out problems. The work is split over the processes.

    Args:
        trainer ([`WorkflowGRPOTrainer`]):
            Trainer that holds the policy and the event loop of the reward functions.
        rollouts ([`~aflow_trl.rewards.Rollouts`]):
            Engine and scoring.
        rows (`Sequence[Row]`):
            Held-out problems.
        prompts (`Sequence`):
            Their conversational prompts.
        seed (`int`):
            Seed of the policy's sampling and of the executor's randomness, apart from training's.
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
        """Scored rollouts of the current policy, one a problem, sampled as in training; `phase` names their traces."""
        return self.run(sample_policy(self.trainer, self.prompts, seed=self.seed), phase)

    def workflow(self, text: str) -> list[ScoredRollout]:
        """Scored rollouts of one fixed workflow."""
        return self.run([text] * len(share_of(self.trainer, self.rows)), text)

    def run(self, texts: Sequence[str], phase: str) -> list[ScoredRollout]:
        """Scored rollouts of all processes, one a problem, from the completions of this process's share."""
        own = share_of(self.trainer, list(enumerate(self.rows)))
        # All phases meet the same executor randomness, which training never meets.
        work = self.rollouts.execute(
            texts[: len(own)],
            [row.columns() for _, row in own],
            salt=f"{self.seed} evaluation",
            phase=phase,
            step=self.trainer.state.global_step,
        )
        rollouts = asyncio.run_coroutine_threadsafe(work, self.trainer.async_loop).result()
        gathered = gather_object([(index, rollout) for (index, _), rollout in zip(own, rollouts, strict=True)])
        # Every process learns of it, or the others would wait for ever.
        for fatal in gather_object([self.rollouts.engine.fatal]):
            if fatal is not None:
                raise fatal
        return [rollout for _, rollout in sorted(gathered, key=lambda pair: pair[0])]


def share_of(trainer: WorkflowGRPOTrainer, items: Sequence[T]) -> list[T]:
    """This process's share of something there is one of a problem."""
    accelerator = trainer.accelerator
    return list(items[accelerator.process_index :: accelerator.num_processes])


def sample_policy(trainer: WorkflowGRPOTrainer, prompts: Sequence[Any], *, seed: int) -> list[str]:
    """
    Completions for this process's share of prompts, sampled in eval mode from a fixed seed.

    Args:
        trainer ([`WorkflowGRPOTrainer`]):
            Trainer that holds the policy.
        prompts (`Sequence`):
            Conversational prompts of all processes.
        seed (`int`):
            Seed of the sampling.

    Returns:
        `list[str]`: Completions of the share, with up to one more where others have more; use [`share_of`].
    """
    own = share_of(trainer, prompts)
    # Every process generates equally often, or collective operations would wait for ever.
    share = -(-len(prompts) // trainer.accelerator.num_processes)
    own += list(prompts[: share - len(own)])
    was_training = trainer.model.training
    trainer.model.eval()
    texts: list[str] = []
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        for start in range(0, share, GENERATION_BATCH):
            completions = trainer._generate(own[start : start + GENERATION_BATCH])[3]
            texts += [completion[-1]["content"] for completion in completions]
    trainer._metrics["eval"].clear()
    trainer.model.train(was_training)
    return texts
