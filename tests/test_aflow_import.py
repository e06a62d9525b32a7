"""AFlow's workspaces become improvement records: graphs are translated or refused, never run."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from aflow_trl.data import PolicyPrompt
from aflow_trl.dsl import builtin_vocabulary, parse
from aflow_trl.errors import DataError, DSLError, RecipeError
from aflow_trl.improvement import (
    Attempt,
    Failure,
    Improvement,
    Report,
    UntranslatableError,
    import_workspace,
    improvement_messages,
    load_improvements,
    read_improvement,
    translate,
    write_improvements,
)
from aflow_trl.improvement.records import SHOWN_CHARS
from aflow_trl.operators import DEFAULT_OPERATORS
from command_line import aflow
from workspace import BODIES, MISLEADING, PROMPTS, ROUNDS, graph, write_workspace

VOCABULARY = builtin_vocabulary()


def is_workflow(text: str) -> bool:
    try:
        parse(text)
    except DSLError:
        return False
    return True


@pytest.mark.parametrize("name", BODIES)
def test_graph_is_translated_or_refused_with_the_reason(name: str) -> None:
    body, expected = BODIES[name]
    if is_workflow(expected):
        assert translate(graph(1, body), PROMPTS, VOCABULARY) == expected
    else:
        with pytest.raises(UntranslatableError, match=f"{re.escape(expected)}$"):
            translate(graph(1, body), PROMPTS, VOCABULARY)


@pytest.mark.parametrize("name", MISLEADING)
def test_graph_that_only_resembles_a_workflow_is_refused(name: str) -> None:
    with pytest.raises(UntranslatableError):
        translate(graph(1, MISLEADING[name]), PROMPTS, VOCABULARY)


HUGE = {
    "nested loops": "\n".join("    " * depth + f"for i{depth} in range(5):" for depth in range(12))
    + "\n"
    + "    " * 12
    + "x = 1",
    "doubled text": "x = 'abc'\nfor i in range(5):\n  for j in range(5):\n    for k in range(5):\n      x = x + x",
    "endless loop": "while True:\n    pass",
    "deep expression": "x = " + "(" * 90 + "1" + ")" * 90 + "+1" * 5000,
    "many conditions": "result = await self.test(problem=problem)\n" + "if result['result']:\n    x = 1\n" * 60,
}


@pytest.mark.parametrize("name", HUGE)
def test_graph_that_would_take_long_to_follow_is_refused_at_once(name: str) -> None:
    started = time.monotonic()
    with pytest.raises(UntranslatableError):
        translate(graph(1, HUGE[name]), PROMPTS, VOCABULARY)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("text", ["a\0b", "def broken(", "x = 1", "class Workflow:\n    pass"])
def test_text_that_is_not_a_graph_is_refused(text: str) -> None:
    with pytest.raises(UntranslatableError):
        translate(text, "", VOCABULARY)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def imported(workspace: Path) -> tuple[dict[str, Improvement], Report]:
    records, report = import_workspace(workspace, VOCABULARY)
    return {record.id.rpartition("-")[2]: record for record in records}, report


Imported = tuple[dict[str, Improvement], Report]


def test_report_counts_rounds_records_and_translations(imported: Imported) -> None:
    records, report = imported
    translatable = 1 + sum(is_workflow(BODIES[name][1]) for _, _, name, _ in ROUNDS)
    assert (report.rounds, report.records, report.translated) == (20, 17, translatable)
    assert len(records) == 17 and sum(report.untranslated.values()) == 20 - translatable


def test_parent_is_the_father_node(imported: Imported) -> None:
    record = imported[0]["10"]
    assert (record.parent_workflow, record.parent_score) == ("Custom", pytest.approx(0.55))


def test_validation_passes_are_averaged(imported: Imported) -> None:
    record = imported[0]["8"]
    assert (record.parent_score, record.child_score) == (pytest.approx(0.9), pytest.approx(0.9))
    assert record.performance_gain == pytest.approx(0.0, abs=1e-9)


def test_tag_is_the_sign_of_the_gain(imported: Imported) -> None:
    assert imported[0]["3"].tag == "improved" and imported[0]["4"].tag == "worse"


def test_duplicates_and_missing_parents_are_reported(imported: Imported) -> None:
    records, report = imported
    assert "17" not in records and any("round_17" in line and "round 6" in line for line in report.duplicates)
    assert "18" not in records and any("round 99" in line for line in report.missing)


def test_graph_without_a_counterpart_keeps_its_source_and_the_reason(imported: Imported) -> None:
    record = imported[0]["7"]
    assert record.child_workflow == "" and "while True" in record.child_source and "a loop of" in record.reason


def test_experience_lists_earlier_attempts_only(imported: Imported) -> None:
    assert [attempt.change for attempt in imported[0]["6"].experience] == ["Use two kinds."]
    assert not imported[0]["5"].experience


def test_failures_are_those_of_the_parent(imported: Imported) -> None:
    assert imported[0]["10"].failures[0].question == "q1"


def test_without_results_the_scores_come_from_the_names_of_the_tables(tmp_path: Path) -> None:
    folder = write_workspace(tmp_path)
    (folder / "GSM8K" / "workflows" / "results.json").unlink()
    records, report = import_workspace(folder, VOCABULARY)
    assert records[0].child_score == pytest.approx(0.65)
    assert any("results.json" in line for line in report.missing)


def test_missing_graph_is_reported(tmp_path: Path) -> None:
    folder = write_workspace(tmp_path)
    (folder / "GSM8K" / "workflows" / "round_5" / "graph.py").unlink()
    _, report = import_workspace(folder, VOCABULARY)
    assert report.rounds == 19 and any("round_5/graph.py" in line for line in report.missing)


def test_malformed_json_is_reported(tmp_path: Path) -> None:
    folder = write_workspace(tmp_path)
    (folder / "GSM8K" / "workflows" / "round_3" / "experience.json").write_text("{")
    records, report = import_workspace(folder, VOCABULARY)
    assert any("round_3/experience.json" in line for line in report.missing)
    assert not any(record.id.endswith("-3") for record in records)


def test_data_set_of_unknown_domain_needs_one(tmp_path: Path) -> None:
    (write_workspace(tmp_path) / "GSM8K").rename(tmp_path / "Riddles")
    with pytest.raises(RecipeError, match=r"Riddles.*--domain"):
        import_workspace(tmp_path, VOCABULARY)
    assert import_workspace(tmp_path, VOCABULARY, domain="math")[1].records == 17


def test_published_layout_is_read_and_an_unknown_data_set_stops_nothing(tmp_path: Path) -> None:
    (write_workspace(tmp_path) / "GSM8K" / "workflows").rename(tmp_path / "GSM8K" / "graphs")
    write_workspace(tmp_path / "again")
    write_workspace(tmp_path / "other")
    (tmp_path / "other" / "GSM8K").rename(tmp_path / "other" / "Riddles")
    records, report = import_workspace(tmp_path, VOCABULARY)
    assert report.unknown == ["other/Riddles"]
    assert len({record.id for record in records}) == len(records) == 34
    assert {record.source for record in records} == {"aflow/GSM8K", "aflow/again/GSM8K"}


def test_folder_of_the_rounds_itself_can_be_given(tmp_path: Path) -> None:
    write_workspace(tmp_path)
    records, _ = import_workspace(tmp_path / "GSM8K" / "workflows", VOCABULARY)
    assert {(record.domain, record.source) for record in records} == {("math", "aflow/GSM8K")}


def test_folder_without_rounds_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="round_N"):
        import_workspace(tmp_path, VOCABULARY)


def test_command_writes_records_that_training_reads(workspace: Path, tmp_path: Path) -> None:
    out = tmp_path / "records.jsonl"
    process = aflow("data", "import-aflow", str(workspace), "--out", str(out))
    assert process.returncode == 0, process.stderr
    assert "17 records" in process.stdout and "round_17" in process.stdout
    raw = [json.loads(line) for line in out.read_text().splitlines()]
    fields = {"messages", "ground_truth", "parent_workflow", "child_workflow", "parent_score", "child_score"}
    assert fields | {"performance_gain", "tag", "domain"} <= set(raw[0])
    assert raw[0]["messages"][-1]["role"] == "user" and raw[0]["ground_truth"].startswith("<workflow>")
    loaded = load_improvements(out, VOCABULARY)
    assert len(loaded) == sum(bool(record["parent_workflow"]) for record in raw) > 0


RECORD = {"domain": "math", "parent_score": 0.5, "parent_workflow": "Custom"}
BAD_RECORDS = [
    ({"domain": "physics"}, "domain"),
    ({**RECORD, "parent_score": 2}, "parent_score"),
    ({**RECORD, "parent_workflow": "Custom -> Solve"}, "parent_workflow"),
    ({**RECORD, "failures": [{"q": 1}]}, "failures"),
    ({**RECORD, "failures": 3}, "failures"),
    ({**RECORD, "experience": [{"change": "Custom", "gain": "much"}]}, "experience"),
    ({**RECORD, "child_score": "high"}, "child_score"),
    ({**RECORD, "parent_workflow": 7}, "parent_workflow"),
    ({**RECORD, "parent_workflow": ""}, "parent_workflow"),
]


@pytest.mark.parametrize(("raw", "field"), BAD_RECORDS, ids=[field for _, field in BAD_RECORDS])
def test_invalid_record_is_reported_with_location_and_field(raw: dict[str, object], field: str) -> None:
    with pytest.raises(DataError, match=rf"r.jsonl, line 3: '{field}'"):
        read_improvement(raw, "r.jsonl, line 3", VOCABULARY)


def test_written_records_load_as_the_same_records(tmp_path: Path) -> None:
    record = Improvement(
        "math",
        "Custom -> Format",
        0.25,
        (Failure("What is {x}?", "3", "4"),),
        (Attempt("Custom", -0.125),),
        child_workflow="Programmer",
        child_score=0.5,
        source="test",
        id="test/1-2",
    )
    write_improvements(tmp_path / "records.jsonl", [record], DEFAULT_OPERATORS)
    assert load_improvements(tmp_path / "records.jsonl", VOCABULARY) == [record]


def test_prompt_keeps_the_braces_of_a_failure() -> None:
    record = Improvement("math", "Custom", 0.25, (Failure("What is {task}?", "{score}", "4"),))
    assert "What is {task}? It answered '{score}'" in improvement_messages(record, PolicyPrompt())[1]["content"]


def test_long_failures_are_cut_in_the_prompt() -> None:
    record = Improvement("math", "Custom", 0.25, (Failure("x" * 1_000, "3", "4"),))
    assert f"- {'x' * SHOWN_CHARS} … It answered" in improvement_messages(record, PolicyPrompt())[1]["content"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "line 1: not JSON"), ("[1]", "line 1: a JSON list"), ("", "no record has a 'parent_workflow'")],
)
def test_file_without_valid_records_is_reported(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        load_improvements(tmp_path / "records.jsonl", VOCABULARY)


def test_missing_file_of_records_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.jsonl.*does not exist"):
        load_improvements(tmp_path / "none.jsonl", VOCABULARY)
