"""Task accuracy on held-out problems, for a policy and for fixed workflows."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from accelerate.utils import gather_object

from ..data import Row
from ..engine import RolloutRequest
from ..operators import Problem
from ..rewards import Rollouts, ScoredRollout
from .workflow_grpo_trainer import WorkflowGRPOTrainer

T = TypeVar("T")
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


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion; (0, 1) if nothing was counted."""
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = p + Z_95**2 / (2 * n)
    spread = Z_95 * math.sqrt(p * (1 - p) / n + Z_95**2 / (4 * n**2))
    return max(0.0, (centre - spread) / (1 + Z_95**2 / n)), min(1.0, (centre + spread) / (1 + Z_95**2 / n))


async def evaluate_workflows(
    rollouts: Rollouts, rows: Sequence[Row], workflows: Sequence[str], *, salt: str
) -> list[ScoredRollout]:
    """
    Run one workflow (or completion) a row and score it.

    Args:
        rollouts ([`~aflow_trl.rewards.Rollouts`]):
            Engine and scoring.
        rows (`Sequence[Row]`):
            Held-out problems.
        workflows (`Sequence[str]`):
            A workflow or a completion for each.
        salt (`str`):
            Sets the executor's randomness apart from training.

    Returns:
        `list[ScoredRollout]`: In the order of the rows.
    """
    requests = [
        RolloutRequest(
            workflow, Problem(row.question, row.domain, row.context, row.entry_point or None, row.public_tests)
        )
        for workflow, row in zip(workflows, rows, strict=True)
    ]
    traces = await rollouts.engine.run(requests, salt=salt)
    return await rollouts.score(traces, [row.columns() for row in rows])


def generate_completions(trainer: WorkflowGRPOTrainer, prompts: Sequence[Any], batch_size: int) -> list[str]:
    """
    Completions of the current policy, sampled as in training, in eval mode; the work is split over the processes.

    Args:
        trainer ([`WorkflowGRPOTrainer`]):
            Trainer that holds the policy.
        prompts (`Sequence`):
            Conversational prompts.
        batch_size (`int`):
            Prompts generated at once.

    Returns:
        `list[str]`: One completion for each prompt, on every process.
    """
    world, rank = trainer.accelerator.num_processes, trainer.accelerator.process_index
    share = -(-len(prompts) // world)
    # Every process generates equally often, or collective operations would wait for ever.
    own = [prompts[min(index, len(prompts) - 1)] for index in range(rank * share, (rank + 1) * share)]
    was_training = trainer.model.training
    trainer.model.eval()
    texts: list[str] = []
    for start in range(0, share, batch_size):
        completions = trainer._generate(own[start : start + batch_size])[3]
        texts += [completion[-1]["content"] for completion in completions]
    trainer._metrics["eval"].clear()
    trainer.model.train(was_training)
    return list(gather_object(texts))[: len(prompts)]


def run_async(trainer: WorkflowGRPOTrainer, work: Coroutine[Any, Any, T]) -> T:
    """Run on the event loop the trainer's reward functions use, so that clients and workers are shared."""
    return asyncio.run_coroutine_threadsafe(work, trainer.async_loop).result()


def workflow_counts(rollouts: Sequence[ScoredRollout]) -> dict[str, dict[str, int]]:
    """How often each domain got each workflow, most frequent first."""
    counts: dict[str, Counter[str]] = {}
    for rollout in rollouts:
        name = rollout.trace.workflow or f"({rollout.trace.label})"
        counts.setdefault(rollout.domain, Counter())[name] += 1
    return {domain: dict(counter.most_common()) for domain, counter in sorted(counts.items())}
