"""Reward of a changed workflow: how many more problems it solves than the one it came from, measured on the spot."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..rollouts import TASKS, Rollouts, ScoredRollout, batch_metrics, completion_text
from . import values

IMPROVE_WEIGHTS = {"improvement_reward": 1.0, "format_reward": 0.05}
"""Reward functions of `task: improve` with their default weights; the first is primary."""

RewardFunction: TypeAlias = Callable[..., Coroutine[Any, Any, list[float | None]]]


@dataclass(frozen=True, slots=True)
class Gain:
    """A new workflow beside the one it came from, on the same problems with the same executor randomness."""

    new: Sequence[ScoredRollout]
    current: Sequence[ScoredRollout]

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """Correctness of both on every problem that both were scored on."""
        both = ((a.correctness, b.correctness) for a, b in zip(self.new, self.current, strict=True))
        return [(new, current) for new, current in both if new is not None and current is not None]

    @property
    def value(self) -> float | None:
        """Mean correctness of the new one minus that of the current one; `None` if nothing was scored."""
        pairs = self.pairs
        return sum(new - current for new, current in pairs) / len(pairs) if pairs else None


class Improvements:
    """
    Measures new workflows against the current ones.

    Args:
        rollouts ([`Rollouts`]):
            Engine, scoring, ledger and traces.
        problems (`Mapping[str, Sequence[dict[str, Any]]]`):
            Rows to measure on, by domain.
        per_gain (`int`):
            Problems a gain is measured on: the same for all workflows of a domain in a step.
        reward_scale (`float`, *optional*, defaults to `10.0`):
            Reward of a gain of 1.
        reward_clip (`float`, *optional*, defaults to `5.0`):
            Largest absolute reward.
    """

    def __init__(
        self,
        rollouts: Rollouts,
        problems: Mapping[str, Sequence[dict[str, Any]]],
        per_gain: int,
        *,
        reward_scale: float = 10.0,
        reward_clip: float = 5.0,
    ) -> None:
        self.rollouts, self.problems, self.per_gain = rollouts, problems, per_gain
        self.reward_scale, self.reward_clip = reward_scale, reward_clip
        self._batch: tuple[object, asyncio.Task[list[Gain]]] | None = None

    def reward(self, gain: float | None) -> float | None:
        """`clamp(reward_scale * gain, ± reward_clip)`."""
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
    ) -> list[Gain]:
        """
        Run every new workflow and the one it came from on the same problems.

        Args:
            texts (`Sequence[str]`):
                Completions.
            domains (`Sequence[str]`):
                Domain of each.
            current (`Sequence[str]`):
                Canonical workflow each came from.
            draws (`Sequence[str]`, *optional*):
                Equal ones are measured on equal problems. Defaults to the same problems for a whole domain, so that
                equal calls are made once; an evaluation, whose gains are to be independent, draws for each by itself.
            salt (`str`):
                Draws the problems, and sets the executor's randomness apart from other batches'.
            phase (`str`):
                What the batch is for; stands in its traces.
            step (`int`):
                Optimiser step; stands in its traces.

        Returns:
            `list[Gain]`: In order. A workflow that is the current one shares its rollouts: its gain is exactly 0.
        """
        pools = list(zip(domains, draws or [""] * len(domains), strict=True))
        drawn = {pool: self._draw(*pool, salt) for pool in dict.fromkeys(pools)}
        engine = self.rollouts.engine
        keys: list[tuple[tuple[str, str], str]] = []
        for text, pool, own in zip(texts, pools, current, strict=True):
            keys += [(pool, own if engine.canonical(text) == own else text), (pool, own)]
        jobs = list(dict.fromkeys(keys))
        rollouts = await self.rollouts.execute(
            [text for pool, text in jobs for _ in drawn[pool]],
            [row for pool, _ in jobs for row in drawn[pool]],
            salt=salt,
            phase=phase,
            step=step,
        )
        ended: dict[tuple[tuple[str, str], str], list[ScoredRollout]] = {}
        at = 0
        for job in jobs:
            size = len(drawn[job[0]])
            ended[job], at = rollouts[at : at + size], at + size
        return [Gain(ended[new], ended[old]) for new, old in zip(keys[::2], keys[1::2], strict=True)]

    def _draw(self, domain: str, draw: str, salt: str) -> list[dict[str, Any]]:
        pool = self.problems[domain]
        return random.Random(f"{salt} {domain} {draw}").sample(list(pool), min(self.per_gain, len(pool)))

    async def gains(self, completions: Sequence[Any], columns: dict[str, Any]) -> list[Gain]:
        """Gains of a training batch, measured at the first call and shared by all reward functions."""
        if self._batch is None or self._batch[0] is not completions:
            self._batch = (completions, asyncio.ensure_future(self._gains(completions, columns)))
        return await self._batch[1]

    async def _gains(self, completions: Sequence[Any], columns: dict[str, Any]) -> list[Gain]:
        own, loop = self.rollouts, asyncio.get_running_loop()
        state = columns.get("trainer_state")
        step = state.global_step if state is not None else own.batches
        started = loop.time()
        gains = await self.measure(
            [completion_text(completion) for completion in completions],
            columns["domain"],
            columns["parent_workflow"],
            salt=f"{own.seed} {step}",
            phase="improve",
            step=step,
        )
        own.last_batch = (sum(gain.value is None for gain in gains), len(gains))
        own.batches += 1
        self._report(gains, columns, loop.time() - started)
        return gains

    def _report(self, gains: Sequence[Gain], columns: dict[str, Any], wall_s: float) -> None:
        if (log_extra := columns.get("log_extra")) is not None:
            for name, cells in gain_columns(gains).items():
                log_extra(name, cells)
        if (log_metric := columns.get("log_metric")) is not None:
            for name, value in batch_metrics([one for gain in gains for one in gain.new], wall_s).items():
                log_metric(name, value)
            known = [gain.value for gain in gains if gain.value is not None]
            if known:
                log_metric("gain/mean", sum(known) / len(known))


def gain_columns(gains: Sequence[Gain]) -> dict[str, list[Any]]:
    """One value a completion; the trainer reads `progress` and `task`."""
    return {
        "workflow": [gain.new[0].trace.workflow or "" for gain in gains],
        "outcome": [gain.new[0].trace.outcome.value for gain in gains],
        "gain": [gain.value for gain in gains],
        "model_calls": [sum(one.trace.model_calls for one in gain.new) / len(gain.new) for gain in gains],
        "progress": [sum(one.progress for one in gain.new) / len(gain.new) for gain in gains],
        "task": [TASKS.index(gain.new[0].domain) for gain in gains],
    }


def improvement_rewards(improvements: Improvements, names: Sequence[str]) -> list[RewardFunction]:
    """
    Reward functions of `task: improve`, bound to one measurement.

    Args:
        improvements ([`Improvements`]):
            What measures.
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

    known = {"improvement_reward": improvement_reward, "format_reward": format_reward}
    return [known[name] for name in names]
