"""Loads rows from generated problems, a file, or a dataset of the Hub, and builds the training dataset."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, load_dataset

from ..errors import DataError, RecipeError, ScorerError
from ..event_loops import run_coroutine
from ..scoring import BUILTIN_DOMAINS, custom_domain, domain_remedy, known_domains
from .files import is_data_file, read_records
from .prompts import PolicyPrompt
from .schema import Row, read_row
from .synthetic import MIN_DIFFICULTY, mixed_rows, sum_rows, synthetic_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Generator:
    """An endless stream of generated problems."""

    rows: Callable[[int, str], Iterator[Row]]
    """From seed and split to the rows."""
    domains: tuple[str, ...]


SYNTHETIC = "synthetic"
_GENERATORS = {
    SYNTHETIC: _Generator(synthetic_rows, BUILTIN_DOMAINS),
    "synthetic-mixed": _Generator(mixed_rows, BUILTIN_DOMAINS),
    "synthetic-sums": _Generator(sum_rows, ("math",)),
}


def load_rows(
    source: str,
    *,
    split: str = "train",
    count: int | None = None,
    seed: int = 0,
    domains: Collection[str] | None = None,
    max_difficulty: int | None = None,
) -> list[Row]:
    """
    Load and check rows. Cheap compared with everything that follows, so that bad rows are reported first.

    Args:
        source (`str`):
            `"synthetic"`, `"synthetic-mixed"`, `"synthetic-sums"`, a file (JSON Lines, JSON, CSV, TSV, Parquet), or
            a dataset of the Hub, with the columns of the row schema.
        split (`str`, *optional*, defaults to `"train"`):
            `"train"` or `"test"`; for a dataset of the Hub any of its splits. A file has a single split.
        count (`int`, *optional*):
            Maximum number of rows; required for generated data.
        seed (`int`, *optional*, defaults to `0`):
            Seed of generated problems.
        domains (`Collection[str]`, *optional*):
            Domains to select. Defaults to all.
        max_difficulty (`int`, *optional*):
            Maximum difficulty of the rows. Defaults to no limit.

    Returns:
        `list[Row]`: At least one row, in the order of the source.

    Raises:
        [`DataError`]: A row is invalid, or no row matches.
        [`RecipeError`]: The source cannot be read, or `count` or `domains` is invalid.
    """
    _check_selection(count, domains)
    if source in _GENERATORS:
        if count is None:
            raise RecipeError("synthetic data needs a number of rows: set num_train_problems and num_eval_problems.")
        return _generate(source, split, count, seed, domains, max_difficulty)
    available = _read_file(Path(source)) if is_data_file(source) else _read_hub(source, split)
    rows = [row for row in available if _matches(row, domains, max_difficulty)]
    if not available:
        raise DataError(f"{source}: there are no rows. Give at least one problem.")
    if not rows:
        raise DataError(
            f"{source}: none of the {len(available)} rows matches {_selection(domains, max_difficulty)}. "
            "Select other domains or raise max_difficulty."
        )
    _check_scorers(source, rows)
    return rows[:count]


def _check_scorers(source: str, rows: Sequence[Row]) -> None:
    """Try the user's scorers on a gold answer, which is reported now and not in the middle of a batch."""
    for name in sorted({row.domain for row in rows}):
        domain = custom_domain(name)
        if domain is None:
            continue
        row = next(row for row in rows if row.domain == name)
        try:
            score = run_coroutine(domain.check(row.answer, row.question))
        except ScorerError as error:
            raise DataError(f"{source}: {error}") from error
        if score.value < 1:
            logger.warning(
                "%s: the scorer of %r gives the gold answer %r %.2f; where golds are answers it should be 1",
                *(source, name, row.answer[0][:80], score.value),
            )


def selection_split(source: str) -> str:
    """Split on which to select workflows, never the reported one. Generated data has no validation split."""
    return "train" if source in _GENERATORS else "validation"


def _check_selection(count: int | None, domains: Collection[str] | None) -> None:
    if count is not None and count < 1:
        raise RecipeError(f"the number of rows is {count}. Use at least 1.")
    if domains is None:
        return
    if not domains:
        raise RecipeError(f"domains is empty. Use some of {', '.join(known_domains())}, or leave it out for all.")
    if unknown := sorted(set(domains) - set(known_domains())):
        raise RecipeError(f"domains contains {unknown[0]!r}. {domain_remedy()}")


def _generate(
    source: str, split: str, count: int, seed: int, domains: Collection[str] | None, max_difficulty: int | None
) -> list[Row]:
    generator = _GENERATORS[source]
    # The streams are endless: a selection that no problem can match would be searched forever.
    if domains is not None and not set(domains) & set(generator.domains):
        raise DataError(
            f"{source}: no generated problem matches {_selection(domains, None)}. "
            f"Use some of {', '.join(generator.domains)}."
        )
    if max_difficulty is not None and max_difficulty < MIN_DIFFICULTY:
        raise DataError(f"{source}: max_difficulty is {max_difficulty}. Use {MIN_DIFFICULTY} or more.")
    stream = (row for row in generator.rows(seed, split) if _matches(row, domains, max_difficulty))
    return list(itertools.islice(stream, count))


def _matches(row: Row, domains: Collection[str] | None, max_difficulty: int | None) -> bool:
    in_domains = domains is None or row.domain in domains
    return in_domains and (max_difficulty is None or row.difficulty <= max_difficulty)


def _selection(domains: Collection[str] | None, max_difficulty: int | None) -> str:
    parts = [f"domains {', '.join(domains)}"] if domains is not None else []
    parts += [f"max_difficulty {max_difficulty}"] if max_difficulty is not None else []
    return " and ".join(parts)


def load_questions(path: Path) -> list[Row]:
    """
    Load the rows of a file that are to be answered rather than scored, so they need no gold answer.

    Args:
        path (`Path`):
            File, of a kind that [`load_rows`] reads.

    Returns:
        `list[Row]`: At least one row.

    Raises:
        [`DataError`]: A row is invalid, or there are none.
        [`RecipeError`]: The file does not exist.
    """
    rows = _read_file(path, needs_gold=False)
    if not rows:
        raise DataError(f"{path}: there are no rows. Give at least one problem.")
    return rows


def _read_file(path: Path, *, needs_gold: bool = True) -> list[Row]:
    return [read_row(record, where, needs_gold=needs_gold) for where, record in read_records(path)]


def _read_hub(name: str, split: str) -> list[Row]:
    try:
        dataset = load_dataset(name, split=split)
    # `datasets` documents no common base class: missing files, network and format errors all differ.
    except Exception as error:
        raise RecipeError(
            f"the dataset {name!r} (split {split!r}) cannot be loaded: {type(error).__name__}: {error}. "
            "Use 'synthetic', a file (.jsonl, .json, .csv, .tsv, .parquet), or a dataset of the Hub."
        ) from None
    return [read_row(raw, f"{name}, row {index}") for index, raw in enumerate(dataset)]


def build_dataset(rows: Sequence[Row], prompt: PolicyPrompt | None = None) -> Dataset:
    """
    Build the dataset that TRL trains on.

    Args:
        rows (`Sequence[Row]`):
            Problems, at least one.
        prompt ([`PolicyPrompt`], *optional*):
            Prompt of the policy. Defaults to the prompt `full` with all operators.

    Returns:
        `datasets.Dataset`: A conversational `prompt` and the columns of the row schema.

    Raises:
        [`DataError`]: There are no rows.
    """
    if not rows:
        raise DataError("there are no rows to build a dataset from. Give at least one problem.")
    policy_prompt = PolicyPrompt() if prompt is None else prompt
    return Dataset.from_list([{"prompt": policy_prompt.messages(row)} | row.columns() for row in rows])
