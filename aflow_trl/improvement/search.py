"""
The search baseline: best-first search over workflows, as AFlow searches over code (arXiv 2410.10762, §3.3).

Each round draws a parent from a mixture of a uniform distribution and a softmax over scores, asks an optimizer model
for one edit of it, and measures the result on validation problems in several passes. Later prompts show the optimizer
the earlier edits of the same parent and their gains.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from ..data import Message, PolicyPrompt, Row, load_rows, selection_split, split_digest
from ..dsl import extract, format_workflow
from ..engine import Engine
from ..errors import AflowError
from ..event_loops import run_coroutine
from ..llm import LLMClient
from ..operators import DEFAULT_OPERATORS, preflight
from ..rollouts import Rollouts
from ..storage import JsonLines, check_or_write_settings
from .records import Attempt, Failure, Improvement, improvement_messages, write_improvements

# λ and α of AFlow, at the values of its paper.
MIX = 0.3
"""λ: share of the uniform distribution in the choice of a parent."""
SHARPNESS = 0.2
"""α: weight of a score difference of one percent in the softmax."""
MAX_FAILURES = 3
"""Maximum number of failed problems recorded with a round, as examples for the optimizer."""
MAX_PROPOSALS = 3
"""Maximum number of proposals per round until one is valid and new."""
SETTINGS_FILE = "search_settings.json"

Propose = Callable[[Sequence[Message], int], Awaitable[str]]
"""Maps chat messages and a seed to the optimizer's reply."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One round of a search: a workflow and its score."""

    number: int
    workflow: str
    score: float
    """Share of problems solved, averaged over the passes."""
    parent: int | None
    """Number of the round whose workflow was edited; `None` in round 1."""
    failures: tuple[Failure, ...] = ()
    """A sample of the problems that the workflow got wrong."""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Tried:
        """The round that was written as JSON."""
        return cls(**dict(content) | {"failures": tuple(Failure(**fields) for fields in content["failures"])})


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """
    Settings of a search.

    Args:
        rounds (`int`, *optional*, defaults to `20`):
            Maximum number of rounds.
        passes (`int`, *optional*, defaults to `3`):
            Number of validation passes that a workflow's score is averaged over.
        margin (`float`, *optional*, defaults to `0.0`):
            Minimum gain of the best score that counts as progress.
        patience (`int`, *optional*, defaults to `8`):
            Number of rounds without progress after which the search stops.
        start (`str`, *optional*, defaults to `"Custom"`):
            Workflow of round 1.
        seed (`int`, *optional*, defaults to `0`):
            Seed of every random choice.
    """

    rounds: int = 20
    passes: int = 3
    margin: float = 0.0
    patience: int = 8
    start: str = "Custom"
    seed: int = 0


class Search:
    """
    A search for one domain. Its rounds are written to a file, and an interrupted search continues from it.

    Args:
        rollouts ([`~aflow_trl.rollouts.Rollouts`]):
            Engine and scoring.
        rows (`Sequence[Row]`):
            Validation problems, all of the same domain.
        propose (`Callable`):
            The optimizer; see [`Propose`].
        settings ([`SearchSettings`]):
            Settings.
        path (`Path`):
            JSON Lines file of the rounds.
    """

    def __init__(
        self, rollouts: Rollouts, rows: Sequence[Row], propose: Propose, settings: SearchSettings, path: Path
    ) -> None:
        self.rollouts, self.rows, self.propose, self.settings = rollouts, rows, propose, settings
        self.domain = rows[0].domain
        self._file = JsonLines(path)
        self.tried = [Tried.from_json(content) for content in self._file.repair()]

    async def run(self, on_round: Callable[[Tried], None]) -> Tried:
        """
        Search until the rounds are used up or the score has stopped improving.

        Args:
            on_round (`Callable[[Tried], None]`):
                Called with each round when it is finished.

        Returns:
            [`Tried`]: The best round; the earliest one in a tie.

        Raises:
            [`FatalEndpointError`]: A model can serve no further call; finished rounds are kept.
        """
        if not self.tried:
            self._record(await self._measure(1, self.settings.start, None), on_round)
        while len(self.tried) < self.settings.rounds and not self._stalled():
            number = len(self.tried) + 1
            parent = self._parent(number)
            workflow = await self._edit(parent, number)
            if workflow is None:
                # Counted as a round, or an optimizer that proposes nothing new would run forever.
                self._record(replace(parent, number=number, parent=parent.number), on_round)
                continue
            self._record(await self._measure(number, workflow, parent.number), on_round)
        return self.best

    @property
    def best(self) -> Tried:
        """The best round so far."""
        return max(self.tried, key=lambda tried: (tried.score, -tried.number))

    def records(self) -> list[Improvement]:
        """An improvement record for every round that changed its parent's workflow."""
        by_number = {tried.number: tried for tried in self.tried}
        records = []
        for child in self.tried:
            if child.parent is None or child.workflow == by_number[child.parent].workflow:
                continue
            parent = by_number[child.parent]
            records.append(
                replace(
                    self._task(parent, before=child.number),
                    child_workflow=child.workflow,
                    child_score=child.score,
                    modification=child.workflow,
                    source="search",
                    id=f"search/{self.domain}/{parent.number}-{child.number}",
                )
            )
        return records

    def _parent(self, number: int) -> Tried:
        """The round whose workflow is edited in round `number`, drawn with the probabilities of [`selection`]."""
        # Each workflow once, as the round that measured it: repetitions must not raise its probability.
        earliest = {tried.workflow: tried for tried in reversed(self.tried)}
        pool = sorted(earliest.values(), key=lambda tried: tried.number)
        # A generator for each round, so that a resumed search draws what an uninterrupted one would.
        rng = random.Random(f"{self.settings.seed} {number}")
        return rng.choices(pool, selection([tried.score for tried in pool]))[0]

    async def _edit(self, parent: Tried, number: int) -> str | None:
        """A valid workflow that has not been tried on this parent; `None` if the optimizer proposes none."""
        engine = self.rollouts.engine
        messages = improvement_messages(self._task(parent, before=number), PolicyPrompt("full", engine.operators))
        excluded = {tried.workflow for tried in self.tried if tried.parent == parent.number} | {parent.workflow}
        for attempt in range(MAX_PROPOSALS):
            reply = await self.propose(messages, 1_000 * self.settings.seed + MAX_PROPOSALS * number + attempt)
            workflow = extract(reply, vocabulary=engine.vocabulary, limits=engine.limits).workflow
            if workflow is not None and (text := format_workflow(workflow)) not in excluded:
                return text
        return None

    def _task(self, parent: Tried, *, before: int) -> Improvement:
        """The task of improving a round's workflow, with the edits of it that were measured before round `before`."""
        edits = [tried for tried in self.tried if tried.parent == parent.number and tried.number < before]
        attempts = [
            Attempt(tried.workflow, tried.score - parent.score) for tried in edits if tried.workflow != parent.workflow
        ]
        return Improvement(self.domain, parent.workflow, parent.score, parent.failures, tuple(attempts))

    async def _measure(self, number: int, workflow: str, parent: int | None) -> Tried:
        """Round `number`: the workflow and its score, which is copied if an earlier round has measured it."""
        measured = next((tried for tried in self.tried if tried.workflow == workflow), None)
        if measured is not None:
            return replace(measured, number=number, parent=parent)
        scores, failures = [], []
        for index in range(self.settings.passes):
            rollouts = await self.rollouts.execute(
                [workflow] * len(self.rows),
                [row.columns() for row in self.rows],
                # The same executor randomness for all workflows, so that differences in score are theirs.
                salt=f"{self.settings.seed} search {index}",
                phase="search",
                step=number,
            )
            if self.rollouts.engine.fatal is not None:
                raise self.rollouts.engine.fatal
            scored = [rollout.correctness for rollout in rollouts if rollout.correctness is not None]
            if not scored:
                raise AflowError(
                    "no problem of a validation pass could be scored: the executor or a scorer keeps failing. Fix the "
                    "cause and start the same command again; finished rounds are kept."
                )
            scores.append(fmean(scored))
            failures += [
                Failure(row.question, rollout.trace.answer, row.answer[0] if row.answer else "what its tests want")
                for row, rollout in zip(self.rows, rollouts, strict=True)
                if rollout.correctness == 0.0
            ]
        sample = random.Random(number).sample(failures, min(MAX_FAILURES, len(failures)))
        return Tried(number, workflow, fmean(scores), parent, tuple(sample))

    def _record(self, tried: Tried, on_round: Callable[[Tried], None]) -> None:
        self.tried.append(tried)
        self._file.append([asdict(tried)])
        on_round(tried)

    def _stalled(self) -> bool:
        patience = self.settings.patience
        if len(self.tried) <= patience:
            return False
        before = max(tried.score for tried in self.tried[:-patience])
        return max(tried.score for tried in self.tried[-patience:]) <= before + self.settings.margin


def selection(scores: Sequence[float]) -> list[float]:
    r"""
    Probability of each of n workflows to be the parent of the next one (AFlow's soft mixed selection):

    $$ p_i = \frac{\lambda}{n} + (1 - \lambda) \frac{e^{\alpha s_i}}{\sum_j e^{\alpha s_j}} $$

    with the score \\( s_i \\) in percent, \\( \lambda \\) = [`MIX`] and \\( \alpha \\) = [`SHARPNESS`].

    Args:
        scores (`Sequence[float]`):
            Shares of problems solved, in [0, 1].

    Returns:
        `list[float]`: Probabilities, which sum to 1.
    """
    # The maximum is subtracted to keep the exponentials from overflowing.
    best = max(scores)
    weights = [math.exp(SHARPNESS * 100 * (score - best)) for score in scores]
    total = sum(weights)
    return [MIX / len(scores) + (1 - MIX) * weight / total for weight in weights]


def optimizer(client: LLMClient) -> Propose:
    """The optimizer behind an endpoint."""

    async def propose(messages: Sequence[Message], seed: int) -> str:
        if client.profile is None:
            await preflight(client)
        return (await client.complete(list(messages), seed=seed)).text

    return propose


def run_search(
    client: LLMClient,
    propose: Propose,
    settings: SearchSettings,
    *,
    data: str,
    limit: int,
    out: Path,
    optimizer_name: str,
    on_round: Callable[[str, Tried], None],
) -> dict[str, Tried]:
    """
    Search for each domain of a data file, and write the improvement records.

    Args:
        client ([`~aflow_trl.llm.LLMClient`]):
            The executor.
        propose (`Callable`):
            The optimizer; see [`Propose`].
        settings ([`SearchSettings`]):
            Settings of the search.
        data (`str`):
            Validation problems.
        limit (`int`):
            Maximum number of problems.
        out (`Path`):
            Folder to write. An earlier search in it with the same settings is continued.
        optimizer_name (`str`):
            Name of the optimizer, one of the settings that a continued search must share.
        on_round (`Callable[[str, Tried], None]`):
            Called with the domain and each round when it is finished.

    Returns:
        `dict[str, Tried]`: The best round of each domain.

    Raises:
        [`RecipeError`]: The folder holds a search with other settings.
        [`FatalEndpointError`]: A model can serve no further call; finished rounds are kept.
    """
    rows = load_rows(data, split=selection_split(data), count=limit, seed=settings.seed)
    _check_settings(out, settings, rows, client, optimizer_name)
    rollouts = Rollouts(Engine(client))
    best: dict[str, Tried] = {}
    records: list[Improvement] = []

    async def work() -> None:
        try:
            await preflight(client)
            # One domain after another: what solves math may not solve code, so each has a search.
            for domain in dict.fromkeys(row.domain for row in rows):
                in_domain = [row for row in rows if row.domain == domain]
                search = Search(rollouts, in_domain, propose, settings, out / f"rounds-{domain}.jsonl")
                best[domain] = await search.run(partial(on_round, domain))
                records.extend(search.records())
        finally:
            await client.aclose()

    run_coroutine(work())
    write_improvements(out / "improvements.jsonl", records, DEFAULT_OPERATORS)
    return best


def _check_settings(
    out: Path, settings: SearchSettings, rows: Sequence[Row], client: LLMClient, optimizer_name: str
) -> None:
    """Refuse a folder whose search had other settings, problems or models."""
    # Without `rounds`, `margin` and `patience`: they only decide when to stop, so a search may continue with others.
    content = {
        "data": split_digest(rows),
        "executor": f"{client.config.executor_model} {client.config.executor_base_url}",
        "passes": settings.passes,
        "start": settings.start,
        "seed": settings.seed,
        "optimizer": optimizer_name,
    }
    check_or_write_settings(out / SETTINGS_FILE, content, "Name another folder with --out.")
