"""Reward of an improved workflow: how many more problems it solves than the current one, measured during training."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..rollouts import (
    DOMAIN_COLUMN,
    PROGRESS_COLUMN,
    RolloutBatch,
    Rollouts,
    RowColumns,
    ScoredRollout,
    batch_metrics,
    completion_text,
)
from . import values
from .binding import RewardBinding, RewardFunction, bind

IMPROVE_WEIGHTS = {"improvement_reward": 1.0, "format_reward": 0.05}
"""Reward functions of `task: improve` with their default weights; the first is primary."""


@dataclass(frozen=True, slots=True)
class Gain:
    """A new workflow and the current one on the same problems, with the same executor randomness."""

    new: Sequence[ScoredRollout]
    current: Sequence[ScoredRollout]

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """Correctness of the new and of the current workflow on every problem that both were scored on."""
        both = ((a.correctness, b.correctness) for a, b in zip(self.new, self.current, strict=True))
        return [(new, current) for new, current in both if new is not None and current is not None]

    @property
    def value(self) -> float | None:
        """Mean correctness of the new workflow minus that of the current one; `None` if nothing was scored."""
        pairs = self.pairs
        return sum(new - current for new, current in pairs) / len(pairs) if pairs else None


class Improvements:
    """
    Measures new workflows against current ones.

    Args:
        rollouts ([`~aflow_trl.rollouts.Rollouts`]):
            Engine, scoring, ledger and traces.
        problems (`Mapping[str, Sequence[Mapping[str, Any]]]`):
            Rows to measure on, by domain.
        problems_per_gain (`int`):
            Number of problems that a gain is measured on: the same ones for all workflows of a domain in a step.
        reward_scale (`float`, *optional*, defaults to `10.0`):
            Reward of a gain of 1.
        reward_clip (`float`, *optional*, defaults to `5.0`):
            Largest absolute reward.
    """

    def __init__(
        self,
        rollouts: Rollouts,
        problems: Mapping[str, Sequence[RowColumns]],
        problems_per_gain: int,
        *,
        reward_scale: float = 10.0,
        reward_clip: float = 5.0,
    ) -> None:
        self.rollouts, self.problems, self.problems_per_gain = rollouts, problems, problems_per_gain
        self.reward_scale, self.reward_clip = reward_scale, reward_clip
        self._pending: tuple[object, asyncio.Task[list[Gain]]] | None = None

    def reward(self, gain: float | None) -> float | None:
        """`clamp(reward_scale * gain, ± reward_clip)`; `None` if the gain is unknown."""
        if gain is None:
            return None
        return max(-self.reward_clip, min(self.reward_clip, self.reward_scale * gain))

    async def measure(
        self,
        texts: Sequence[str],
        domains: Sequence[str],
        current: Sequence[str],
        *,
        draws: Sequence[str] | None = None,
        salt: str,
        phase: str,
        step: int,
        batch: int | None = None,
    ) -> list[Gain]:
        """
        Run every new workflow and the current one on the same problems.

        Args:
            texts (`Sequence[str]`):
                Completions.
            domains (`Sequence[str]`):
                Domain of each.
            current (`Sequence[str]`):
                Canonical current workflow of each.
            draws (`Sequence[str]`, *optional*):
                Name of the sample of problems that each is measured on. Defaults to one sample for a whole domain, so
                that equal calls are shared; an evaluation, whose gains have to be independent, names one for each.
            salt (`str`):
                Draws the problems, and sets the executor's randomness apart from that of other batches.
            phase (`str`):
                What the batch is for; part of its traces.
            step (`int`):
                Optimiser step; part of its traces.
            batch (`int`, *optional*):
                Number of the batch; part of its traces.

        Returns:
            `list[Gain]`: In order. A new workflow equal to the current one shares its rollouts: its gain is exactly 0.
        """
        pools = list(zip(domains, draws or [""] * len(domains), strict=True))
        sampled = {pool: self._sample(*pool, salt) for pool in dict.fromkeys(pools)}
        engine = self.rollouts.engine
        keys: list[tuple[tuple[str, str], str]] = []
        for text, pool, workflow in zip(texts, pools, current, strict=True):
            keys += [(pool, workflow if engine.canonical(text) == workflow else text), (pool, workflow)]
        jobs = list(dict.fromkeys(keys))
        rollouts = await self.rollouts.execute(
            [text for pool, text in jobs for _ in sampled[pool]],
            [row for pool, _ in jobs for row in sampled[pool]],
            salt=salt,
            phase=phase,
            step=step,
            batch=batch,
        )
        by_job: dict[tuple[tuple[str, str], str], list[ScoredRollout]] = {}
        start = 0
        for job in jobs:
            stop = start + len(sampled[job[0]])
            by_job[job], start = rollouts[start:stop], stop
        return [Gain(by_job[new], by_job[old]) for new, old in zip(keys[::2], keys[1::2], strict=True)]

    def _sample(self, domain: str, draw: str, salt: str) -> list[RowColumns]:
        pool = self.problems[domain]
        rng = random.Random(f"{salt} {domain} {draw}")
        return rng.sample(list(pool), min(self.problems_per_gain, len(pool)))

    async def gains(self, completions: Sequence[Any], columns: Mapping[str, Any]) -> list[Gain]:
        """Gains of a training batch, measured at the first call and shared by all reward functions."""
        if self._pending is None or self._pending[0] is not completions:
            self._pending = (completions, asyncio.ensure_future(self._measure_batch(completions, columns)))
        return await self._pending[1]

    async def _measure_batch(self, completions: Sequence[Any], columns: Mapping[str, Any]) -> list[Gain]:
        rollouts, loop = self.rollouts, asyncio.get_running_loop()
        state = columns.get("trainer_state")
        step = state.global_step if state is not None else rollouts.batches
        started = loop.time()
        gains = await self.measure(
            [completion_text(completion) for completion in completions],
            columns["domain"],
            columns["parent_workflow"],
            salt=f"{rollouts.seed} {step}",
            phase="improve",
            step=step,
            batch=rollouts.begin_batch(),
        )
        rollouts.count_batch(step, sum(gain.value is None for gain in gains), len(gains))
        self._log(gains, columns, step, loop.time() - started)
        return gains

    def _log(self, gains: Sequence[Gain], columns: Mapping[str, Any], step: int, wall_s: float) -> None:
        if (log_extra := columns.get("log_extra")) is not None:
            for name, cells in gain_columns(gains).items():
                log_extra(name, cells)
        if (log_metric := columns.get("log_metric")) is not None:
            # Several rollouts belong to one completion, so the metrics cannot be computed from gathered columns.
            new = tuple(rollout for gain in gains for rollout in gain.new)
            batch = RolloutBatch(new, step, wall_s, self.rollouts.engine.concurrency)
            for name, value in batch_metrics(batch).items():
                log_metric(name, value)
            measured = [gain.value for gain in gains if gain.value is not None]
            if measured:
                log_metric("gain/mean", sum(measured) / len(measured))

    async def score_probe(
        self, texts: Sequence[str], rows: Sequence[RowColumns], *, seed: int, step: int
    ) -> dict[str, list[bool]]:
        """Whether completions of a probe are valid workflows; their gain would cost too much to measure."""
        return {"valid": [self.rollouts.engine.canonical(text) is not None for text in texts]}


def gain_columns(gains: Sequence[Gain]) -> dict[str, list[Any]]:
    """Columns of the completions table, one value for each completion."""
    return {
        "rollout/workflow": [gain.new[0].trace.workflow or "" for gain in gains],
        "rollout/outcome": [gain.new[0].trace.outcome.value for gain in gains],
        "rollout/gain": [gain.value for gain in gains],
        "rollout/model_calls": [
            sum(rollout.trace.model_calls for rollout in gain.new) / len(gain.new) for gain in gains
        ],
        PROGRESS_COLUMN: [sum(rollout.progress for rollout in gain.new) / len(gain.new) for gain in gains],
        DOMAIN_COLUMN: [gain.new[0].domain for gain in gains],
    }


def improvement_rewards(improvements: Improvements, names: Sequence[str]) -> list[RewardFunction]:
    """
    Reward functions of `task: improve`, bound to one measurement.

    Args:
        improvements ([`Improvements`]):
            Measures gains.
        names (`Sequence[str]`):
            Which of [`IMPROVE_WEIGHTS`], in which order.

    Returns:
        `list[Callable]`: Async functions `f(prompts, completions, **columns) -> list[float | None]`. The dataset needs
        the columns `domain` and `parent_workflow`; a column of gains measured earlier is never read.
    """

    async def improvement_reward(
        prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        return [improvements.reward(gain.value) for gain in await improvements.gains(completions, columns)]

    async def format_reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        gains = await improvements.gains(completions, columns)
        return [None if gain.value is None else values.format_quality(gain.new[0]) for gain in gains]

    functions: dict[str, RewardFunction] = {"improvement_reward": improvement_reward, "format_reward": format_reward}
    return [
        bind(
            functions[name],
            name,
            RewardBinding(
                improvements.rollouts, improvements.score_probe, IMPROVE_WEIGHTS[name], ("domain", "parent_workflow")
            ),
        )
        for name in names
    ]
