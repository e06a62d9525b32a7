"""Rows from where a recipe says: generated, a JSONL file, or a dataset of the Hub."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Sequence
from pathlib import Path

from datasets import Dataset, load_dataset

from ..errors import DataError, RecipeError
from .prompts import PolicyPrompt
from .schema import Row, read_row
from .synthetic import sum_rows, synthetic_rows

SYNTHETIC = "synthetic"
GENERATED = {SYNTHETIC: synthetic_rows, "synthetic-sums": sum_rows}


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
    Load and check rows, before anything expensive.

    Args:
        source (`str`):
            `"synthetic"`, `"synthetic-sums"`, a path that ends in `.jsonl`, or a dataset of the Hub whose columns
            follow the row schema.
        split (`str`, *optional*, defaults to `"train"`):
            `"train"` or `"test"`.
        count (`int`, *optional*):
            Maximum number of rows; required for generated data.
        seed (`int`, *optional*, defaults to `0`):
            Seed of generated problems.
        domains (`Collection[str]`, *optional*):
            Domains whose rows are taken. Defaults to all.
        max_difficulty (`int`, *optional*):
            Maximum difficulty of the rows. Defaults to all.

    Returns:
        `list[Row]`: The rows, in order.

    Raises:
        [`DataError`]: A row is wrong.
        [`RecipeError`]: The source cannot be read.
    """
    if source in GENERATED:
        if count is None:
            raise RecipeError("synthetic data needs a number of rows: set num_train_problems and num_eval_problems.")
        stream = (row for row in GENERATED[source](seed, split) if _wanted(row, domains, max_difficulty))
        return list(itertools.islice(stream, count))
    read = _read_jsonl(Path(source)) if source.endswith(".jsonl") else _read_hub(source, split)
    rows = [row for row in read if _wanted(row, domains, max_difficulty)]
    if not rows:
        wanted = " with the domains and the difficulty asked for" if read else ""
        raise DataError(f"{source}: there are no rows{wanted}. Give at least one problem.")
    return rows[:count]


def selection_split(source: str) -> str:
    """Split to choose workflows on: never the one that is reported. Generated problems have no third one."""
    return "train" if source in GENERATED else "validation"


def _wanted(row: Row, domains: Collection[str] | None, max_difficulty: int | None) -> bool:
    known = domains is None or row.domain in domains
    return known and (max_difficulty is None or row.difficulty <= max_difficulty)


def _read_jsonl(path: Path, *, needs_gold: bool = True) -> list[Row]:
    if not path.is_file():
        raise RecipeError(f"the data file {str(path)!r} does not exist. Give a path relative to the working folder.")
    rows = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                rows.append(_read_line(line, f"{path}, line {number}", needs_gold=needs_gold))
    return rows


def load_questions(path: Path) -> list[Row]:
    """Rows of a JSONL file that need no gold: problems to be answered, not scored."""
    return _read_jsonl(path, needs_gold=False)


def _read_line(line: str, where: str, *, needs_gold: bool) -> Row:
    try:
        raw = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}). Write one JSON object a line.") from None
    if not isinstance(raw, dict):
        raise DataError(f"{where}: a JSON {type(raw).__name__}. Write one JSON object a line.")
    return read_row(raw, where, needs_gold=needs_gold)


def _read_hub(name: str, split: str) -> list[Row]:
    try:
        dataset = load_dataset(name, split=split)
    except Exception as error:
        raise RecipeError(
            f"the dataset {name!r} (split {split!r}) cannot be loaded: {type(error).__name__}: {error}. "
            "Give 'synthetic', a path ending in .jsonl, or a dataset of the Hub."
        ) from None
    return [read_row(raw, f"{name}, row {index}") for index, raw in enumerate(dataset)]


def build_dataset(rows: Sequence[Row], prompt: PolicyPrompt | None = None) -> Dataset:
    """
    Rows as the dataset that TRL trains on.

    Args:
        rows (`Sequence[Row]`):
            Problems.
        prompt ([`PolicyPrompt`], *optional*):
            What the policy is asked with. Defaults to the prompt `full` with all operators.

    Returns:
        `datasets.Dataset`: A conversational `prompt` and the columns of the row schema.
    """
    asked = PolicyPrompt() if prompt is None else prompt
    return Dataset.from_list([{"prompt": asked.messages(row)} | row.columns() for row in rows])
