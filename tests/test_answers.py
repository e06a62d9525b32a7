"""The reader of answers: everyday forms, kinds, denials, and texts made to break it."""

from __future__ import annotations

import random
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import everyday
from aflow_trl.answers import extract_answer, vote_key
from aflow_trl.errors import ScorerError
from aflow_trl.scoring import Score, dispatch, score_answer, score_math, score_qa
from aflow_trl.scoring.types import TOO_COMPLEX

MATH_GOLDS = [
    "7",
    "-3",
    "1,200",
    "0.75",
    r"\frac{3}{4}",
    "12%",
    "x+1",
    r"2\sqrt{3}",
    "(1,2)",
    "C",
    r"(-\infty,2]",
    "1,4",
]
QA_GOLDS = [
    *("Rome", "Dr. Strange", "J. K. Rowling", "St. Louis", "1990", "12 May 1990", "yes", "U.S. Army", "Barack Obama"),
    *("10 Downing Street", "5 pm", "Washington, D.C.", "Plan B", "New York City", "O'Brien", "1990-1995"),
]


@pytest.mark.parametrize("form", everyday.ANY + everyday.MATH)
def test_every_form_of_a_math_answer_is_read(form: str) -> None:
    for gold in MATH_GOLDS:
        assert score_math(form.format(gold), gold).value == 1.0, gold


@pytest.mark.parametrize("form", everyday.ANY)
def test_every_form_of_a_qa_answer_is_read(form: str) -> None:
    for gold in QA_GOLDS:
        assert score_qa(form.format(gold), gold).value == 1.0, gold


@pytest.mark.parametrize("form", everyday.ANY)
def test_a_neighbour_is_wrong_in_every_form(form: str) -> None:
    for gold, other in zip(QA_GOLDS, QA_GOLDS[1:] + QA_GOLDS[:1], strict=True):
        assert score_qa(form.format(gold), other).value == 0.0, (gold, other)
    # 0.75 and 3/4 are the same number.
    numbers = [gold for gold in MATH_GOLDS if gold != "0.75"]
    for gold, other in zip(numbers, numbers[1:] + numbers[:1], strict=True):
        assert score_math(form.format(gold), other).value == 0.0, (gold, other)


@pytest.mark.parametrize("form", everyday.DENIED)
def test_what_a_text_takes_back_is_no_answer(form: str) -> None:
    assert all(score_math(form.format(gold), gold).value == 0.0 for gold in MATH_GOLDS)
    assert "boxed" in form or all(score_qa(form.format(gold), gold).value == 0.0 for gold in QA_GOLDS)


def verdict(score: Score) -> str:
    return everyday.RIGHT if score.value == 1.0 else everyday.PARTLY if score.value else everyday.WRONG


@pytest.mark.parametrize(("prediction", "gold", "expected"), everyday.MATH_KINDS)
def test_math_answers_are_compared_by_kind(prediction: str, gold: str, expected: str) -> None:
    assert verdict(score_math(prediction, gold)) == expected


@pytest.mark.parametrize(("prediction", "gold", "expected"), everyday.QA_KINDS)
def test_qa_answers_are_compared_by_kind(prediction: str, gold: str, expected: str) -> None:
    assert verdict(score_qa(prediction, gold)) == expected


SAME_VOTES = [
    ("**7**", "The answer is $7.0$", "math"),
    ("1,200 dollars", r"\boxed{1200 \text{ dollars}}", "math"),
    ("x+1", "$x + 1$", "math"),
    ("12 May 1990", "May 12, 1990", "qa"),
    ("“The Beatles”", "the beatles.", "qa"),
]


@pytest.mark.parametrize(("left", "right", "domain"), SAME_VOTES)
def test_votes_for_the_same_answer_have_the_same_key(left: str, right: str, domain: str) -> None:
    assert len({vote_key(extract_answer(text, domain), domain) for text in (left, right)}) == 1


# -- texts made to break it ------------------------------------------------------------------------------------------

PIECES = [
    *("answer is ", "\\boxed{", "$", "**", "<answer>", "</answer>", "####", "\n", "\\[", "is $", "the answer is not "),
    *(
        "a.",
        "( ",
        "{",
        "7,",
        "9",
        "\\frac{",
        "^",
        "= ",
        "or ",
        "√(",
        "_",
        "`",
        "``` ",
        "final answer\n",
        "\u200b",
        "1/",
    ),
    *("2^", "0.", "\\le ", "[/b]", "\x1b]0;", "\ud800", "\u202e", "10^{10^{10}}", "!", "\\binom{9}{4}", "e\u0301"),
]


@pytest.mark.parametrize("piece", PIECES, ids=ascii)
def test_a_long_text_is_read_in_linear_time(piece: str) -> None:
    text = piece * (8 * 2**20 // len(piece))
    begin = time.perf_counter()
    for domain in ("math", "qa"):
        vote_key(extract_answer(text, domain), domain)
    assert time.perf_counter() - begin < 5.0, "quadratic time would take hours"


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=12).map("".join), st.sampled_from(QA_GOLDS))
def test_any_text_gets_a_score_in_qa(text: str, gold: str) -> None:
    assert 0.0 <= score_qa(text, gold).value <= 1.0


TOWERS = {
    "powers": "9^{9^{9^{9}}}",
    "factorial": "10000000!",
    "binomial": r"\binom{100000000}{50000000}",
    "ratio": "1" * 5_000 + "/3",
    "fraction": r"\frac{" + "7" * 6_000 + "}{3}",
}


@pytest.mark.parametrize("gold", ["7", "x+1"])
@pytest.mark.parametrize("name", TOWERS)
async def test_an_answer_that_is_too_complex_is_wrong_and_not_unscored(name: str, gold: str) -> None:
    score = await score_answer(f"The answer is ${TOWERS[name]}$", domain="math", golds=[gold])
    assert score.value == 0.0


async def test_an_answer_is_unscored_only_if_the_scorer_fails_for_the_gold_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(prediction: str, gold: str) -> Score:
        if prediction == "x+2" or broken:
            raise ScorerError("no worker")
        return Score(1.0, "symbolic", prediction)

    monkeypatch.setattr(dispatch, "score_math", fails)
    broken = False
    score = await score_answer("x+2", domain="math", golds=["x+1"])
    assert (score.value, score.label) == (0.0, TOO_COMPLEX)
    broken = True
    with pytest.raises(ScorerError, match="for the gold"):
        await score_answer("x+2", domain="math", golds=["x+1"])


@pytest.mark.slow
async def test_twenty_thousand_random_answers_all_get_a_score() -> None:
    rng = random.Random(0)
    alphabet = PIECES + list(string.printable) + ["\\sqrt{", "}", "\\pi", "x", "+", "3"]
    for number in range(20_000):
        text = "".join(rng.choice(alphabet) for _ in range(rng.randint(0, 12)))
        domain, gold = ("math", "7") if number % 2 else ("qa", "Rome")
        assert 0.0 <= (await score_answer(text, domain=domain, golds=[gold])).value <= 1.0
