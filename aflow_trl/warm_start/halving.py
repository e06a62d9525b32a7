"""
Successive halving over workflows (arXiv 1502.07943), by live execution under a budget of model calls.

Every round runs the remaining workflows on further problems, all of them on the same ones with the same executor
randomness, and keeps the better half. Groups of problems are searched side by side.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from .types import Candidate, EvalRequest, EvalResult, Group

CHUNK_ROWS = 4
"""Number of problems that are run between two checks of the budget."""
WEIGHT_SCALE = 0.02
"""Difference in accuracy over which the weight of a winner falls by a factor of e."""

Measure = Callable[[Sequence[EvalRequest]], Awaitable[Sequence[EvalResult]]]
"""Runs requests and returns their results, in order."""


class HalvingSearch:
    """
    Successive halving in one group of problems. It asks for runs and takes their results, but runs nothing.

    Args:
        group ([`Group`]):
            Group of problems.
        rows (`int`):
            Number of problems in the group.
        max_calls_by_workflow (`Mapping[str, int]`):
            Candidate workflows, with the maximum number of model calls per run.
        budget (`int`):
            Maximum number of model calls, which is never exceeded.
        winners (`int`):
            Number of workflows that win.
        seed (`int`):
            Seed of the choice of candidates where the budget is too small for all of them.
        protected (`Collection[str]`, *optional*):
            Candidates that are dropped last where the budget is too small for all, because the user named them.
    """

    def __init__(
        self,
        group: Group,
        rows: int,
        max_calls_by_workflow: Mapping[str, int],
        budget: int,
        winners: int,
        seed: int,
        protected: Collection[str] = (),
    ) -> None:
        self.group, self.rows, self.budget, self.winners = group, rows, budget, winners
        self.max_calls = dict(max_calls_by_workflow)
        names = list(max_calls_by_workflow)
        random.Random(seed).shuffle(names)
        names.sort(key=lambda name: name not in protected)
        # One problem has to be affordable for every candidate in the worst case, in which no call is shared. The calls
        # that sharing saves go to later rounds, which separate the best candidates.
        while sum(self.max_calls[name] for name in names) > budget and len(names) > 1:
            names.pop()
        self.candidates = [Candidate(name) for name in names]
        self.tried = len(names)
        self.paid = 0
        self._row = 0
        # Halvings until only the winners remain, and a last round among them.
        self._remaining_rounds = max(1, math.ceil(math.log2(max(1.0, len(names) / winners)))) + 1
        self._begin_round()

    def next_requests(self) -> list[EvalRequest]:
        """Requests for the next chunk of problems; empty when the search is finished."""
        while self._remaining_rounds:
            count = min(CHUNK_ROWS, self.rows - self._row, self._affordable_rows())
            if self._round_paid < self._round_budget and count > 0:
                return [
                    EvalRequest(self.group, row, candidate.workflow)
                    for row in range(self._row, self._row + count)
                    for candidate in self.candidates
                ]
            self._end_round()
        return []

    def record(self, requests: Sequence[EvalRequest], results: Sequence[EvalResult]) -> None:
        """Add the results of the requests that [`next_requests`] returned."""
        candidates = {candidate.workflow: candidate for candidate in self.candidates}
        for request, result in zip(requests, results, strict=True):
            candidate = candidates[request.workflow]
            self.paid += result.paid
            self._round_paid += result.paid
            # Unscored runs cost calls but say nothing about the workflow.
            if result.correctness is not None:
                candidate.right += result.correctness
                candidate.scored += 1
                candidate.calls += result.calls
        self._row = 1 + max(request.row for request in requests)

    @property
    def best(self) -> list[Candidate]:
        """The winners, best first, with weights that sum to 1; fewer where too few were scored."""
        winners = [candidate for candidate in self._ranked()[: self.winners] if candidate.scored]
        weights = [math.exp((winner.accuracy - winners[0].accuracy) / WEIGHT_SCALE) for winner in winners]
        for winner, weight in zip(winners, weights, strict=True):
            winner.weight = weight / sum(weights)
        return winners

    def _ranked(self) -> list[Candidate]:
        return sorted(self.candidates, key=lambda item: (-item.accuracy, item.calls_per_problem, item.workflow))

    def _affordable_rows(self) -> int:
        worst_case = sum(self.max_calls[candidate.workflow] for candidate in self.candidates)
        return (self.budget - self.paid) // max(1, worst_case)

    def _begin_round(self) -> None:
        self._round_budget = (self.budget - self.paid) / max(1, self._remaining_rounds)
        self._round_paid = 0

    def _end_round(self) -> None:
        self._remaining_rounds -= 1
        if self._remaining_rounds:
            self.candidates = self._ranked()[: max(self.winners, math.ceil(len(self.candidates) / 2))]
            self._begin_round()


async def successive_halving(searches: Sequence[HalvingSearch], measure: Measure) -> None:
    """
    Run searches to the end, one chunk of each at a time, so that their runs are executed concurrently.

    Args:
        searches (`Sequence[HalvingSearch]`):
            Searches. Afterwards `best` of each holds its winners.
        measure (`Callable`):
            Runs requests; see [`Measure`].
    """
    while True:
        waves = [(search, requests) for search in searches if (requests := search.next_requests())]
        if not waves:
            return
        results = list(await measure([request for _, requests in waves for request in requests]))
        start = 0
        for search, requests in waves:
            search.record(requests, results[start : start + len(requests)])
            start += len(requests)
