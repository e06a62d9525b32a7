"""Converts public benchmarks to training, validation and test files: checked, deduplicated and mixed."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias, TypedDict

from rich.console import Console
from rich.table import Table

from ..errors import RecipeError, ScorerError
from ..event_loops import run_coroutine
from ..sandbox import run_tests
from ..scoring import score_answer, score_code
from ..storage import versions, write_json
from .benchmarks import BENCHMARKS, Benchmark, BenchmarkRow, UnusableRowError, UpstreamRow, load_benchmark
from .dedup import near_copies, normal_form
from .mixing import mix, split_digest
from .schema import Row

SPLITS = ("test", "valid", "train")
"""In order of priority: a row that occurs in several splits stays in the first of them."""
VALID_SHARE = 0.05
"""Share of the training rows that becomes the validation split of a benchmark without one."""
CHECKS_AT_ONCE = 64
CARD_FILE = "data_card.json"


@dataclass(slots=True)
class Tally:
    """Row counts of one split of one benchmark."""

    read: int = 0
    written: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Number of dropped rows by reason."""
    weak_verdicts: int = 0
    """Number of rows whose tests need live objects."""


Tallies: TypeAlias = dict[tuple[str, str], Tally]
"""Tallies by benchmark and split."""


class SourceCounts(TypedDict):
    """Row counts of one split of one benchmark, in the data card."""

    read: int
    written: int
    dropped: dict[str, int]
    """Number of dropped rows by reason."""
    weak_verdicts: int
    """Number of rows, before copies are removed, whose tests need live objects and so run beside the solution."""


class SplitCard(TypedDict):
    """One split, in the data card."""

    rows: int
    domains: dict[str, int]
    """Number of rows by domain."""
    sha256: str
    """Digest of the rows, independent of their order."""


class DataCard(TypedDict):
    """Content of `data_card.json`."""

    sources: dict[str, dict[str, SourceCounts]]
    """By benchmark and split."""
    splits: dict[str, SplitCard]
    ratio: dict[str, float]
    seed: int
    warnings: list[str]
    versions: dict[str, str]
    """Installed versions by package."""


def prepare(
    names: Sequence[str],
    out: Path,
    *,
    folder: Path | None = None,
    ratio: Mapping[str, float],
    total: int | None = None,
    limit: int | None = None,
    unanswerable: bool = False,
    seed: int = 0,
) -> DataCard:
    """
    Write `train.jsonl`, `valid.jsonl`, `test.jsonl` and `data_card.json`.

    A row is kept only if the strict scorer accepts its own gold answer. Training rows that copy each other, a
    validation row or a test row are dropped, and so are validation rows that copy a test row. The test split of a
    benchmark loses exact copies only.

    Args:
        names (`Sequence[str]`):
            Benchmarks, from [`~aflow_trl.data.BENCHMARKS`].
        out (`Path`):
            Output folder.
        folder (`Path`, *optional*):
            Folder that contains a copy of each benchmark under its name. Defaults to the Hub.
        ratio (`Mapping[str, float]`):
            Weights of the domains in the training and validation splits.
        total (`int`, *optional*):
            Number of training rows. Defaults to as many as the ratio allows.
        limit (`int`, *optional*):
            Maximum number of rows per split of a benchmark, drawn with the seed.
        unanswerable (`bool`, *optional*, defaults to `False`):
            Keep the questions of SQuAD v2 that have no answer, with an empty gold, and ask in every question of that
            benchmark to reply "unanswerable" to those.
        seed (`int`, *optional*, defaults to `0`):
            Seed of every draw.

    Returns:
        `DataCard`: The data card. Domains without rows are listed among its warnings.

    Raises:
        [`RecipeError`]: A benchmark is unknown or cannot be loaded, or `ratio`, `total` or `limit` is invalid.
    """
    _check_request(names, ratio, total, limit)
    tallies: Tallies = {}
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for name in names:
        for split, rows in _read_splits(BENCHMARKS[name], folder, limit, unanswerable, seed, tallies).items():
            splits[split] += rows
    splits = _without_copies(splits, tallies)
    if unanswerable:
        splits = {split: [_with_note(row) for row in rows] for split, rows in splits.items()}
    for split in ("train", "valid"):
        splits[split] = mix(_shuffled(splits[split], seed), ratio, total if split == "train" else None)
    # Shuffled as well, so that an evaluation of the first rows covers every benchmark.
    splits["test"] = _shuffled(splits["test"], seed)
    for split, rows in splits.items():
        for row in rows:
            tallies[row.source, split].written += 1
    _write_splits(out, splits)
    card = _card(splits, tallies, ratio, seed)
    write_json(out / CARD_FILE, card)
    return card


def _check_request(names: Sequence[str], ratio: Mapping[str, float], total: int | None, limit: int | None) -> None:
    """Report an impossible request before anything is downloaded."""
    for name in names:
        if name not in BENCHMARKS:
            raise RecipeError(f"unknown benchmark {name!r}. Use some of {', '.join(BENCHMARKS)}.")
    if limit is not None and limit < 1:
        raise RecipeError(f"the limit is {limit} rows. Use at least 1.")
    # Checks the ratio and the total, without any rows.
    mix([], ratio, total)


def print_card(card: DataCard, console: Console) -> None:
    """Print the data card as a table."""
    table = Table(title="Rows by benchmark and split", title_justify="left")
    for heading in ("benchmark", "split", "read", "written", "dropped and noted"):
        table.add_column(heading, justify="right" if heading in ("read", "written") else "left", overflow="fold")
    for name, source in card["sources"].items():
        for split, counts in source.items():
            if not counts["read"]:
                continue
            dropped = ", ".join(f"{count} {reason}" for reason, count in counts["dropped"].items())
            weak = f"{counts['weak_verdicts']} with a weak verdict" if counts["weak_verdicts"] else ""
            notes = ", ".join(filter(None, [dropped, weak]))
            table.add_row(name, split, f"{counts['read']:,}", f"{counts['written']:,}", notes)
    console.print(table)
    for split, content in card["splits"].items():
        domains = ", ".join(f"{count:,} {domain}" for domain, count in content["domains"].items())
        console.print(f"{split}: {content['rows']:,} rows ({domains or 'none'}), sha256 {content['sha256'][:16]}")
    for warning in card["warnings"]:
        console.print(f"warning: {warning}", style="yellow")


def _read_splits(
    benchmark: Benchmark, folder: Path | None, limit: int | None, unanswerable: bool, seed: int, tallies: Tallies
) -> dict[str, list[Row]]:
    """Usable rows of a benchmark by split, and their tallies."""
    splits: dict[str, list[Row]] = {}
    for split, upstream_split in benchmark.splits.items():
        tally = tallies[benchmark.name, split] = Tally()
        upstream = load_benchmark(benchmark, upstream_split, folder)
        converted = _converted(benchmark, upstream, unanswerable, tally)
        # With a limit, only as many rows are held at once: those of HotpotQA take gigabytes together.
        order = functools.partial(_order, seed=seed)
        chosen = sorted(converted, key=order) if limit is None else heapq.nsmallest(limit, converted, key=order)
        usable = tally.read - sum(tally.dropped.values())
        if usable > len(chosen):
            tally.dropped["over the limit"] += usable - len(chosen)
        splits[split] = run_coroutine(_with_valid_gold(chosen, tally))
    if "valid" not in splits and "train" in splits:
        count = round(VALID_SHARE * len(splits["train"]))
        splits["valid"], splits["train"] = splits["train"][:count], splits["train"][count:]
        tallies[benchmark.name, "valid"] = Tally(read=count)
        if count:
            tallies[benchmark.name, "train"].dropped["used for validation"] = count
    return splits


def _converted(
    benchmark: Benchmark, upstream: Iterable[UpstreamRow], unanswerable: bool, tally: Tally
) -> Iterator[BenchmarkRow]:
    """Usable rows; the others are tallied."""
    for raw in upstream:
        tally.read += 1
        try:
            item = benchmark.convert(raw)
            if item.row.answer == ("",) and not unanswerable:
                raise UnusableRowError("unanswerable")
        except UnusableRowError as error:
            tally.dropped[str(error)] += 1
            continue
        yield item


def _with_note(row: Row) -> Row:
    """The row with the note on unanswerable questions: in all of a benchmark, or it would tell which they are."""
    note = BENCHMARKS[row.source].unanswerable_note
    return replace(row, question=f"{row.question}\n\n{note}") if note else row


async def _with_valid_gold(rows: Sequence[BenchmarkRow], tally: Tally) -> list[Row]:
    """Rows whose gold the scorer accepts; the others are tallied."""
    valid = []
    # In chunks, so that a benchmark of thousands of rows does not become thousands of tasks at once.
    for first in range(0, len(rows), CHECKS_AT_ONCE):
        for checked in await asyncio.gather(*(_checked(row) for row in rows[first : first + CHECKS_AT_ONCE])):
            if isinstance(checked, Row):
                valid.append(checked)
                tally.weak_verdicts += checked.weak_verdict
            else:
                tally.dropped[checked] += 1
    return valid


async def _checked(item: BenchmarkRow) -> Row | str:
    """The row without public tests that its reference solution fails, or the reason why it is unusable."""
    row = item.row
    try:
        score = await score_answer(
            item.reference,
            domain=row.domain,
            golds=row.answer,
            hidden_tests=row.hidden_tests,
            entry_point=row.entry_point,
        )
        if score.value < 1:
            if not await _needs_live_objects(item):
                return "gold not accepted by the scorer"
            row = replace(row, weak_verdict=True)
        if row.domain == "code" and await _accepts_anything(row):
            return "tests that accept anything"
        public_tests = [
            test for test in row.public_tests if (await score_code(item.reference, [test], row.entry_point)).value == 1
        ]
    except ScorerError as error:
        return f"not scorable: {error}"
    return replace(row, public_tests=tuple(public_tests))


async def _accepts_anything(row: Row) -> bool:
    """Whether the tests pass a function that answers nothing: some of MBPP+ compute a verdict and never assert it."""
    score = await score_code(
        f"def {row.entry_point}(*args, **kwargs):\n    return 'no answer'",
        row.hidden_tests,
        row.entry_point,
        weak_verdict=row.weak_verdict,
    )
    return score.value == 1


async def _needs_live_objects(item: BenchmarkRow) -> bool:
    """Whether the reference passes its tests in one process, but not in two, as they exchange live objects."""
    row = item.row
    if row.domain != "code":
        return False
    apart = await run_tests(item.reference, row.hidden_tests, entry_point=row.entry_point)
    if not apart.needs_live_objects:
        return False
    within = await score_code(item.reference, row.hidden_tests, row.entry_point, weak_verdict=True)
    return within.value == 1


def _without_copies(splits: Mapping[str, Sequence[Row]], tallies: Tallies) -> dict[str, list[Row]]:
    """Rows that do not copy an earlier one, where test rows come first and training rows last."""
    flat = [(split, row) for split in SPLITS for row in splits[split]]
    original_of: dict[int, int] = {}
    first_index: dict[str, int] = {}
    for index, (split, row) in enumerate(flat):
        # A digest: the text holds the context, which would be kept several times over.
        form = hashlib.blake2b(normal_form(row).encode(), digest_size=16).hexdigest()
        within_source = f"{row.source} {form}"
        # Test splits keep problems that two benchmarks share, as each benchmark is reported as a whole. Elsewhere a
        # problem and a task id may occur only once.
        keys = [within_source] if split == "test" else [form, row.id]
        original = next((first_index[key] for key in keys if key in first_index), None)
        if original is not None:
            original_of[index] = original
        for key in (within_source, form, row.id):
            first_index.setdefault(key, index)
    for first, second in near_copies([row for _, row in flat]):
        # A row that is dropped itself does not count as an original: its near copy may be unlike all others.
        if first not in original_of and flat[second][0] != "test":
            original_of.setdefault(second, first)
    distinct: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for index, (split, row) in enumerate(flat):
        if index not in original_of:
            distinct[split].append(row)
            continue
        original_split = flat[original_of[index]][0]
        tallies[row.source, split].dropped[f"copies of {original_split} rows"] += 1
    return distinct


def _write_splits(out: Path, splits: Mapping[str, Sequence[Row]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        lines = (json.dumps(row.columns(), ensure_ascii=False) + "\n" for row in rows)
        (out / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def _card(splits: Mapping[str, Sequence[Row]], tallies: Tallies, ratio: Mapping[str, float], seed: int) -> DataCard:
    warnings = []
    for split in ("train", "valid"):
        counts = Counter(row.domain for row in splits[split])
        warnings += [f"{split} has no {name} row" for name, weight in ratio.items() if weight > 0 and not counts[name]]
    sources: dict[str, dict[str, SourceCounts]] = {}
    order = list(reversed(SPLITS))
    for (name, split), tally in sorted(tallies.items(), key=lambda item: order.index(item[0][1])):
        # Rows that `mix` left out have no reason yet. The test split is not mixed.
        unused = tally.read - tally.written - sum(tally.dropped.values())
        dropped = dict(tally.dropped) | ({"beyond the ratio": unused} if unused > 0 and split != "test" else {})
        counts_of_split = SourceCounts(
            read=tally.read, written=tally.written, dropped=dropped, weak_verdicts=tally.weak_verdicts
        )
        sources.setdefault(name, {})[split] = counts_of_split
    return {
        "sources": sources,
        "splits": {
            split: {
                "rows": len(splits[split]),
                "domains": dict(sorted(Counter(row.domain for row in splits[split]).items())),
                "sha256": split_digest(splits[split]),
            }
            for split in reversed(SPLITS)
        },
        "ratio": dict(ratio),
        "seed": seed,
        "warnings": warnings,
        "versions": versions(),
    }


def _order(item: BenchmarkRow, seed: int) -> bytes:
    return _sort_key(item.row, seed)


def _sort_key(row: Row, seed: int) -> bytes:
    # A digest instead of a shuffle: a row keeps its position relative to others when rows are added upstream.
    return hashlib.blake2b(f"{seed} {row.id} {row.question}".encode(), digest_size=8).digest()


def _shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    return sorted(rows, key=lambda row: _sort_key(row, seed))
