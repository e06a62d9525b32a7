"""
The search baseline: best-first over workflows, as AFlow searches over code (arXiv 2410.10762, §3.3).

Each round picks a parent by a soft mix of chance and score, asks an optimizer model for one edit of it, and measures
the result on the validation problems in several passes. What was tried becomes experience for later rounds.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from ..data import PolicyPrompt, Row, load_rows, selection_split, split_digest
from ..dsl import extract, format_workflow
from ..engine import Engine
from ..errors import AflowError
from ..llm import LLMClient
from ..operators import DEFAULT_OPERATORS
from ..rollouts import Rollouts
from ..storage import check_or_write_settings
from .records import Attempt, Failure, Improvement, improvement_messages, write_improvements

MIX = 0.3
"""λ: share of the choice of a parent that is left to chance."""
SHARPNESS = 0.2
"""α: weight of a score difference of one percent."""
KEPT_FAILURES = 3
ASKS = 3
"""Times the optimizer is asked in a round until it proposes something valid and new."""

Propose = Callable[[Sequence[dict[str, str]], int], Awaitable[str]]
"""From chat messages and a seed to the optimizer's reply."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One round: a workflow and how it did."""

    number: int
    workflow: str
    score: float
    """Mean over the passes, of the share of problems solved."""
    parent: int | None
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """
    How a search is done.

    Args:
        rounds (`int`, *optional*, defaults to `20`):
            Most rounds.
        passes (`int`, *optional*, defaults to `3`):
            Validation passes whose mean is a workflow's score.
        margin (`float`, *optional*, defaults to `0.0`):
            Gain of the best score that counts as progress.
        patience (`int`, *optional*, defaults to `8`):
            Rounds without progress after which the search ends.
        start (`str`, *optional*, defaults to `"Custom"`):
            Workflow of round 1.
        seed (`int`, *optional*, defaults to `0`):
            Of every choice.
    """

    rounds: int = 20
    passes: int = 3
    margin: float = 0.0
    patience: int = 8
    start: str = "Custom"
    seed: int = 0


class Search:
    """
    One search, for one domain. Rounds are kept on disk: a search that is started again goes on.

    Args:
        rollouts ([`~aflow_trl.rewards.Rollouts`]):
            Engine and scoring.
        rows (`Sequence[Row]`):
            Validation problems, of one domain.
        propose (`Callable`):
            The optimizer.
        settings ([`SearchSettings`]):
            How to search.
        path (`Path`):
            JSONL of the rounds.
    """

    def __init__(
        self, rollouts: Rollouts, rows: Sequence[Row], propose: Propose, settings: SearchSettings, path: Path
    ) -> None:
        self.rollouts, self.rows, self.propose, self.settings, self.path = rollouts, rows, propose, settings, path
        self.domain = rows[0].domain
        self.tried = _read(path)

    async def run(self, on_round: Callable[[Tried], None]) -> Tried:
        """
        Search until the rounds are used up or nothing gets better.

        Args:
            on_round (`Callable[[Tried], None]`):
                Told of every round.

        Returns:
            [`Tried`]: The best round; the earliest of equals.

        Raises:
            [`FatalEndpointError`]: A model can serve no further call; the rounds done are kept.
        """
        if not self.tried:
            await self._keep(await self._measure(1, self.settings.start, None), on_round)
        while len(self.tried) < self.settings.rounds and not self._stalled():
            number = len(self.tried) + 1
            parent = self._parent(number)
            workflow = await self._edit(parent, number)
            if workflow is None:
                # Counted as a round, or an optimizer without ideas would never end.
                await self._keep(replace(parent, number=number, parent=parent.number), on_round)
                continue
            await self._keep(await self._measure(number, workflow, parent.number), on_round)
        return self.best

    @property
    def best(self) -> Tried:
        """The best round so far."""
        return max(self.tried, key=lambda one: (one.score, -one.number))

    def records(self) -> list[Improvement]:
        """Every round that changed another one, as an improvement record."""
        by_number = {one.number: one for one in self.tried}
        records = []
        for one in self.tried:
            if one.parent is None or one.workflow == by_number[one.parent].workflow:
                continue
            parent = by_number[one.parent]
            records.append(
                replace(
                    self._task(parent, before=one.number),
                    child_workflow=one.workflow,
                    child_score=one.score,
                    modification=one.workflow,
                    source="search",
                    id=f"search/{self.domain}/{parent.number}-{one.number}",
                )
            )
        return records

    def _parent(self, number: int) -> Tried:
        """A round drawn by the soft mix: λ / n + (1 − λ) · softmax(α · score in percent)."""
        known = {one.workflow: one for one in reversed(self.tried)}
        pool = sorted(known.values(), key=lambda one: one.number)
        return random.Random(f"{self.settings.seed} {number}").choices(pool, selection([p.score for p in pool]))[0]

    async def _edit(self, parent: Tried, number: int) -> str | None:
        """A valid workflow that was not tried on this parent; `None` if the optimizer finds none."""
        engine = self.rollouts.engine
        messages = improvement_messages(self._task(parent, before=number), PolicyPrompt("full", engine.operators))
        known = {one.workflow for one in self.tried if one.parent == parent.number} | {parent.workflow}
        for ask in range(ASKS):
            reply = await self.propose(messages, 1_000 * self.settings.seed + ASKS * number + ask)
            workflow = extract(reply, vocabulary=engine.vocabulary, limits=engine.limits).workflow
            if workflow is not None and (text := format_workflow(workflow)) not in known:
                return text
        return None

    def _task(self, parent: Tried, *, before: int) -> Improvement:
        earlier = [one for one in self.tried if one.parent == parent.number and one.number < before]
        attempts = [
            Attempt(one.workflow, one.score - parent.score) for one in earlier if one.workflow != parent.workflow
        ]
        return Improvement(self.domain, parent.workflow, parent.score, parent.failures, tuple(attempts))

    async def _measure(self, number: int, workflow: str, parent: int | None) -> Tried:
        known = next((one for one in self.tried if one.workflow == workflow), None)
        if known is not None:
            return replace(known, number=number, parent=parent)
        scores, failures = [], []
        for turn in range(self.settings.passes):
            # The same executor randomness for all workflows of a pass.
            rollouts = await self.rollouts.execute(
                [workflow] * len(self.rows),
                [row.columns() for row in self.rows],
                salt=f"{self.settings.seed} search {turn}",
                phase="search",
                step=number,
            )
            if self.rollouts.engine.fatal is not None:
                raise self.rollouts.engine.fatal
            scored = [one.correctness for one in rollouts if one.correctness is not None]
            if not scored:
                raise AflowError("no problem of a pass could be scored: the executor or a scorer keeps failing.")
            scores.append(fmean(scored))
            failures += [
                Failure(row.question, one.trace.answer, row.answer[0] if row.answer else "what its tests want")
                for row, one in zip(self.rows, rollouts, strict=True)
                if one.correctness == 0.0
            ]
        chosen = random.Random(number).sample(failures, min(KEPT_FAILURES, len(failures)))
        return Tried(number, workflow, fmean(scores), parent, tuple(chosen))

    async def _keep(self, one: Tried, on_round: Callable[[Tried], None]) -> None:
        self.tried.append(one)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_plain(one)) + "\n")
        on_round(one)

    def _stalled(self) -> bool:
        patience = self.settings.patience
        if len(self.tried) <= patience:
            return False
        before = max(one.score for one in self.tried[:-patience])
        return max(one.score for one in self.tried[-patience:]) <= before + self.settings.margin


def selection(scores: Sequence[float]) -> list[float]:
    """
    Probability of each round to become a parent.

    Args:
        scores (`Sequence[float]`):
            Shares of problems solved.

    Returns:
        `list[float]`: They sum to 1.
    """
    best = max(scores)
    weights = [math.exp(SHARPNESS * 100 * (score - best)) for score in scores]
    total = sum(weights)
    return [MIX / len(scores) + (1 - MIX) * weight / total for weight in weights]


def optimizer(client: LLMClient) -> Propose:
    """The optimizer behind an endpoint."""

    async def propose(messages: Sequence[dict[str, str]], seed: int) -> str:
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
            The optimizer.
        settings ([`SearchSettings`]):
            How to search.
        data (`str`):
            Validation problems.
        limit (`int`):
            Most of them.
        out (`Path`):
            Folder to write; what it holds of an earlier search with the same settings is continued.
        optimizer_name (`str`):
            Tells optimizers apart.
        on_round (`Callable[[str, Tried], None]`):
            Told of domain and round.

    Returns:
        `dict[str, Tried]`: The best round of each domain.
    """
    rows = load_rows(data, split=selection_split(data), count=limit, seed=settings.seed)
    fixed = {"passes": settings.passes, "start": settings.start, "seed": settings.seed, "optimizer": optimizer_name}
    executor = f"{client.config.executor_model} {client.config.executor_base_url}"
    settings_file, remedy = out / "settings.json", "Name another folder with --out."
    check_or_write_settings(settings_file, {"data": split_digest(rows), "executor": executor, **fixed}, remedy)
    rollouts = Rollouts(Engine(client))
    best: dict[str, Tried] = {}
    records: list[Improvement] = []

    async def work() -> None:
        try:
            for domain in dict.fromkeys(row.domain for row in rows):
                own = [row for row in rows if row.domain == domain]
                search = Search(rollouts, own, propose, settings, out / f"rounds-{domain}.jsonl")
                best[domain] = await search.run(partial(on_round, domain))
                records.extend(search.records())
        finally:
            await client.aclose()

    asyncio.run(work())
    write_improvements(out / "improvements.jsonl", records, DEFAULT_OPERATORS)
    return best


def _plain(one: Tried) -> dict[str, Any]:
    failures = [{"question": f.question, "answer": f.answer, "gold": f.gold} for f in one.failures]
    return {
        "number": one.number,
        "workflow": one.workflow,
        "score": one.score,
        "parent": one.parent,
        "failures": failures,
    }


def _read(path: Path) -> list[Tried]:
    """Rounds of an earlier run, up to the first line that was cut off."""
    tried: list[Tried] = []
    if not path.is_file():
        return tried
    for line in filter(None, path.read_text(encoding="utf-8").split("\n")):
        try:
            fields = json.loads(line)
        except ValueError:
            break
        tried.append(Tried(**fields | {"failures": tuple(Failure(**own) for own in fields["failures"])}))
    # A line that was cut off would spoil the next one.
    path.write_text("".join(json.dumps(_plain(one)) + "\n" for one in tried), encoding="utf-8")
    return tried
