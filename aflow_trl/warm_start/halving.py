"""
Successive halving over workflows (arXiv 1502.07943), by live execution under a budget of model calls.

Every round runs the remaining workflows on further problems, all of them on the same ones with the same executor
randomness, and keeps the better half. Groups of problems are searched side by side.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial

from .types import Candidate, EvalRequest, EvalResult, Group

CHUNK_ROWS = 4
"""Number of problems that are run between two checks of the budget."""
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
        unit (`str`, *optional*, defaults to `"model_calls"`):
            Cost that prices are in: `"model_calls"` or `"usd"`.
        prices (`Sequence[float]`, *optional*, defaults to `(0.0,)`):
            Accuracies that a unit of cost is worth. At each of them the best workflows survive, so that with several
            the survivors are those on the frontier of accuracy and cost.
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
        unit: str = "model_calls",
        prices: Sequence[float] = (0.0,),
    ) -> None:
        self.group, self.rows, self.budget, self.winners = group, rows, budget, max(winners, len(prices))
        self.unit, self.prices = unit, prices
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
        self._remaining_rounds = max(1, math.ceil(math.log2(max(1.0, len(names) / self.winners)))) + 1
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
                candidate.usd += result.usd or 0.0
        self._row = 1 + max(request.row for request in requests)

    @property
    def best(self) -> list[Candidate]:
        """The winners, best first; fewer where too few were scored."""
        return [candidate for candidate in self._ranked()[: self.winners] if candidate.scored]

    def _ranked(self) -> list[Candidate]:
        """Candidates, best first: the best at each price, then the second at each, and so on."""

        def key(item: Candidate, price: float) -> tuple[float, float, str]:
            return (price * item.cost(self.unit) - item.accuracy, item.calls_per_problem, item.workflow)

        by_price = [sorted(self.candidates, key=partial(key, price=price)) for price in self.prices]
        ranked = itertools.chain.from_iterable(zip(*by_price, strict=True))
        return list({item.workflow: item for item in ranked}.values())

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
