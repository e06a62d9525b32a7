"""Public benchmarks as training, validation and test files of ours: checked, deduplicated, mixed, with a data card."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..errors import RecipeError, ScorerError
from ..scoring import score_answer, score_code
from ..storage import versions, write_json
from .benchmarks import SOURCES, BenchmarkRow, Source, UnusableRowError, load_benchmark
from .dedup import near_copies, normal_form
from .mixing import mix, split_digest
from .schema import Row

SPLITS = ("test", "valid", "train")
"""In the order in which a row that is in several is kept."""
VALID_SHARE = 0.05
"""Part of the training rows that becomes the validation split of a benchmark that has none."""
CHECKED_AT_ONCE = 64
CARD_FILE = "data_card.json"


@dataclass(slots=True)
class Tally:
    """What became of the rows of one split of one benchmark."""

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


def prepare(
    names: Sequence[str],
    out: Path,
    *,
    folder: Path | None = None,
    ratio: Mapping[str, float],
    total: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """
    Write `train.jsonl`, `valid.jsonl`, `test.jsonl` and `data_card.json`.

    A row is kept only if the strict scorer accepts its own gold. No training row copies another, nor a validation or
    test row; no validation row copies a test row. The test split of a benchmark loses exact copies only.

    Args:
        names (`Sequence[str]`):
            Benchmarks, of [`~aflow_trl.data.SOURCES`].
        out (`Path`):
            Folder to write.
        folder (`Path`, *optional*):
            Folder with a copy of each benchmark, by its name. Defaults to the Hub.
        ratio (`Mapping[str, float]`):
            Weights of the domains in the training and validation splits.
        total (`int`, *optional*):
            Training rows. Defaults to as many as the ratio allows.
        limit (`int`, *optional*):
            Most rows of a split of a benchmark, drawn by the seed.
        seed (`int`, *optional*, defaults to `0`):
            Seed of every draw.

    Returns:
        `dict[str, Any]`: The data card.

    Raises:
        [`RecipeError`]: A benchmark is unknown or cannot be loaded, or a split of the training data is empty.
    """
    for name in names:
        if name not in SOURCES:
            raise RecipeError(f"unknown benchmark {name!r}. Use some of {', '.join(SOURCES)}.")
    tallies: dict[tuple[str, str], Tally] = {}
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for name in names:
        for split, rows in _read(SOURCES[name], folder, limit, seed, tallies).items():
            splits[split] += rows
    splits = _without_copies(splits, tallies)
    for split in ("train", "valid"):
        splits[split] = mix(_shuffled(splits[split], seed), ratio, total if split == "train" else None)
    splits["test"] = _shuffled(splits["test"], seed)  # the first of them are of every benchmark
    for split, rows in splits.items():
        for row in rows:
            tallies[row.source, split].kept += 1
    out.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        lines = (json.dumps(row.columns(), ensure_ascii=False) + "\n" for row in rows)
        (out / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    card = _card(splits, tallies, ratio, seed)
    write_json(out / CARD_FILE, card)
    return card


def print_card(card: dict[str, Any], console: Console) -> None:
    """The data card as a table."""
    table = Table(title="Rows by benchmark and split", title_justify="left")
    for heading in ("benchmark", "split", "read", "kept", "dropped"):
        table.add_column(heading, justify="right" if heading in ("read", "kept") else "left", overflow="fold")
    for name, splits in card["sources"].items():
        for split, own in splits.items():
            if not own["read"]:
                continue
            dropped = ", ".join(f"{count} {reason}" for reason, count in own["dropped"].items())
            table.add_row(name, split, f"{own['read']:,}", f"{own['kept']:,}", dropped)
    console.print(table)
    for split, own in card["splits"].items():
        domains = ", ".join(f"{count:,} {domain}" for domain, count in own["domains"].items())
        console.print(f"{split}: {own['rows']:,} rows ({domains or 'none'}), sha256 {own['sha256'][:16]}")
    for warning in card["warnings"]:
        console.print(f"[yellow]warning:[/yellow] {warning}")


def _read(
    source: Source, folder: Path | None, limit: int | None, seed: int, tallies: dict[tuple[str, str], Tally]
) -> dict[str, list[Row]]:
    splits: dict[str, list[Row]] = {}
    for split, upstream in source.splits.items():
        tally = tallies[source.name, split] = Tally()
        found: list[BenchmarkRow] = []
        for raw in load_benchmark(source, upstream, folder):
            tally.read += 1
            try:
                found.append(source.read(raw))
            except UnusableRowError as error:
                tally.dropped[str(error)] += 1
        found.sort(key=lambda one: _draw(one.row, seed))
        rows = asyncio.run(_with_valid_gold(found[:limit], tally))
        if limit is not None and len(found) > limit:
            tally.dropped["over the limit"] += len(found) - limit
        splits[split] = rows
    if "valid" not in splits and "train" in splits:
        count = round(VALID_SHARE * len(splits["train"]))
        splits["valid"], splits["train"] = splits["train"][:count], splits["train"][count:]
        tallies[source.name, "valid"] = Tally(read=count)
        if count:
            tallies[source.name, "train"].dropped["used for validation"] = count
    return splits


async def _with_valid_gold(found: Sequence[BenchmarkRow], tally: Tally) -> list[Row]:
    rows = []
    for start in range(0, len(found), CHECKED_AT_ONCE):
        for row in await asyncio.gather(*(_checked(one) for one in found[start : start + CHECKED_AT_ONCE])):
            if isinstance(row, Row):
                rows.append(row)
            else:
                tally.dropped[row] += 1
    return rows


async def _checked(one: BenchmarkRow) -> Row | str:
    """The row, without public tests that its own gold fails; or why it cannot be used."""
    row = one.row
    try:
        score = await score_answer(
            one.reference,
            domain=row.domain,
            golds=row.answer,
            hidden_tests=row.hidden_tests,
            entry_point=row.entry_point,
        )
        if score.value < 1:
            return "gold not accepted by the scorer"
        public = [
            test for test in row.public_tests if (await score_code(one.reference, [test], row.entry_point)).value == 1
        ]
    except ScorerError as error:
        return f"not scorable: {error}"
    return replace(row, public_tests=tuple(public))


def _without_copies(
    splits: Mapping[str, Sequence[Row]], tallies: Mapping[tuple[str, str], Tally]
) -> dict[str, list[Row]]:
    """Every row but those that copy an earlier one; tests come first, training rows last."""
    flat = [(split, row) for split in SPLITS for row in splits[split]]
    copied: dict[int, int] = {}
    seen: dict[str, int] = {}
    for index, (split, row) in enumerate(flat):
        form = normal_form(row)
        own = f"{row.source} {form}"
        # Benchmarks that share problems stay whole as tests; elsewhere a problem or a task's id comes once.
        known = next((seen[key] for key in ([own] if split == "test" else [form, row.id]) if key in seen), None)
        if known is not None:
            copied[index] = known
        for key in (own, form, row.id):
            seen.setdefault(key, index)
    for first, second in near_copies([row for _, row in flat]):
        if first not in copied and flat[second][0] != "test":
            copied.setdefault(second, first)
    kept: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for index, (split, row) in enumerate(flat):
        if index not in copied:
            kept[split].append(row)
            continue
        other = flat[copied[index]][0]
        tallies[row.source, split].dropped[f"copies of {other} rows"] += 1
    return kept


def _card(
    splits: Mapping[str, Sequence[Row]],
    tallies: Mapping[tuple[str, str], Tally],
    ratio: Mapping[str, float],
    seed: int,
) -> dict[str, Any]:
    warnings = []
    for split in ("train", "valid"):
        counts = Counter(row.domain for row in splits[split])
        warnings += [f"{split} has no {name} row" for name, weight in ratio.items() if weight > 0 and not counts[name]]
    sources: dict[str, dict[str, Any]] = {}
    order = list(reversed(SPLITS))
    for (name, split), tally in sorted(tallies.items(), key=lambda item: order.index(item[0][1])):
        unused = tally.read - tally.kept - sum(tally.dropped.values())
        dropped = dict(tally.dropped) | ({"beyond the ratio": unused} if unused > 0 and split != "test" else {})
        sources.setdefault(name, {})[split] = {"read": tally.read, "kept": tally.kept, "dropped": dropped}
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


def _draw(row: Row, seed: int) -> bytes:
    """A place in line that depends on the row and the seed alone."""
    return hashlib.blake2b(f"{seed} {row.id} {row.question}".encode(), digest_size=8).digest()


def _shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    return sorted(rows, key=lambda row: _draw(row, seed))
