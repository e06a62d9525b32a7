"""Order of the training problems: balanced on request, and reproducible when a run is resumed in any epoch."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from datasets import IterableDataset
from trl.trainer.utils import RepeatSampler

from .workflow_grpo_config import WorkflowGRPOConfig


class StratifiedSampler(RepeatSampler):
    """
    TRL's [`~trl.trainer.utils.RepeatSampler`] with a share of every batch for each stratum.

    With a single stratum the order is TRL's own in every epoch. Unlike TRL's, it depends on the epoch number alone and
    not on how many epochs this process has already drawn, so that a resumed run continues with the order it had. A
    stratum that is exhausted before the epoch ends starts again in a new order.

    Args:
        sampler ([`~trl.trainer.utils.RepeatSampler`]):
            TRL's sampler, whose repeats, batch size and seed are kept.
        strata (`Sequence[Hashable]`):
            Stratum of each row.
        weights (`Mapping[Hashable, float]`):
            Share of each stratum; they sum to 1.
    """

    def __init__(self, sampler: RepeatSampler, strata: Sequence[Hashable], weights: Mapping[Hashable, float]) -> None:
        super().__init__(
            sampler.data_source,
            sampler.mini_repeat_count,
            batch_size=sampler.batch_size,
            repeat_count=sampler.repeat_count,
            shuffle=False,
            seed=sampler.seed,
        )
        self.shuffled, self.strata, self.weights, self.epoch = sampler.shuffle, strata, weights, 0

    def set_epoch(self, epoch: int) -> None:
        """Called before every epoch, also before the one in which a resumed run continues."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed or 0)
        # TRL draws one epoch after the other from one generator; drawing the earlier ones again gives its state.
        for _ in range(self.epoch):
            self._order(generator)
        order = self._order(generator)
        return (order[index] for index in super().__iter__())

    def _order(self, generator: torch.Generator) -> list[int]:
        """Row indices of one epoch, shape (N,): smooth weighted round robin over the strata."""
        members: dict[Hashable, list[int]] = {stratum: [] for stratum in self.weights}
        for index, stratum in enumerate(self.strata):
            if stratum in members:  # a stratum of share 0 is never drawn
                members[stratum].append(index)
        queues: dict[Hashable, deque[int]] = {stratum: deque() for stratum in self.weights}
        credit = dict.fromkeys(self.weights, 0.0)
        order = []
        for _ in range(self.num_samples):
            for stratum, weight in self.weights.items():
                credit[stratum] += weight
            chosen = max(credit, key=lambda stratum: credit[stratum])
            credit[chosen] -= 1.0
            if not queues[chosen]:
                rows = members[chosen]
                shuffled = torch.randperm(len(rows), generator=generator).tolist()
                queues[chosen].extend(rows[index] for index in (shuffled if self.shuffled else range(len(rows))))
            order.append(queues[chosen].popleft())
        return order


def check_balance(dataset: Any, args: WorkflowGRPOConfig) -> None:
    """Refuse shares of a batch for data that is read as a stream."""
    balanced = args.balance_domains or args.hard_share is not None
    if balanced and isinstance(dataset, (IterableDataset, torch.utils.data.IterableDataset)):
        raise ValueError(
            "balance_domains and hard_share need to know all rows, but train_dataset is iterable. Load it as a "
            "`Dataset`, or mix the stream itself."
        )


def stratified_sampler(sampler: RepeatSampler, args: WorkflowGRPOConfig) -> StratifiedSampler:
    """
    The sampler of a trainer: TRL's, with the shares that the configuration asks for.

    Args:
        sampler ([`~trl.trainer.utils.RepeatSampler`]):
            TRL's sampler.
        args ([`WorkflowGRPOConfig`]):
            Configuration.

    Raises:
        `ValueError`: The data lacks a column that a share needs.
    """
    data = sampler.data_source
    columns = {name: [0] * len(data) for name in ("domain", "difficulty")}
    required = ["domain"] * args.balance_domains + ["difficulty"] * (args.hard_share is not None)
    for name in required:
        if name not in data.column_names:
            raise ValueError(f"balanced batches need the column {name!r} in the training data.")
        columns[name] = data[name]
    strata, weights = strata_of(
        columns, by_domain=args.balance_domains, hard_share=args.hard_share, hard_from=args.hard_from
    )
    return StratifiedSampler(sampler, strata, weights)


def strata_of(
    columns: Mapping[str, Sequence[Any]], *, by_domain: bool, hard_share: float | None, hard_from: int
) -> tuple[list[Hashable], dict[Hashable, float]]:
    """
    Stratum of each row, and the share of each stratum in a batch.

    Args:
        columns (`Mapping[str, Sequence]`):
            Columns `domain` and `difficulty` of the data.
        by_domain (`bool`):
            Whether every domain has the same share.
        hard_share (`float`, *optional*):
            Share of hard problems. If `None`, difficulty plays no part.
        hard_from (`int`):
            Minimum difficulty of a hard problem.

    Returns:
        `tuple[list[Hashable], dict[Hashable, float]]`: Strata, and weights that sum to 1. A domain whose problems are
        all easy, or all hard, keeps its whole share.
    """
    domains = list(columns["domain"])
    hard = [hard_share is not None and level >= hard_from for level in columns["difficulty"]]
    strata: list[Hashable] = (
        list(zip(domains, hard, strict=True)) if by_domain else [("", is_hard) for is_hard in hard]
    )
    counts = Counter(strata)
    groups = sorted({stratum[0] for stratum in counts})  # type: ignore[index]
    weights: dict[Hashable, float] = {}
    for group in groups:
        for level in (False, True):
            if (group, level) not in counts:
                continue
            share = 1.0
            if hard_share is not None and (group, not level) in counts:
                share = hard_share if level else 1 - hard_share
            if share > 0:
                weights[group, level] = share / len(groups)
    return strata, weights
