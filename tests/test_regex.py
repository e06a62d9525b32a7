"""Constrained decoding: what the expression accepts is the language, up to the depth and no further."""

from __future__ import annotations

import re
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aflow_trl.dsl import Limits, analyze, builtin_vocabulary, extract, format_workflow, parse, workflow_regex
from aflow_trl.errors import DSLError
from test_dsl import workflows

UNCOUNTED = Limits(max_source_chars=10**9, max_operators=10**9, max_model_calls=10**9)
"""Limits that count things, which no regular expression of this size can."""
DEPTHS = (1, 2, 3)


@cache
def compiled(depth: int) -> re.Pattern[str]:
    return re.compile(workflow_regex(depth, tags=False))


@pytest.mark.parametrize("depth", [1, 2])  # level 3 is made of level 2 as that is of level 1
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_everything_it_accepts_is_a_workflow_of_that_depth(depth: int, data: st.DataObject) -> None:
    text = data.draw(st.from_regex(compiled(depth), fullmatch=True))
    assert analyze(parse(text, limits=UNCOUNTED)).depth <= depth


@given(workflows)
@settings(max_examples=60, deadline=None)
def test_every_workflow_up_to_the_depth_is_accepted_and_no_deeper_one(workflow: object) -> None:
    text, actual = format_workflow(workflow), analyze(workflow).depth
    for depth in DEPTHS:
        assert bool(compiled(depth).fullmatch(text)) == (actual <= depth)


TEXTS = [
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


@pytest.mark.parametrize(("text", "depth", "accepted"), TEXTS)
def test_texts(text: str, depth: int, accepted: bool) -> None:
    assert bool(compiled(depth).fullmatch(text)) is accepted


def test_own_operators_are_the_only_ones() -> None:
    words = {name: builtin_vocabulary()[name] for name in ("Custom", "Revise")}
    pattern = re.compile(workflow_regex(2, vocabulary=words, tags=False))
    assert pattern.fullmatch("[Custom, Revise]") and not pattern.fullmatch("Programmer")
    assert not pattern.fullmatch("Review ? Revise : done")


@given(workflows)
@settings(max_examples=40, deadline=None)
def test_a_completion_holds_the_workflow_between_the_tags(workflow: object) -> None:
    text = f"<workflow>{format_workflow(workflow)}</workflow>"
    if analyze(workflow).depth <= 2:
        assert re.fullmatch(workflow_regex(2), text)
        assert extract(text, limits=UNCOUNTED).workflow == workflow


def test_limits_that_count_are_left_to_the_parser() -> None:
    text = " -> ".join(["Custom"] * 30)
    assert compiled(1).fullmatch(text)
    with pytest.raises(DSLError, match="30 operators"):
        parse(text)


@pytest.mark.parametrize("depth", [0, 4])
def test_a_depth_that_cannot_be_written_out_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and 3, got {depth}"):
        workflow_regex(depth)


def test_size_is_what_the_docs_say() -> None:
    assert [len(workflow_regex(depth)) for depth in DEPTHS] == pytest.approx([550, 6_500, 68_000], rel=0.1)
