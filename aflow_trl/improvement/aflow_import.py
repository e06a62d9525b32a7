"""
Imports the workspace of an AFlow search (arXiv 2410.10762) as improvement records.

    WORKSPACE/[DATASET/]workflows/results.json, processed_experience.json
    WORKSPACE/[DATASET/]workflows/round_N/graph.py, prompt.py, experience.json, log.json, SCORE_TIME.csv

The published results call the folder `graphs` instead of `workflows`.

The Python files are parsed only: a model wrote them, so they are never imported or run.
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
from .aflow_graph import translate
from .flows import UntranslatableError
from .records import SHOWN_FAILURES, Attempt, Failure, Improvement

DOMAIN_OF = {"gsm8k": "math", "math": "math", "humaneval": "code", "mbpp": "code", "hotpotqa": "qa", "drop": "qa"}
_CSV = re.compile(r"([0-9.]+)_\d")
_ROUND = re.compile(r"round_(\d+)")
_FOLDERS = ("workflows", "graphs", "graphs_test", "workflows_test")
"""Names of the folder of a data set that holds its rounds."""


@dataclass(slots=True)
class Report:
    """Counts of an import, and what it had to leave out."""

    rounds: int = 0
    translated: int = 0
    untranslated: Counter[str] = field(default_factory=Counter)
    """Number of rounds whose graph has no counterpart in the language, by reason."""
    records: int = 0
    duplicates: list[str] = field(default_factory=list)
    """Rounds that repeat a change of the same parent."""
    unknown: list[str] = field(default_factory=list)
    """Data sets of an unknown domain, which were left out."""
    missing: list[str] = field(default_factory=list)
    """Files, scores and parents that do not exist or cannot be read."""


@dataclass(frozen=True, slots=True)
class _Round:
    """A round of the search."""

    number: int
    folder: Path
    graph: str
    prompts: str
    workflow: str
    """Canonical text; empty if the graph has no counterpart in the language."""
    reason: str
    """Why it has no counterpart; empty if it has one."""
    score: float | None
    """Mean over the validation passes; `None` if there is none."""
    parent: int | None
    modification: str


def import_workspace(
    workspace: Path, vocabulary: Vocabulary, *, domain: str | None = None
) -> tuple[list[Improvement], Report]:
    """
    Import an improvement record for every round that changed another one.

    Args:
        workspace (`Path`):
            Workspace, or the folder of one data set in it.
        vocabulary (`Mapping[str, OperatorSpec]`):
            Operators that a workflow may use.
        domain (`str`, *optional*):
            Domain of the data sets. Defaults to the domain of the data set with that name.

    Returns:
        `tuple[list[Improvement], Report]`: Records, and a report of what was left out and why.

    Raises:
        [`RecipeError`]: There are no rounds, or the domain of no data set is known.
    """
    folders = sorted({path.parent for path in workspace.glob("**/round_*") if path.is_dir()})
    if not folders:
        raise RecipeError(
            f"{workspace} contains no folder round_N. Use the workspace of AFlow, or the folder of a data set in it."
        )
    report, records = Report(), list[Improvement]()
    for folder in folders:
        path = folder.parent if folder.name in _FOLDERS else folder
        # The path below the workspace, so that two searches on one data set do not share their ids.
        name = path.relative_to(workspace).as_posix() if workspace in path.parents else path.resolve().name
        dataset_domain = domain or _domain(path, workspace)
        if dataset_domain is None:
            report.unknown.append(name)
            continue
        rounds = {search_round.number: search_round for search_round in _rounds(folder, vocabulary, report)}
        records += list(_records(name, dataset_domain, folder, rounds, report))
    if len(report.unknown) == len(folders):
        raise RecipeError(f"the domain of the data set {report.unknown[0]!r} is unknown. Use --domain math|code|qa.")
    report.records = len(records)
    return records, report


def _domain(path: Path, workspace: Path) -> str | None:
    """Domain of a data set: of the closest folder, up to the workspace, that is named like a data set."""
    path, top = path.resolve(), workspace.resolve()
    names = [
        folder.name.lower() for folder in (path, *path.parents) if top in (folder, *folder.parents) or path == folder
    ]
    return next((DOMAIN_OF[name] for name in names if name in DOMAIN_OF), None)


def _rounds(folder: Path, vocabulary: Vocabulary, report: Report) -> Iterator[_Round]:
    """Rounds of a search in order, with what is missing added to the report."""
    results = _scores(folder, report)
    numbered = [(int(match.group(1)), path) for path in folder.iterdir() if (match := _ROUND.fullmatch(path.name))]
    for number, path in sorted(numbered):
        if not (path / "graph.py").is_file():
            report.missing.append(str(path / "graph.py"))
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
        # Round 1 is the root, which changed nothing and so has no experience.
        experience = _json(path / "experience.json", report if number > 1 else None)
        metadata = experience if isinstance(experience, dict) else {}
        parent = metadata.get("father node")
        # From most to least reliable: all validation passes, the file names of their tables, a single pass.
        scores = results.get(number) or _csv_scores(path)
        if not scores and isinstance(metadata.get("after"), int | float):
            scores = [float(metadata["after"])]
        yield _Round(
            number,
            path,
            graph,
            text,
            workflow,
            reason,
            sum(scores) / len(scores) if scores else None,
            int(parent) if isinstance(parent, int | str) and str(parent).isdigit() else None,
            str(metadata.get("modification") or ""),
        )


def _records(
    dataset: str, domain: str, folder: Path, rounds: Mapping[int, _Round], report: Report
) -> Iterator[Improvement]:
    """Records of the rounds whose parent and scores are available, each change of a parent once."""
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
            report.missing.append(f"the score of {(child if child.score is None else parent).folder}")
            continue
        # Untranslated rounds are compared by their code.
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
            # Only earlier attempts: later ones would reveal what this round is about to try.
            tuple(attempt for attempt_number, attempt in attempts[parent.number] if attempt_number < number),
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
    """Scores of the validation passes by round, from `results.json`."""
    scores: defaultdict[int, list[float]] = defaultdict(list)
    entries = _json(folder / "results.json", report)
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("score"), int | float):
            scores[int(entry.get("round", 0))].append(float(entry["score"]))
    return dict(scores)


def _csv_scores(folder: Path) -> list[float]:
    """Scores in the file names of a round's result tables, such as `0.65000_20241016_000000.csv`."""
    matches = (_CSV.match(path.name) for path in sorted(folder.glob("*.csv")))
    return [float(match.group(1)) for match in matches if match]


def _attempts(folder: Path, rounds: Mapping[int, _Round]) -> defaultdict[int, list[tuple[int, Attempt]]]:
    """Changes of each parent with the round that tried them, including those in `processed_experience.json`."""
    attempts: defaultdict[int, dict[int, Attempt]] = defaultdict(dict)
    processed = _json(folder / "processed_experience.json", None)
    for parent, entry in (processed if isinstance(processed, dict) else {}).items():
        if not isinstance(entry, dict) or not isinstance(entry.get("score"), int | float):
            continue
        before = float(entry["score"])
        for outcome in ("success", "failure"):
            for number, change in (entry.get(outcome) or {}).items():
                gain = float(change.get("score", before)) - before
                attempts[int(parent)][int(number)] = Attempt(str(change.get("modification", "")), gain)
    for number, child in rounds.items():
        parent_round = rounds.get(child.parent) if child.parent is not None else None
        if parent_round is None or child.score is None or parent_round.score is None:
            continue
        # `processed_experience.json` may be older than the last validation passes, so the rounds' scores win.
        gain = child.score - parent_round.score
        processed_attempt = attempts[parent_round.number].get(number)
        text = child.modification or (processed_attempt.change if processed_attempt else child.workflow)
        attempts[parent_round.number][number] = Attempt(text, gain)
    return defaultdict(list, {parent: sorted(by_number.items()) for parent, by_number in attempts.items()})


def _failures(folder: Path) -> tuple[Failure, ...]:
    """Problems that a round got wrong, from `log.json`; empty without such a file."""
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
    """Content of a JSON file; `None`, and an entry in the report, if it is missing or malformed."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        if report is not None:
            report.missing.append(str(path))
        return None
