"""Improvement records: a workflow, its results and earlier changes of it; and the prompt for a better one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..data import Message, PolicyPrompt, policy_prompts
from ..dsl import Vocabulary, format_workflow, parse
from ..errors import DataError, DSLError, RecipeError
from ..operators import OperatorRegistry
from ..scoring import custom_domain, domain_remedy, known_domains

SHOWN_FAILURES = 3
SHOWN_ATTEMPTS = 5
SHOWN_CHARS = 300
"""Part of each text that a prompt includes."""
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
    """Answer of the workflow."""
    gold: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """An earlier change of the same workflow."""

    change: str
    """The resulting workflow, or a description of the change."""
    gain: float
    """Score of the new workflow minus score of the old one."""


@dataclass(frozen=True, slots=True)
class Improvement:
    """
    A workflow to improve, with the result of one attempt. Scores are shares of problems solved, in [0, 1].

    `child_workflow` and its measurements are for analysis and supervised training only. No reward reads them: a reward
    has to depend on the response of the policy, not on somebody else's.
    """

    domain: str
    parent_workflow: str
    """Canonical text; empty if the original program has no counterpart in the language."""
    parent_score: float
    failures: tuple[Failure, ...] = ()
    experience: tuple[Attempt, ...] = ()
    child_workflow: str = ""
    child_score: float | None = None
    modification: str = ""
    parent_source: str = ""
    """Original program if it has no counterpart in the language, otherwise empty."""
    child_source: str = ""
    reason: str = ""
    """Why an original program has no counterpart in the language."""
    source: str = ""
    id: str = ""

    @property
    def performance_gain(self) -> float | None:
        """Score of the child minus that of the parent; `None` if there is no child."""
        return None if self.child_score is None else self.child_score - self.parent_score

    @property
    def tag(self) -> str:
        """`improved`, `worse` or `equal`; empty if there is no child."""
        gain = self.performance_gain
        if gain is None:
            return ""
        if gain == 0:
            return "equal"
        return "improved" if gain > 0 else "worse"

    def to_json(self, messages: Sequence[Mapping[str, str]]) -> dict[str, object]:
        """Plain data, including the messages of a prompt and the reply that supervised training would train on."""
        reply = f"<workflow>{self.child_workflow}</workflow>" if self.child_workflow else self.child_source
        derived = {"performance_gain": self.performance_gain, "tag": self.tag}
        return {"messages": list(messages), "ground_truth": reply} | asdict(self) | derived


def read_improvement(raw: Mapping[str, object], where: str, vocabulary: Vocabulary) -> Improvement | None:
    """
    Validate a record.

    Args:
        raw (`Mapping[str, object]`):
            Record in the format of [`Improvement.to_json`]. `domain`, `parent_workflow` and `parent_score` are enough.
        where (`str`):
            Location of the record for error messages, such as `"data.jsonl, line 3"`.
        vocabulary (`Mapping[str, OperatorSpec]`):
            Operators that its workflow may use.

    Returns:
        [`Improvement`], *optional*: The record; `None` if its parent has no counterpart in the language.

    Raises:
        [`DataError`]: A field is missing or invalid. The message names location, field and remedy.
    """
    domain, text, score = raw.get("domain"), raw.get("parent_workflow", ""), raw.get("parent_score")
    if domain not in known_domains():
        raise DataError(f"{where}: 'domain' is {domain!r}. {domain_remedy()}")
    if not isinstance(score, int | float) or not 0 <= score <= 1:
        raise DataError(f"{where}: 'parent_score' is {score!r}; it must be a share between 0 and 1.")
    # Importers keep such records for analysis; there is no workflow that a policy could improve.
    if not text and raw.get("parent_source"):
        return None
    if not isinstance(text, str):
        raise DataError(f"{where}: 'parent_workflow' is {text!r}; it must be the text of a workflow.")
    try:
        workflow = format_workflow(parse(text, vocabulary=vocabulary))
    except DSLError as error:
        raise DataError(f"{where}: 'parent_workflow' is {text!r}, which is not a workflow: {error}") from None
    child_score = raw.get("child_score")
    return Improvement(
        str(domain),
        workflow,
        float(score),
        tuple(
            Failure(str(question), str(answer), str(gold))
            for question, answer, gold in _objects(raw, "failures", ("question", "answer", "gold"), where)
        ),
        tuple(
            Attempt(str(change), _number(gain, "experience", where))
            for change, gain in _objects(raw, "experience", ("change", "gain"), where)
        ),
        child_workflow=str(raw.get("child_workflow") or ""),
        child_score=None if child_score is None else _number(child_score, "child_score", where),
        modification=str(raw.get("modification") or ""),
        source=str(raw.get("source") or ""),
        id=str(raw.get("id") or ""),
    )


def _objects(raw: Mapping[str, object], name: str, fields: tuple[str, ...], where: str) -> list[tuple[object, ...]]:
    """Values of the fields of each object in a list."""
    items = raw.get(name) or ()
    error = DataError(f"{where}: {name!r} must be a list of objects with the fields {', '.join(fields)}.")
    if not isinstance(items, list | tuple):
        raise error
    if not all(isinstance(item, Mapping) and set(item) == set(fields) for item in items):
        raise error
    return [tuple(item[field] for field in fields) for item in items]


def _number(value: object, name: str, where: str) -> float:
    if not isinstance(value, int | float):
        raise DataError(f"{where}: {name!r} contains {value!r}; it must be a number.")
    return float(value)


def load_improvements(path: Path, vocabulary: Vocabulary) -> list[Improvement]:
    """
    Load the records of a JSONL file.

    Args:
        path (`Path`):
            JSONL file.
        vocabulary (`Mapping[str, OperatorSpec]`):
            Operators that a workflow may use.

    Returns:
        `list[Improvement]`: At least one record. Records whose parent has no counterpart in the language are left out.

    Raises:
        [`DataError`]: A record is invalid, or none has a workflow.
        [`RecipeError`]: The file does not exist.
    """
    if not path.is_file():
        raise RecipeError(f"the data file {str(path)!r} does not exist. Check the path and the working directory.")
    records = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number}"
            try:
                raw = json.loads(line)
            except ValueError as error:
                raise DataError(f"{where}: not JSON ({error}). Write one JSON object per line.") from None
            if not isinstance(raw, dict):
                raise DataError(f"{where}: a JSON {type(raw).__name__}. Write one JSON object per line.")
            records.append(read_improvement(raw, where, vocabulary))
    translated = [record for record in records if record is not None]
    if not translated:
        raise DataError(f"{path}: no record has a 'parent_workflow'. Give at least one.")
    return translated


def write_improvements(path: Path, records: Sequence[Improvement], operators: OperatorRegistry) -> None:
    """Write records as JSONL, each with the messages of the `full` prompt and the reply to train on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    prompt = PolicyPrompt("full", operators)
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            row = record.to_json(improvement_messages(record, prompt))
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def improvement_messages(record: Improvement, prompt: PolicyPrompt) -> list[Message]:
    """
    Build the chat messages that ask for a better workflow.

    They contain the task, the current workflow with its score, and some of its failures and earlier attempts.

    Args:
        record ([`Improvement`]):
            Workflow to improve.
        prompt ([`~aflow_trl.data.PolicyPrompt`]):
            Prompt, and the operators that the new workflow may use.

    Returns:
        `list[dict[str, str]]`: A system message, where the prompt has one, and a user message.
    """
    failures = "\n".join(
        f"- {_short(failure.question)} It answered {_short(failure.answer)!r}; "
        f"the correct answer is {_short(failure.gold)!r}."
        for failure in record.failures[:SHOWN_FAILURES]
    )
    attempts = "\n".join(
        f"- {_short(attempt.change)}: {attempt.gain:+.3f}" for attempt in record.experience[:SHOWN_ATTEMPTS]
    )
    fields = {
        "task": _task_description(record.domain),
        "workflow": record.parent_workflow or record.parent_source,
        "score": f"{record.parent_score:.3f}",
        "failures": failures or "- none recorded",
        "experience": attempts or "- none yet",
    }
    # In a single pass, because the text of a failure may contain braces.
    user = re.sub(r"\{(\w+)\}", lambda match: fields[match.group(1)], policy_prompts()[prompt.name]["improve"])
    return prompt.chat(prompt.system, [{"role": "user", "content": user}])


def _short(text: str) -> str:
    """The text on one line, cut at [`SHOWN_CHARS`]."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARS else f"{line[:SHOWN_CHARS]} …"


def _task_description(domain: str) -> str:
    custom = custom_domain(domain)
    return TASK_DESCRIPTIONS[domain] if custom is None else custom.description
