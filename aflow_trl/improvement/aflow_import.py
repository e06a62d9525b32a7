"""
Reads the folders that AFlow's search leaves (arXiv 2410.10762) and makes improvement records of them.

    WORKSPACE/[DATASET/]workflows/results.json, processed_experience.json
    WORKSPACE/[DATASET/]workflows/round_N/graph.py, prompt.py, experience.json, log.json, SCORE_TIME.csv

Nothing in them is imported or run.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..dsl import Vocabulary
from ..errors import RecipeError
from .aflow_graph import UntranslatableError, translate
from .records import SHOWN_FAILURES, Attempt, Failure, Improvement

DOMAIN_OF = {"gsm8k": "math", "math": "math", "humaneval": "code", "mbpp": "code", "hotpotqa": "qa", "drop": "qa"}
_CSV = re.compile(r"([0-9.]+)_\d")
_ROUND = re.compile(r"round_(\d+)")


@dataclass(slots=True)
class Report:
    """What was found, made and left out."""

    rounds: int = 0
    translated: int = 0
    untranslated: Counter[str] = field(default_factory=Counter)
    """Rounds whose graph has no counterpart, by reason."""
    records: int = 0
    duplicates: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Round:
    number: int
    folder: Path
    graph: str
    prompts: str
    workflow: str
    reason: str
    score: float | None
    """Mean over the validation passes."""
    parent: int | None
    modification: str


def import_workspace(
    workspace: Path, vocabulary: Vocabulary, *, domain: str | None = None
) -> tuple[list[Improvement], Report]:
    """
    Improvement records of every round that changed another one.

    Args:
        workspace (`Path`):
            Folder of one or several data sets.
        vocabulary (`Mapping[str, OperatorSpec]`):
            Operators a workflow may name.
        domain (`str`, *optional*):
            Domain of the data set. Defaults to what its name says.

    Returns:
        `tuple[list[Improvement], Report]`: Records, and what was left out and why.

    Raises:
        [`RecipeError`]: There are no rounds, or a domain is not known.
    """
    folders = sorted({path.parent for path in workspace.glob("**/round_*") if path.is_dir()})
    if not folders:
        raise RecipeError(f"{workspace} holds no folder round_N. Give AFlow's workspace, or its folder of a data set.")
    report, records = Report(), []
    for folder in folders:
        dataset = folder.parent.name if folder.name == "workflows" else folder.name
        own = domain or DOMAIN_OF.get(dataset.lower())
        if own is None:
            raise RecipeError(f"the domain of the data set {dataset!r} is not known. Name it: --domain math|code|qa.")
        rounds = {one.number: one for one in _rounds(folder, vocabulary, report)}
        records += list(_records(dataset, own, folder, rounds, report))
    report.records = len(records)
    return records, report


def _rounds(folder: Path, vocabulary: Vocabulary, report: Report) -> Iterator[_Round]:
    results = _scores(folder, report)
    numbered = [(int(match.group(1)), path) for path in folder.iterdir() if (match := _ROUND.fullmatch(path.name))]
    for number, path in sorted(numbered):
        if not (path / "graph.py").is_file():
            report.missing.append(f"{path / 'graph.py'}")
            continue
        report.rounds += 1
        graph = (path / "graph.py").read_text(encoding="utf-8", errors="replace")
        prompts = path / "prompt.py"
        if not prompts.is_file():
            report.missing.append(str(prompts))
        text = prompts.read_text(encoding="utf-8", errors="replace") if prompts.is_file() else ""
        workflow = reason = ""
        try:
            workflow = translate(graph, text, vocabulary)
            report.translated += 1
        except UntranslatableError as error:
            reason = str(error)
            report.untranslated[reason.partition(": ")[2] or reason] += 1
        experience = _json(path / "experience.json", report if number > 1 else None)
        facts = experience if isinstance(experience, dict) else {}
        parent = facts.get("father node")
        scores = results.get(number) or _csv_scores(path)
        if not scores and isinstance(facts.get("after"), int | float):
            scores = [float(facts["after"])]
        yield _Round(
            number,
            path,
            graph,
            text,
            workflow,
            reason,
            sum(scores) / len(scores) if scores else None,
            int(parent) if isinstance(parent, int | str) and str(parent).isdigit() else None,
            str(facts.get("modification") or ""),
        )


def _records(
    dataset: str, domain: str, folder: Path, rounds: Mapping[int, _Round], report: Report
) -> Iterator[Improvement]:
    attempts = _attempts(folder, rounds)
    seen: dict[tuple[int, str], int] = {}
    for number, child in sorted(rounds.items()):
        if child.parent is None:
            continue
        parent = rounds.get(child.parent)
        if parent is None:
            report.missing.append(f"round {child.parent}, the parent of {child.folder}")
            continue
        if child.score is None or parent.score is None:
            report.missing.append(f"a score of {(child if child.score is None else parent).folder}")
            continue
        key = (parent.number, child.workflow or f"{child.graph}\n{child.prompts}")
        if key in seen:
            report.duplicates.append(f"{child.folder} repeats round {seen[key]}")
            continue
        seen[key] = number
        yield Improvement(
            domain,
            parent.workflow,
            parent.score,
            _failures(parent.folder),
            tuple(attempt for at, attempt in attempts[parent.number] if at < number),
            child_workflow=child.workflow,
            child_score=child.score,
            modification=child.modification,
            parent_source="" if parent.workflow else parent.graph,
            child_source="" if child.workflow else child.graph,
            reason=child.reason or parent.reason,
            source=f"aflow/{dataset}",
            id=f"aflow/{dataset}/{parent.number}-{number}",
        )


def _scores(folder: Path, report: Report) -> dict[int, list[float]]:
    """Scores of the validation passes of each round, from `results.json`."""
    found: defaultdict[int, list[float]] = defaultdict(list)
    entries = _json(folder / "results.json", report)
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("score"), int | float):
            found[int(entry.get("round", 0))].append(float(entry["score"]))
    return dict(found)


def _csv_scores(folder: Path) -> list[float]:
    """Scores that the names of a round's result tables say."""
    matches = (_CSV.match(path.name) for path in sorted(folder.glob("*.csv")))
    return [float(match.group(1)) for match in matches if match]


def _attempts(folder: Path, rounds: Mapping[int, _Round]) -> defaultdict[int, list[tuple[int, Attempt]]]:
    """By parent: round and outcome of every change, those of `processed_experience.json` among them."""
    found: defaultdict[int, dict[int, Attempt]] = defaultdict(dict)
    processed = _json(folder / "processed_experience.json", None)
    for parent, entry in (processed if isinstance(processed, dict) else {}).items():
        if not isinstance(entry, dict) or not isinstance(entry.get("score"), int | float):
            continue
        before = float(entry["score"])
        for outcome in ("success", "failure"):
            for number, own in (entry.get(outcome) or {}).items():
                change = Attempt(str(own.get("modification", "")), float(own.get("score", before)) - before)
                found[int(parent)][int(number)] = change
    for number, child in rounds.items():
        parent_round = rounds.get(child.parent) if child.parent is not None else None
        if parent_round is None or child.score is None or parent_round.score is None:
            continue
        gain = child.score - parent_round.score
        known = found[parent_round.number].get(number)
        text = child.modification or (known.change if known else child.workflow)
        found[parent_round.number][number] = Attempt(text, gain)
    return defaultdict(list, {parent: sorted(own.items()) for parent, own in found.items()})


def _failures(folder: Path) -> tuple[Failure, ...]:
    """Problems the round got wrong, from `log.json`; without one nothing is known."""
    entries = _json(folder / "log.json", None)
    entries = entries if isinstance(entries, list) else [entries] if isinstance(entries, dict) else []
    failures = [
        Failure(
            str(entry.get("question", "")),
            str(entry.get("extracted_output") or entry.get("model_output", "")),
            str(entry.get("right_answer", "")),
        )
        for entry in entries
        if isinstance(entry, dict)
    ]
    return tuple(failures[:SHOWN_FAILURES])


def _json(path: Path, report: Report | None) -> Any:
    """Content of a JSON file; `None`, and an entry in the report, if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        if report is not None:
            report.missing.append(str(path))
        return None
