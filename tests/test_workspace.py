"""AFlow's workspaces become improvement records: read as text, parents as they were, passes averaged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from aflow_trl.dsl import builtin_vocabulary, parse
from aflow_trl.errors import DataError, DSLError, RecipeError
from aflow_trl.improvement import (
    Improvement,
    Report,
    UntranslatableError,
    import_workspace,
    load_improvements,
    read_improvement,
    translate,
)
from workspace import BODIES, OTHERWISE, PROMPTS, ROUNDS, graph, write_workspace

WORDS = builtin_vocabulary()


def is_workflow(text: str) -> bool:
    try:
        parse(text)
    except DSLError:
        return False
    return True


@pytest.mark.parametrize("name", BODIES)
def test_a_graph_is_translated_or_refused_with_the_reason(name: str) -> None:
    body, meaning = BODIES[name]
    if is_workflow(meaning):
        assert translate(graph(1, body), PROMPTS, WORDS) == meaning
    else:
        with pytest.raises(UntranslatableError) as caught:
            translate(graph(1, body), PROMPTS, WORDS)
        assert str(caught.value).endswith(meaning)


@pytest.mark.parametrize("name", OTHERWISE)
def test_a_graph_that_means_something_else_is_refused(name: str) -> None:
    with pytest.raises(UntranslatableError):
        translate(graph(1, OTHERWISE[name]), PROMPTS, WORDS)


@pytest.mark.parametrize("text", ["def broken(", "x = 1", "class Workflow:\n    pass"])
def test_text_that_is_no_graph_is_refused(text: str) -> None:
    with pytest.raises(UntranslatableError):
        translate(text, "", WORDS)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def imported(workspace: Path) -> tuple[dict[str, Improvement], Report]:
    records, report = import_workspace(workspace, WORDS)
    return {record.id.rpartition("-")[2]: record for record in records}, report


Imported = tuple[dict[str, Improvement], Report]


def test_rounds_records_and_translated_are_counted(imported: Imported) -> None:
    records, report = imported
    translatable = 1 + sum(is_workflow(BODIES[name][1]) for _, _, name, _ in ROUNDS)
    assert (report.rounds, report.records, report.translated) == (20, 17, translatable)
    assert len(records) == 17 and sum(report.untranslated.values()) == 20 - translatable


def test_the_parent_is_the_father_node(imported: Imported) -> None:
    record = imported[0]["10"]
    assert (record.parent_workflow, record.parent_score) == ("Custom", pytest.approx(0.55))


def test_validation_passes_are_averaged(imported: Imported) -> None:
    record = imported[0]["8"]
    assert (record.parent_score, record.child_score) == (pytest.approx(0.9), pytest.approx(0.9))
    assert record.performance_gain == pytest.approx(0.0, abs=1e-9)
    assert imported[0]["3"].tag == "improved" and imported[0]["4"].tag == "worse"


def test_duplicates_and_missing_parents_are_reported(imported: Imported) -> None:
    records, report = imported
    assert "17" not in records and any("round_17" in line and "round 6" in line for line in report.duplicates)
    assert "18" not in records and any("round 99" in line for line in report.missing)


def test_what_has_no_counterpart_keeps_its_source_and_the_reason(imported: Imported) -> None:
    record = imported[0]["7"]
    assert record.child_workflow == "" and "while True" in record.child_source and "While" in record.reason


def test_experience_is_what_was_tried_before(imported: Imported) -> None:
    assert [attempt.change for attempt in imported[0]["6"].experience] == ["Use two kinds."]
    assert not imported[0]["5"].experience


def test_failures_are_the_parents(imported: Imported) -> None:
    assert imported[0]["10"].failures[0].question == "q1"


def test_without_results_the_tables_tell_the_scores(workspace: Path, tmp_path: Path) -> None:
    folder = write_workspace(tmp_path)
    (folder / "GSM8K" / "workflows" / "results.json").unlink()
    (folder / "GSM8K" / "workflows" / "round_5" / "graph.py").unlink()
    records, report = import_workspace(folder, WORDS)
    assert records[0].child_score == pytest.approx(0.65)
    assert any("results.json" in line for line in report.missing)
    assert any("round_5" in line for line in report.missing)


def test_a_data_set_of_unknown_domain_has_to_be_named(tmp_path: Path) -> None:
    (write_workspace(tmp_path) / "GSM8K").rename(tmp_path / "Riddles")
    with pytest.raises(RecipeError, match=r"Riddles.*--domain"):
        import_workspace(tmp_path, WORDS)
    assert import_workspace(tmp_path, WORDS, domain="math")[1].records == 17


def test_a_folder_without_rounds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="round_N"):
        import_workspace(tmp_path, WORDS)


def test_the_command_writes_records_that_training_reads(workspace: Path, tmp_path: Path) -> None:
    out = tmp_path / "records.jsonl"
    command = [sys.executable, "-m", "aflow_trl.cli", "data", "import-aflow", str(workspace), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "17 records" in done.stdout and "round_17" in done.stdout
    raw = [json.loads(line) for line in out.read_text().splitlines()]
    wanted = {"messages", "ground_truth", "parent_workflow", "child_workflow", "parent_score", "child_score"}
    assert wanted | {"performance_gain", "tag", "domain"} <= set(raw[0])
    assert raw[0]["messages"][-1]["role"] == "user" and raw[0]["ground_truth"].startswith("<workflow>")
    kept = load_improvements(out, WORDS)
    assert 0 < len(kept) <= len(raw) and all(record.parent_workflow for record in kept)


BAD_RECORDS = [
    ({"domain": "physics"}, "domain"),
    ({"domain": "math", "parent_score": 2, "parent_workflow": "Custom"}, "parent_score"),
    ({"domain": "math", "parent_score": 0.5, "parent_workflow": "Custom -> Solve"}, "parent_workflow"),
    ({"domain": "math", "parent_score": 0.5, "parent_workflow": "Custom", "failures": [{"q": 1}]}, "failures"),
]


@pytest.mark.parametrize(("raw", "field"), BAD_RECORDS, ids=[field for _, field in BAD_RECORDS])
def test_a_bad_record_is_named_by_place_and_field(raw: dict[str, object], field: str) -> None:
    with pytest.raises(DataError, match=rf"r.jsonl, line 3: '{field}'"):
        read_improvement(raw, "r.jsonl, line 3", WORDS)
