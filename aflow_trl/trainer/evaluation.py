"""Task accuracy on held-out problems, for a policy and for fixed workflows."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from accelerate.utils import gather_object

from ..data import Row
from ..rewards import Rollouts, ScoredRollout
from .workflow_grpo_trainer import WorkflowGRPOTrainer

T = TypeVar("T")
GENERATION_BATCH = 64
"""Prompts generated at once."""
Z_95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Task accuracy with its 95 % Wilson interval, and what it cost."""

    mean: float
    low: float
    high: float
    n: int
    """Problems that were scored."""
    unscored: int
    calls_per_problem: float
    usd_per_problem: float | None
    by_domain: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def accuracy(rollouts: Sequence[ScoredRollout]) -> Accuracy:
    """Accuracy of scored rollouts; unscored ones are counted apart, never as wrong."""
    scored = [rollout for rollout in rollouts if rollout.correctness is not None]
    right = sum(rollout.correct for rollout in scored)
    low, high = wilson_interval(right, len(scored))
    domains = sorted({rollout.domain for rollout in scored})
    own = {domain: [r.correct for r in scored if r.domain == domain] for domain in domains}
    costs = [rollout.trace.usd for rollout in scored]
    known = [cost for cost in costs if cost is not None]
    return Accuracy(
        mean=right / len(scored) if scored else float("nan"),
        low=low,
        high=high,
        n=len(scored),
        unscored=len(rollouts) - len(scored),
        calls_per_problem=sum(r.trace.model_calls for r in scored) / max(1, len(scored)),
        usd_per_problem=sum(known) / len(known) if known and len(known) == len(costs) else None,
        by_domain={domain: sum(values) / len(values) for domain, values in own.items()},
    )


def wilson_interval(successes: float, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion; (0, 1) if nothing was counted."""
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = p + Z_95**2 / (2 * n)
    spread = Z_95 * math.sqrt(p * (1 - p) / n + Z_95**2 / (4 * n**2))
    low, high = (centre - spread) / (1 + Z_95**2 / n), (centre + spread) / (1 + Z_95**2 / n)
    # Rounding may put an end on the wrong side of 0, 1 or the share itself.
    return min(p, max(0.0, low)), max(p, min(1.0, high))


@dataclass(frozen=True, slots=True)
class Mean:
    """Mean of independent values with its 95 % interval (normal approximation)."""

    mean: float
    low: float
    high: float
    n: int


def mean_interval(values: Sequence[float]) -> Mean:
    """Mean and 95 % interval; infinitely wide with fewer than two values."""
    count = len(values)
    mean = sum(values) / count if count else math.nan
    if count < 2:
        return Mean(mean, -math.inf, math.inf, count)
    half = Z_95 * math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1) / count)
    return Mean(mean, mean - half, mean + half, count)


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


def valid_share(rollouts: Sequence[ScoredRollout]) -> float:
    """Share of completions that are valid workflows."""
    return sum(rollout.trace.workflow is not None for rollout in rollouts) / len(rollouts)


def workflow_counts(rollouts: Sequence[ScoredRollout]) -> dict[str, dict[str, int]]:
    """How often each domain got each workflow, most frequent first."""
    counts: dict[str, Counter[str]] = {}
    for rollout in rollouts:
        name = rollout.trace.workflow or f"({rollout.trace.label})"
        counts.setdefault(rollout.domain, Counter())[name] += 1
    return {domain: dict(counter.most_common()) for domain, counter in sorted(counts.items())}
