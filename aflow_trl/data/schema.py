"""The row schema: one problem with its gold, whatever its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..errors import DataError

DOMAINS = ("math", "code", "qa")
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
)


@dataclass(frozen=True, slots=True)
class Row:
    """One problem. For code the gold is `hidden_tests`; elsewhere it is `answer` (any of its aliases)."""

    question: str
    answer: tuple[str, ...]
    domain: str
    entry_point: str = ""
    public_tests: tuple[str, ...] = ()
    """Tests that may be shown to the executor."""
    hidden_tests: tuple[str, ...] = ()
    """Tests that score; no prompt ever holds one."""
    weak_verdict: bool = False
    """Whether the hidden tests need live objects and so run beside the solution, where they could be forged."""
    context: str = ""
    source: str = ""
    id: str = ""
    difficulty: int = 0
    """From 1 (easy) up; 0 means unknown."""

    def columns(self) -> dict[str, Any]:
        """The row as dataset columns, lists instead of tuples."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def read_row(raw: Mapping[str, Any], where: str, *, needs_gold: bool = True) -> Row:
    """
    Check one raw row.

    Args:
        raw (`Mapping[str, Any]`):
            Row as it was loaded. The plain `{"question", "answer", "domain", "entry_point"}` is enough.
        where (`str`):
            Place of the row for error messages, such as `"train.jsonl, line 3"`.
        needs_gold (`bool`, *optional*, defaults to `True`):
            Whether a row without a gold answer is wrong.

    Returns:
        [`Row`]: The row.

    Raises:
        [`DataError`]: A field is missing, unknown or of the wrong type. The message names place, field and remedy.
    """
    unknown = sorted(set(raw) - set(FIELDS) - {"prompt"})
    if unknown:
        raise DataError(f"{where}: unknown field {unknown[0]!r}. Known fields: {', '.join(FIELDS)}.")
    question = _text(raw, "question", where)
    if not question.strip():
        raise DataError(f"{where}: 'question' is missing or empty. Every row needs a question.")
    domain = _text(raw, "domain", where) or ("code" if raw.get("entry_point") else "math")
    if domain not in DOMAINS:
        raise DataError(f"{where}: 'domain' is {domain!r}. Use one of {', '.join(DOMAINS)}.")
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
    )
    if domain == "code" and not row.hidden_tests and row.answer and all("assert" in text for text in row.answer):
        # Rows of earlier systems keep the tests of a code task in `answer`.
        row = replace(row, answer=(), hidden_tests=row.answer)
    if not needs_gold:
        return row
    if domain == "code" and not row.hidden_tests:
        raise DataError(
            f"{where}: 'hidden_tests' is missing. A code row is scored by tests; give one, here or as 'answer'."
        )
    if domain != "code" and not row.answer:
        raise DataError(f"{where}: 'answer' is missing. Every {domain} row needs a gold answer or a list of aliases.")
    return row


def _text(raw: Mapping[str, Any], name: str, where: str) -> str:
    value = raw.get(name)
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise DataError(f"{where}: {name!r} is a {type(value).__name__}; it has to be text.")
    return str(value)


def _flag(raw: Mapping[str, Any], name: str, where: str) -> bool:
    value = raw.get(name)
    if value is not None and not isinstance(value, bool):
        raise DataError(f"{where}: {name!r} is {value!r}; it has to be true or false.")
    return bool(value)


def _whole(raw: Mapping[str, Any], name: str, where: str) -> int:
    value = raw.get(name)
    try:
        number = int(value or 0)
    except (TypeError, ValueError):
        number = -1
    if number < 0:
        raise DataError(f"{where}: {name!r} is {value!r}; it has to be a whole number, 0 if it is not known.")
    return number


def _texts(raw: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    value = raw.get(name)
    if value is None or value == "":
        return ()
    items = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(item, str | int | float) for item in items):
        raise DataError(f"{where}: {name!r} has to be text or a list of texts.")
    return tuple(str(item) for item in items)
