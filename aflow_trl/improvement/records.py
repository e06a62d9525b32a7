"""Improvement records: a workflow, how it did, what came of changing it; and the prompt that asks for a better one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..data import DOMAINS, Message, PolicyPrompt, policy_prompts
from ..dsl import Vocabulary, format_workflow, parse
from ..errors import DataError, DSLError, RecipeError
from ..operators import OperatorRegistry

SHOWN_FAILURES = 3
SHOWN_ATTEMPTS = 5
SHOWN_CHARS = 300
"""Of a text in a failure."""
TASK_DESCRIPTIONS = {
    "math": "math problems with one final answer",
    "code": "programming tasks, scored by hidden tests",
    "qa": "questions answered from passages with a short phrase",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """A problem that a workflow got wrong."""

    question: str
    answer: str
    """What the workflow answered."""
    gold: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """An earlier change of the same workflow."""

    change: str
    """The workflow it led to, or what was changed in words."""
    gain: float
    """Score of the new workflow minus score of the old one."""


@dataclass(frozen=True, slots=True)
class Improvement:
    """
    A workflow to improve, and what somebody's attempt came to. Scores are shares of problems solved, in [0, 1].

    `child_workflow` and everything measured on it are for analysis and supervised training only; no reward reads them.
    """

    domain: str
    parent_workflow: str
    """Canonical text; empty if the original has no counterpart in the language."""
    parent_score: float
    failures: tuple[Failure, ...] = ()
    experience: tuple[Attempt, ...] = ()
    child_workflow: str = ""
    child_score: float | None = None
    modification: str = ""
    parent_source: str = ""
    """The original where it has no counterpart."""
    child_source: str = ""
    reason: str = ""
    """Why it has none."""
    source: str = ""
    id: str = ""

    @property
    def performance_gain(self) -> float | None:
        """Child's score minus parent's; `None` if there is no child."""
        return None if self.child_score is None else self.child_score - self.parent_score

    @property
    def tag(self) -> str:
        """`improved`, `worse` or `equal`; empty if there is no child."""
        gain = self.performance_gain
        return "" if gain is None else "improved" if gain > 0 else "worse" if gain < 0 else "equal"

    def to_json(self, messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        """Plain data, with the prompt and the reply that supervised training would want."""
        reply = f"<workflow>{self.child_workflow}</workflow>" if self.child_workflow else self.child_source
        derived = {"performance_gain": self.performance_gain, "tag": self.tag}
        return {"messages": list(messages), "ground_truth": reply} | asdict(self) | derived


def read_improvement(raw: Mapping[str, Any], where: str, vocabulary: Vocabulary) -> Improvement | None:
    """
    Check one record.

    Args:
        raw (`Mapping[str, Any]`):
            Record, as [`Improvement.to_json`] writes it; `domain`, `parent_workflow` and `parent_score` are enough.
        where (`str`):
            Place of the record, for errors.
        vocabulary (`Mapping[str, OperatorSpec]`):
            Operators its workflow may name.

    Returns:
        [`Improvement`], *optional*: The record; `None` if its parent has no counterpart in the language.

    Raises:
        [`DataError`]: A field is missing or wrong. The message names place, field and remedy.
    """
    domain, text, score = raw.get("domain"), raw.get("parent_workflow", ""), raw.get("parent_score")
    if domain not in DOMAINS:
        raise DataError(f"{where}: 'domain' is {domain!r}. Use one of {', '.join(DOMAINS)}.")
    if not isinstance(score, int | float) or not 0 <= score <= 1:
        raise DataError(f"{where}: 'parent_score' is {score!r}; it has to be a share between 0 and 1.")
    if not text and raw.get("parent_source"):
        return None
    try:
        workflow = format_workflow(parse(text, vocabulary=vocabulary))
    except (DSLError, TypeError) as error:
        raise DataError(f"{where}: 'parent_workflow' is {text!r}, which is no workflow: {error}") from None
    try:
        failures = tuple(Failure(**one) for one in raw.get("failures") or ())
        experience = tuple(Attempt(**one) for one in raw.get("experience") or ())
    except TypeError as error:
        raise DataError(
            f"{where}: 'failures' or 'experience' is not a list of records as they are written: {error}"
        ) from None
    return Improvement(
        domain,
        workflow,
        float(score),
        failures,
        experience,
        child_workflow=raw.get("child_workflow") or "",
        child_score=raw.get("child_score"),
        modification=raw.get("modification") or "",
        source=raw.get("source") or "",
        id=raw.get("id") or "",
    )


def load_improvements(path: Path, vocabulary: Vocabulary) -> list[Improvement]:
    """
    Records of a JSONL file, those without a counterpart in the language left out.

    Raises:
        [`DataError`]: A record is wrong, or none is left.
        [`RecipeError`]: There is no such file.
    """
    if not path.is_file():
        raise RecipeError(f"the data file {str(path)!r} does not exist. Give a path relative to the working folder.")
    records = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number}"
            try:
                raw = json.loads(line)
            except ValueError as error:
                raise DataError(f"{where}: not JSON ({error}). Write one JSON object a line.") from None
            if not isinstance(raw, dict):
                raise DataError(f"{where}: a JSON {type(raw).__name__}. Write one JSON object a line.")
            records.append(read_improvement(raw, where, vocabulary))
    kept = [record for record in records if record is not None]
    if not kept:
        raise DataError(f"{path}: no record has a workflow of the language. Give at least one.")
    return kept


def write_improvements(path: Path, records: Sequence[Improvement], operators: OperatorRegistry) -> None:
    """Write records as JSONL, each with the `full` prompt and the reply that supervised training would want."""
    path.parent.mkdir(parents=True, exist_ok=True)
    prompt = PolicyPrompt("full", operators)
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            row = record.to_json(improvement_messages(record, prompt))
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def improvement_messages(record: Improvement, prompt: PolicyPrompt) -> list[Message]:
    """
    Chat messages that ask for a better workflow: the task, the current workflow, its score, failures, experience.

    Args:
        record ([`Improvement`]):
            What is to be improved.
        prompt ([`~aflow_trl.data.PolicyPrompt`]):
            Prompt, and the operators that may be used.

    Returns:
        `list[dict[str, str]]`: A system and a user message.
    """
    failures = "\n".join(
        f"- {_short(one.question)} It answered {_short(one.answer)!r}; right is {_short(one.gold)!r}."
        for one in record.failures[:SHOWN_FAILURES]
    )
    attempts = "\n".join(f"- {_short(one.change)}: {one.gain:+.3f}" for one in record.experience[:SHOWN_ATTEMPTS])
    fields = {
        "task": TASK_DESCRIPTIONS[record.domain],
        "workflow": record.parent_workflow or record.parent_source,
        "score": f"{record.parent_score:.3f}",
        "failures": failures or "- none known",
        "experience": attempts or "- none yet",
    }
    # All at once: a failure may hold braces of its own.
    user = re.sub(r"\{(\w+)\}", lambda match: fields[match.group(1)], policy_prompts()[prompt.name]["improve"])
    return [{"role": "system", "content": prompt.system}, {"role": "user", "content": user}]


def _short(text: str) -> str:
    bare = " ".join(text.split())
    return bare if len(bare) <= SHOWN_CHARS else bare[:SHOWN_CHARS] + " …"
