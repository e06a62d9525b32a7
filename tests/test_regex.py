"""Constrained decoding: the expression accepts exactly the canonical workflows up to its depth."""

from __future__ import annotations

import re
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aflow_trl.dsl import (
    Limits,
    Workflow,
    analyze,
    builtin_vocabulary,
    extract,
    format_workflow,
    parse,
    workflow_regex,
)
from aflow_trl.errors import DSLError
from test_dsl import workflows

NO_COUNTS = Limits(max_source_chars=10**9, max_operators=10**9, max_model_calls=10**9)
"""Only the limit on depth, which is all that a regular expression of this size can enforce."""
DEPTHS = (1, 2, 3)


@cache
def compiled(depth: int) -> re.Pattern[str]:
    return re.compile(workflow_regex(depth, tags=False))


@pytest.mark.parametrize("depth", [1, 2])  # level 3 is built from level 2 in the same way
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_every_match_is_a_workflow_within_the_depth(depth: int, data: st.DataObject) -> None:
    text = data.draw(st.from_regex(compiled(depth), fullmatch=True))
    assert analyze(parse(text, limits=NO_COUNTS)).depth <= depth


@given(workflows)
@settings(max_examples=60, deadline=None)
def test_a_workflow_matches_exactly_if_it_is_within_the_depth(workflow: Workflow) -> None:
    text, actual = format_workflow(workflow), analyze(workflow).depth
    for depth in DEPTHS:
        assert bool(compiled(depth).fullmatch(text)) == (actual <= depth)


EXAMPLES = [
    ("Custom", 1, True),
    ("Custom -> Review -> Revise", 1, True),
    ('Custom(instruction="a \\"b\\" c") -> Format', 1, True),
    ("[AnswerGenerate, Programmer -> Format] -> ScEnsemble", 2, True),
    ("Custom -> Review ? Revise : done", 2, True),
    ("Custom -> Review ? (Revise -> Format) : done", 2, True),
    ("(Custom -> Review ? Revise : done) * 3", 3, True),
    ("(Custom -> Review ? Revise : done) * 3", 2, False),
    ("Custom -> done", 3, False),
    ("Custom ? Revise : done", 3, False),
    ("Custom * 6", 2, False),
    ("Nothing", 1, False),
    ('Review(instruction="x")', 1, False),
    ("Custom ->", 1, False),
    ("", 1, False),
]


@pytest.mark.parametrize(("text", "depth", "accepted"), EXAMPLES)
def test_examples(text: str, depth: int, accepted: bool) -> None:
    assert bool(compiled(depth).fullmatch(text)) is accepted


def test_only_operators_of_the_vocabulary_match() -> None:
    vocabulary = {name: builtin_vocabulary()[name] for name in ("Custom", "Revise")}
    pattern = re.compile(workflow_regex(2, vocabulary=vocabulary, tags=False))
    assert pattern.fullmatch("[Custom, Revise]") and not pattern.fullmatch("Programmer")
    assert not pattern.fullmatch("Review ? Revise : done")


@given(workflows)
@settings(max_examples=40, deadline=None)
def test_a_completion_encloses_the_workflow_in_tags(workflow: Workflow) -> None:
    text = f"<workflow>{format_workflow(workflow)}</workflow>"
    if analyze(workflow).depth <= 2:
        assert re.fullmatch(workflow_regex(2), text)
        assert extract(text, limits=NO_COUNTS).workflow == workflow


def test_only_the_parser_enforces_counts() -> None:
    text = " -> ".join(["Custom"] * 30)
    assert compiled(1).fullmatch(text)
    with pytest.raises(DSLError, match="30 operators"):
        parse(text)


@pytest.mark.parametrize("depth", [0, 4])
def test_unsupported_depth_is_rejected(depth: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and 3, got {depth}"):
        workflow_regex(depth)


def test_expression_grows_tenfold_with_each_level() -> None:
    assert [len(workflow_regex(depth)) for depth in DEPTHS] == pytest.approx([750, 9_000, 94_000], rel=0.1)
