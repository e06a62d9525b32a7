"""The workflow language: which texts are valid, how errors are reported, and the canonical form."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aflow_trl.dsl import (
    Chain,
    Conditional,
    Done,
    Limits,
    Node,
    Operator,
    Parallel,
    Repeat,
    Workflow,
    analyze,
    builtin_vocabulary,
    chain,
    extract,
    format_workflow,
    mermaid,
    parse,
    sample_workflow,
    walk,
)
from aflow_trl.errors import DSLError

WIDE = Limits(max_source_chars=10**6, max_operators=10**6, max_depth=100, max_model_calls=10**9)

ACCEPTED = [
    ("Custom", "Custom"),
    ("  Custom \n", "Custom"),
    ("((Custom))", "Custom"),
    ("Custom()", "Custom"),
    ("Custom->Programmer", "Custom -> Programmer"),
    ("Custom -> Programmer -> Review ? Revise : done", "Custom -> Programmer -> Review ? Revise : done"),
    ("CustomCodeGenerate -> Test -> Format", "CustomCodeGenerate -> Test -> Format"),
    ("[Custom, Custom, Custom] -> ScEnsemble -> Review", "[Custom, Custom, Custom] -> ScEnsemble -> Review"),
    ("[AnswerGenerate, Programmer] -> ScEnsemble -> Review ? Revise : done",) * 2,
    ("AnswerGenerate -> (Review -> Revise) * 2 -> Format", "AnswerGenerate -> (Review -> Revise) * 2 -> Format"),
    ("(Review -> Revise) * 3", "(Review -> Revise) * 3"),
    ("[[Custom, Custom], Programmer] -> ScEnsemble", "[[Custom, Custom], Programmer] -> ScEnsemble"),
    ("[Custom -> Review -> Revise, Programmer] -> MdEnsemble",) * 2,
    ("Custom -> Review ? (Revise -> Format) : done", "Custom -> Review ? (Revise -> Format) : done"),
    ("Custom -> Review ? done : Revise", "Custom -> Review ? done : Revise"),
    ("Custom -> Review ? done : done", "Custom -> Review ? done : done"),
    ("Programmer ? Custom : done", "Programmer ? Custom : done"),
    ("CustomCodeGenerate -> Test ? Revise : Format", "CustomCodeGenerate -> Test ? Revise : Format"),
    ("(Review ? Revise : done) * 3", "(Review ? Revise : done) * 3"),
    ("Review ? Revise : done * 3", "(Review ? Revise : done) * 3"),
    ("Review ? Revise : Format * 3", "Review ? Revise : Format * 3"),
    ("Review ? Revise * 2 : done", "Review ? Revise * 2 : done"),
    ("Review ? Revise : Format * 3 * 2", "(Review ? Revise : Format * 3) * 2"),
    ("Custom * 1", "Custom * 1"),
    ("(Custom) * 5", "Custom * 5"),
    ("[Custom] * 2", "[Custom] * 2"),
    ("((Custom -> Review) * 2) * 2", "((Custom -> Review) * 2) * 2"),
    ("Custom -> (Programmer -> Review) -> Format", "Custom -> Programmer -> Review -> Format"),
    ("[Custom]", "[Custom]"),
    ("[(Custom -> Review)]", "[Custom -> Review]"),
    ("[Custom, [Custom, Custom] -> ScEnsemble] -> ScEnsemble",) * 2,
    ('Custom("be brief")', 'Custom(instruction="be brief")'),
    ('Custom(instruction="be brief")', 'Custom(instruction="be brief")'),
    ('Custom("a \\"quoted\\" word, [brackets] -> arrows")',) * 1
    + ('Custom(instruction="a \\"quoted\\" word, [brackets] -> arrows")',),
    ('Custom("é ✓")', 'Custom(instruction="é ✓")'),
    ("Custom\n->\nReview", "Custom -> Review"),
    ("[Custom, Custom] -> Programmer -> ScEnsemble", "[Custom, Custom] -> Programmer -> ScEnsemble"),
    ("[Custom, Custom] -> Review ? Revise : done", "[Custom, Custom] -> Review ? Revise : done"),
]
REJECTED = [
    ("", "empty", 1, 1),
    ("   \n ", "empty", 1, 1),
    ("Foo", "unknown_operator", 1, 1),
    ("custom", "unknown_operator", 1, 1),
    ("Custom -> Solve", "unknown_operator", 1, 11),
    ("Custom ->\nSolve", "unknown_operator", 2, 1),
    ("Custom ->", "incomplete", 1, 10),
    ("-> Custom", "unexpected_token", 1, 1),
    ("Custom Programmer", "unexpected_token", 1, 8),
    ("[Custom", "unclosed", 1, 8),
    ("(Custom -> Review", "unclosed", 1, 18),
    ("[Custom, (Review]", "unexpected_token", 1, 17),
    ("Custom]", "unexpected_token", 1, 7),
    ("[]", "unexpected_token", 1, 2),
    ("()", "unexpected_token", 1, 2),
    ("[Custom,]", "unexpected_token", 1, 9),
    ("Custom; Review", "unexpected_character", 1, 7),
    ("Custom → Review", "unexpected_character", 1, 8),
    ("Custom > Review", "unexpected_character", 1, 8),
    ("Custom - Review", "unexpected_character", 1, 8),
    ("Custom -> done", "misplaced_done", 1, 11),
    ("done", "misplaced_done", 1, 1),
    ("[done, Custom]", "misplaced_done", 1, 2),
    ("Review ? (Revise -> done) : done", "misplaced_done", 1, 21),
    ("Custom ? Revise : done", "no_verdict", 1, 1),
    ("(Custom -> Review) ? Revise : done", "no_verdict", 1, 2),
    ("[Review] ? Revise : done", "no_verdict", 1, 1),
    ("Review ? Revise", "incomplete", 1, 16),
    ("Review ? Revise :", "incomplete", 1, 18),
    ("Review ? : done", "unexpected_token", 1, 10),
    ("Review ? Revise : done ? Custom : done", "unexpected_token", 1, 24),
    ("Custom * 0", "repeat_out_of_range", 1, 1),
    ("Custom * 6", "repeat_out_of_range", 1, 1),
    ("Custom * -1", "unexpected_token", 1, 10),
    ("Custom * x", "unexpected_token", 1, 10),
    ("3 * Custom", "unexpected_token", 1, 1),
    ('Review("x")', "unknown_argument", 1, 1),
    ("Custom(tone=3)", "unknown_argument", 1, 1),
    ("Custom(instruction=3)", "wrong_argument_type", 1, 1),
    ('Custom("a", "b")', "unexpected_token", 1, 11),
    ('Custom(instruction="a", instruction="b")', "duplicate_argument", 1, 1),
    ('Custom("open', "unexpected_character", 1, 8),
    ("[[[[[[Custom]]]]]]", "too_deep", 1, 7),
    ("[" * 900 + "Custom" + "]" * 900, "too_deep", 1, 7),
    ("[" * 900 + 'Custom("x")' + "]" * 900, "too_deep", 1, 7),
    (" -> ".join(["Format"] * 25), "too_many_operators", 1, 1),
    ("Programmer * 5 -> Programmer * 5 -> Programmer * 5", "too_expensive", 1, 1),
    ("Custom -> " * 400 + "Custom", "too_long", 1, 1),
    ("import os", "unexpected_token", 1, 8),
    ("__import__('os').system('ls')", "unexpected_character", 1, 12),
]


@pytest.mark.parametrize(("source", "canonical"), ACCEPTED)
def test_valid_text_has_one_canonical_form(source: str, canonical: str) -> None:
    assert format_workflow(parse(source)) == canonical


@pytest.mark.parametrize(("source", "label", "line", "column"), REJECTED)
def test_invalid_text_is_rejected_with_label_and_position(source: str, label: str, line: int, column: int) -> None:
    with pytest.raises(DSLError) as caught:
        parse(source)
    assert (caught.value.label, caught.value.line, caught.value.column) == (label, line, column)


def test_error_shows_a_caret_and_the_expected_tokens() -> None:
    with pytest.raises(DSLError) as caught:
        parse("Custom -> [Review")
    lines = str(caught.value).splitlines()
    assert lines[1] == "Custom -> [Review" and lines[2].index("^") == caught.value.column - 1
    assert caught.value.expected == ("','", "']'")


# -- properties ------------------------------------------------------------------------------------------------------

names = st.sampled_from(sorted(builtin_vocabulary()))
plain = st.builds(Operator, names)
with_text = st.builds(
    lambda name, text: Operator(name, (("instruction", text),)),
    st.sampled_from(["Custom", "CustomCodeGenerate"]),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cf", "Cs")), max_size=12),
)
conditions = st.builds(Operator, st.sampled_from(["Review", "Test", "Programmer"]))


def _compound(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    branch = inner | st.just(Done())
    return st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda steps: chain(*steps)),
        st.lists(inner, min_size=1, max_size=3).map(lambda branches: Parallel(tuple(branches))),
        st.builds(Conditional, conditions, branch, branch),
        st.builds(Repeat, inner, st.integers(1, 5)),
    )


workflows = st.recursive(plain | with_text, _compound, max_leaves=8).map(Workflow)


@given(workflows)
def test_parse_inverts_format(workflow: Workflow) -> None:
    assert parse(format_workflow(workflow), limits=WIDE) == workflow


@given(workflows)
def test_format_is_canonical(workflow: Workflow) -> None:
    text = format_workflow(workflow)
    assert format_workflow(parse(text, limits=WIDE)) == text


fragments = st.lists(
    st.sampled_from(
        ["Custom", "Review", "->", "?", ":", "done", "[", "]", "(", ")", ",", "* 2", '"', "x", "\n", "=", "é"]
    )
).map(" ".join)


@given(st.text() | fragments)
def test_any_text_raises_at_most_a_dsl_error_with_a_valid_position(text: str) -> None:
    try:
        parse(text)
    except DSLError as error:
        lines = error.source.split("\n")
        assert 1 <= error.line <= len(lines)
        assert 1 <= error.column <= len(lines[error.line - 1]) + 1
        assert str(error)


@given(st.text() | fragments.map(lambda text: f"<workflow>{text}</workflow>"))
def test_extraction_never_raises(completion: str) -> None:
    extraction = extract(completion)
    assert (extraction.workflow is None) == (extraction.error is not None)


@given(st.integers())
def test_sampled_workflows_are_valid(seed: int) -> None:
    workflow = sample_workflow(random.Random(seed))
    assert parse(format_workflow(workflow)) == workflow


@given(workflows)
def test_a_chain_contains_no_chain(workflow: Workflow) -> None:
    for node, _ in walk(workflow.root):
        if isinstance(node, Chain):
            assert not any(isinstance(step, Chain | Done) for step in node.steps)


# -- extraction and repairs ------------------------------------------------------------------------------------------

EXTRACTED = [
    ("<workflow>Custom</workflow>", "Custom", ()),
    ("thinking <workflow>Format</workflow> no, <workflow>Custom</workflow>", "Custom", ()),
    ("<workflow>\nCustom -> Review\n</workflow> trailing words", "Custom -> Review", ()),
    ("```\nCustom\n```", "Custom", ()),
    ("```text\nFormat\n```\nor\n```\nCustom\n```", "Custom", ()),
    ("I will use this:\nCustom -> Review\n\n", "Custom -> Review", ()),
    ("<workflow>Custom → Review</workflow>", "Custom -> Review", ("arrow",)),
    ('<workflow>"Custom"</workflow>', "Custom", ("quotes",)),
    ("<workflow>`Custom -> Review`</workflow>", "Custom -> Review", ("quotes",)),
    ("<workflow>“Custom”</workflow>", "Custom", ("quotes",)),
    ("workflow: Custom", "Custom", ("label",)),
    ("Workflow: Custom", "Custom", ("label",)),
    ("<workflow>Custom -> done</workflow>", "Custom", ("trailing_done",)),
    ("<workflow>custom -> REVIEW ? revise : done</workflow>", "Custom -> Review ? Revise : done", ("case",)),
    ("`workflow: custom → done`", "Custom", ("quotes", "label", "arrow", "trailing_done", "case")),
    ('<workflow>Custom("a → b") → Review</workflow>', 'Custom(instruction="a → b") -> Review', ("arrow",)),
]


@pytest.mark.parametrize(("completion", "canonical", "repairs"), EXTRACTED)
def test_workflow_is_extracted_and_repairs_are_recorded(
    completion: str, canonical: str, repairs: tuple[str, ...]
) -> None:
    extraction = extract(completion)
    assert extraction.workflow is not None and format_workflow(extraction.workflow) == canonical
    assert extraction.repairs == repairs


@pytest.mark.parametrize(
    "completion",
    ["", "I would solve it by thinking.", "<workflow></workflow>", "<workflow>Customm</workflow>", "<workflow>Solver"],
)
def test_unknown_names_are_never_replaced_by_similar_ones(completion: str) -> None:
    assert not extract(completion).valid


# -- static analysis -------------------------------------------------------------------------------------------------

BOUNDS = [
    ("Custom", 1, 1, 1),
    ("Custom -> Programmer -> Review ? Revise : done", 6, 6, 2),
    ("[Custom, Custom, Custom] -> ScEnsemble", 4, 2, 2),
    ("[Custom, Programmer -> Review] -> MdEnsemble", 10, 9, 2),
    ("[Custom, Custom] -> Programmer", 8, 4, 2),
    ("[Custom, Custom] -> Review ? Revise : done", 6, 3, 2),
    ("(Review -> Revise) * 3", 6, 6, 2),
    ("Review ? Programmer : done", 4, 4, 2),
    ("([Custom, Custom] -> ScEnsemble) * 2", 6, 4, 3),
    ("Format -> Test", 4, 4, 1),
]


@pytest.mark.parametrize(("source", "calls", "critical", "depth"), BOUNDS)
def test_static_bounds(source: str, calls: int, critical: int, depth: int) -> None:
    analysis = analyze(parse(source))
    assert (analysis.worst_case_calls, analysis.critical_path_calls, analysis.depth) == (calls, critical, depth)


def test_flowchart_has_the_nodes_and_edges_of_the_workflow() -> None:
    chart = mermaid(parse('[Custom("a \\"b\\""), Programmer] -> ScEnsemble -> (Review ? Revise : done) * 2'))
    assert chart.splitlines() == [
        "flowchart LR",
        "    start([problem])",
        '    n1["Custom(instruction=#quot;a \\#quot;b\\#quot;#quot;)"]',
        '    n2["Programmer"]',
        '    n3["ScEnsemble"]',
        '    subgraph n4 ["up to 2 times"]',
        '    n5{"Review"}',
        '    n6["Revise"]',
        "    end",
        "    finish([answer])",
        "    start --> n1",
        "    start --> n2",
        "    n1 --> n3",
        "    n2 --> n3",
        "    n3 --> n5",
        "    n5 -->|no| n6",
        "    n6 --> finish",
        "    n5 -->|yes| finish",
    ]


def test_positions_do_not_affect_equality() -> None:
    assert parse("Custom  ->  Review") == parse("Custom->Review")


ADVERSARIAL = {
    "opening tags": "<workflow>" * 20_000,
    "one long unclosed tag": "<workflow>" + "a" * 200_000,
    "fences": "```\n" * 50_000,
    "quotes": '"' * 200_000,
    "escaped quotes": '"' + '\\"' * 100_000,
    "nesting": "[" * 200_000,
    "spaces before done": " " * 200_000 + "-> done x",
    "lines": "\n" * 200_000,
}


@pytest.mark.parametrize("completion", ADVERSARIAL.values(), ids=ADVERSARIAL)
def test_adversarial_completion_is_rejected_quickly(completion: str) -> None:
    started = time.monotonic()
    assert not extract(completion).valid
    assert time.monotonic() - started < 1.0
