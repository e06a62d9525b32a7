"""
Successive halving over workflows (arXiv 1502.07943), by live execution under a budget of model calls.

Every round runs the workflows that are left on further problems, all of them on the same ones with the same executor
randomness, and keeps the better half. Groups of problems are searched side by side.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from .settings import Candidate, Group

CHUNK_ROWS = 4
"""Problems between two looks at the budget."""
WEIGHT_SCALE = 0.02
"""Difference in accuracy over which the weight of a winner falls by e."""


@dataclass(frozen=True, slots=True)
class EvalRequest:
    """One run of a workflow on a problem."""

    group: Group
    row: int
    """Index among the group's problems."""
    workflow: str


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a job."""

    correctness: float | None
    """`None` if the infrastructure failed."""
    calls: int
    """Model calls used."""
    paid: int
    """Model calls made for it; the others were shared."""


Measure = Callable[[Sequence[EvalRequest]], Awaitable[Sequence[Run]]]
"""From jobs to their runs, in order."""


class HalvingSearch:
    """
    The search in one group of problems.

    Args:
        group ([`Group`]):
            The group.
        rows (`int`):
            Number of its problems.
        candidates (`Mapping[str, int]`):
            Workflows with the most model calls one run of each can make.
        budget (`int`):
            Most model calls; it is never exceeded.
        winners (`int`):
            Workflows to end with.
        seed (`int`):
            Of the choice of candidates where the budget is too small for all of them.
    """

    def __init__(
        self, group: Group, rows: int, candidates: Mapping[str, int], budget: int, winners: int, seed: int
    ) -> None:
        self.group, self.rows, self.budget, self.winners = group, rows, budget, winners
        self.worst = dict(candidates)
        names = list(candidates)
        random.Random(seed).shuffle(names)
        # One problem has to be affordable for every workflow; shared calls leave the rest to tell the best ones apart.
        while sum(self.worst[name] for name in names) > budget and len(names) > 1:
            names.pop()
        self.arms = [Candidate(name) for name in names]
        self.tried = len(names)
        self.paid = 0
        self._row = 0
        self._rounds_left = max(1, math.ceil(math.log2(max(1.0, len(names) / winners)))) + 1
        self._begin_round()

    def next_jobs(self) -> list[EvalRequest]:
        """Jobs of the next chunk of problems; empty when the search has ended."""
        while self._rounds_left:
            count = min(CHUNK_ROWS, self.rows - self._row, self._affordable())
            if self._round_paid < self._quota and count > 0:
                return [
                    EvalRequest(self.group, row, arm.workflow)
                    for row in range(self._row, self._row + count)
                    for arm in self.arms
                ]
            self._end_round()
        return []

    def record(self, jobs: Sequence[EvalRequest], runs: Sequence[Run]) -> None:
        """Results of [`next_jobs`]."""
        arms = {arm.workflow: arm for arm in self.arms}
        for job, run in zip(jobs, runs, strict=True):
            arm = arms[job.workflow]
            self.paid += run.paid
            self._round_paid += run.paid
            if run.correctness is not None:
                arm.right += run.correctness
                arm.scored += 1
                arm.calls += run.calls
        self._row = 1 + max(job.row for job in jobs)

    @property
    def best(self) -> list[Candidate]:
        """The winners, best first, with weights that sum to 1."""
        own = [arm for arm in self._ranked()[: self.winners] if arm.scored]
        raw = [math.exp((arm.accuracy - own[0].accuracy) / WEIGHT_SCALE) for arm in own]
        for arm, weight in zip(own, raw, strict=True):
            arm.weight = weight / sum(raw)
        return own

    def _ranked(self) -> list[Candidate]:
        return sorted(self.arms, key=lambda arm: (-arm.accuracy, arm.calls_per_problem, arm.workflow))

    def _affordable(self) -> int:
        return (self.budget - self.paid) // max(1, sum(self.worst[arm.workflow] for arm in self.arms))

    def _begin_round(self) -> None:
        self._quota = (self.budget - self.paid) / max(1, self._rounds_left)
        self._round_paid = 0

    def _end_round(self) -> None:
        self._rounds_left -= 1
        if self._rounds_left:
            self.arms = self._ranked()[: max(self.winners, math.ceil(len(self.arms) / 2))]
            self._begin_round()


async def successive_halving(contests: Sequence[HalvingSearch], measure: Measure) -> None:
    """
    Run all contests to their ends, a chunk of each at a time.

    Args:
        contests (`Sequence[HalvingSearch]`):
            Their `best` are the winners.
        measure (`Callable`):
            Runs jobs.
    """
    while True:
        waves = [(contest, jobs) for contest in contests if (jobs := contest.next_jobs())]
        if not waves:
            return
        runs = list(await measure([job for _, jobs in waves for job in jobs]))
        start = 0
        for contest, jobs in waves:
            contest.record(jobs, runs[start : start + len(jobs)])
            start += len(jobs)
