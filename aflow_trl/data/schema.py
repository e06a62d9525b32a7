"""The row schema: a problem with its gold answer or tests, whatever its source."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypeAlias

from ..errors import DataError
from ..scoring import domain_remedy, known_domains

Column: TypeAlias = str | int | bool | list[str]
"""Value of a row in a dataset."""

FIELDS = (
    "question",
    "answer",
    "domain",
    "entry_point",
    "public_tests",
    "hidden_tests",
    "weak_verdict",
    "context",
    "source",
    "id",
    "difficulty",
    "budget",
)


@dataclass(frozen=True, slots=True)
class Row:
    """A problem. The gold is `hidden_tests` for code, and otherwise `answer`, any of whose aliases is correct."""

    question: str
    answer: tuple[str, ...]
    domain: str
    entry_point: str = ""
    public_tests: tuple[str, ...] = ()
    """Tests that may be shown to the executor."""
    hidden_tests: tuple[str, ...] = ()
    """Tests that score; they never appear in a prompt."""
    weak_verdict: bool = False
    """Whether the hidden tests need live objects and so run in the solution's process, where they could be forged."""
    context: str = ""
    """Passages that the question refers to."""
    source: str = ""
    """Name of the data set."""
    id: str = ""
    difficulty: int = 0
    """1 (easy) or higher; 0 if unknown."""
    budget: str = ""
    """How much its workflow may cost, as a word that the policy reads; see `target_calls_per_problem`."""

    def columns(self) -> dict[str, Column]:
        """The row as dataset columns, with lists instead of tuples."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def read_row(raw: Mapping[str, object], where: str, *, needs_gold: bool = True) -> Row:
    """
    Validate a raw row.

    Args:
        raw (`Mapping[str, Any]`):
            Row as loaded from its source. `question` and a gold answer are enough.
        where (`str`):
            Location of the row for error messages, such as `"train.jsonl, line 3"`.
        needs_gold (`bool`, *optional*, defaults to `True`):
            Whether a row without gold answer or hidden tests is an error.

    Returns:
        [`Row`]: The row.

    Raises:
        [`DataError`]: A field is missing, unknown or of the wrong type. The message names location, field and remedy.
    """
    # A dataset written by `build_dataset` has a column `prompt`, which is derived from the others.
    unknown = sorted(set(raw) - set(FIELDS) - {"prompt"})
    # An ignored field would be a typo, such as "hidden_test", that silently leaves a row without tests.
    if unknown:
        raise DataError(f"{where}: unknown field {unknown[0]!r}. Valid fields: {', '.join(FIELDS)}.")
    question = _text(raw, "question", where)
    if not question.strip():
        raise DataError(f"{where}: 'question' is missing or empty. Every row needs a question.")
    domain = _text(raw, "domain", where) or ("code" if raw.get("entry_point") else "math")
    if domain not in known_domains():
        raise DataError(f"{where}: 'domain' is {domain!r}. {domain_remedy()}")
    row = Row(
        question=question,
        answer=_texts(raw, "answer", where),
        domain=domain,
        entry_point=_text(raw, "entry_point", where),
        public_tests=_texts(raw, "public_tests", where),
        hidden_tests=_texts(raw, "hidden_tests", where),
        weak_verdict=_flag(raw, "weak_verdict", where),
        context=_text(raw, "context", where),
        source=_text(raw, "source", where),
        id=_text(raw, "id", where),
        difficulty=_whole(raw, "difficulty", where),
        budget=_text(raw, "budget", where),
    )
    if domain == "code" and not row.hidden_tests and holds_tests(row.answer):
        row = replace(row, answer=(), hidden_tests=row.answer)
    for name in ("public_tests", "hidden_tests"):
        for test in getattr(row, name):
            _check_test(test, name, where)
    if not needs_gold:
        return row
    if domain == "code" and not row.hidden_tests:
        raise DataError(
            f"{where}: 'hidden_tests' is missing. A code row is scored by tests; give one, here or as 'answer'."
        )
    if domain != "code" and not row.answer:
        raise DataError(f"{where}: 'answer' is missing. Every {domain} row needs a gold answer or a list of aliases.")
    return row


def holds_tests(answer: Sequence[str]) -> bool:
    """Whether `answer` of a code row holds its tests: a common plain format has four columns only."""
    return bool(answer) and all("assert" in text for text in answer)


def _check_test(test: str, name: str, where: str) -> None:
    """Refuse a test that no sandbox could run: every solution would fail it."""
    if not test.strip():
        raise DataError(f"{where}: {name!r} holds an empty test. Remove it.")
    try:
        if test.lstrip().startswith("{"):
            json.loads(test)
        else:
            ast.parse(test)
    except (ValueError, SyntaxError) as error:  # ValueError: not JSON, or a null byte in Python
        raise DataError(
            f"{where}: {name!r} holds {test[:60]!r}, which is neither Python nor the JSON of a program's input and "
            f"output ({error})."
        ) from None


def _text(raw: Mapping[str, object], name: str, where: str) -> str:
    value = raw.get(name)
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise DataError(f"{where}: {name!r} is a {type(value).__name__}; it must be text.")
    return str(value)


def _flag(raw: Mapping[str, object], name: str, where: str) -> bool:
    value = raw.get(name)
    if value is not None and not isinstance(value, bool):
        raise DataError(f"{where}: {name!r} is {value!r}; it must be true or false.")
    return bool(value)


def _whole(raw: Mapping[str, object], name: str, where: str) -> int:
    value = raw.get(name)
    if value is None or value == "":
        return 0
    try:
        number = int(value) if isinstance(value, str | int | float) else -1
    except (ValueError, OverflowError):
        number = -1
    if number < 0:
        raise DataError(f"{where}: {name!r} is {value!r}; it must be a whole number, or 0 if unknown.")
    return number


def _texts(raw: Mapping[str, object], name: str, where: str) -> tuple[str, ...]:
    value = raw.get(name)
    # A single answer may be given without a list; numbers are common as golds of math rows.
    if value is None or value == "":
        return ()
    items = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(item, str | int | float) for item in items):
        raise DataError(f"{where}: {name!r} must be text or a list of texts.")
    return tuple(str(item) for item in items)
