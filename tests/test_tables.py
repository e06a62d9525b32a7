"""Scorers agree with every row of the tables in `pairs.py`, and have properties that hold for all answers."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pairs
from aflow_trl.answers import extract_answer, normalize_text
from aflow_trl.data import read_problem, synthetic_rows
from aflow_trl.scoring import LEVELS, WRONG_TYPE, Score, quantize, score_answer, score_code, score_math, score_qa

names = st.text(alphabet="abcdefgh ", min_size=1, max_size=12).filter(lambda text: normalize_text(text) != "")


@pytest.mark.parametrize(("prediction", "gold", "value"), pairs.MATH)
def test_math_score_matches_the_table(prediction: str, gold: str, value: float) -> None:
    assert score_math(prediction, gold).value == value


@pytest.mark.parametrize(("prediction", "gold", "value"), pairs.QA)
def test_qa_score_matches_the_table(prediction: str, gold: str, value: float) -> None:
    assert (score_qa(prediction, gold).value == 1.0) is (value == 1.0)


@pytest.mark.parametrize(("prediction", "gold"), pairs.QA_ZERO)
def test_qa_answer_that_contradicts_the_gold_scores_zero(prediction: str, gold: str) -> None:
    assert score_qa(prediction, gold).value == 0.0


@pytest.mark.parametrize(("solution", "tests", "entry_point", "value", "share"), pairs.CODE)
async def test_code_score_matches_the_table(
    solution: str, tests: list[str], entry_point: str | None, value: float, share: float
) -> None:
    score = await score_code(solution, tests, entry_point)
    assert (score.value, score.partial) == (value, pytest.approx(share))


def test_tables_have_their_required_size() -> None:
    assert len(pairs.MATH) >= 80 and len(pairs.QA) >= 40 and len(pairs.CODE) >= 30


# -- properties ------------------------------------------------------------------------------------------------------


@given(
    st.fractions(min_value=-1000, max_value=1000, max_denominator=60),
    st.fractions(min_value=-1000, max_value=1000, max_denominator=60),
)
def test_comparison_of_fractions_is_symmetric(left: Fraction, right: Fraction) -> None:
    texts = [f"{value.numerator}/{value.denominator}" for value in (left, right)]
    assert score_math(*texts).value == score_math(*reversed(texts)).value == float(left == right)


@given(names, names)
def test_exact_match_is_symmetric(left: str, right: str) -> None:
    assert (score_qa(left, right).value == 1.0) is (score_qa(right, left).value == 1.0)


@given(names)
def test_text_matches_itself(text: str) -> None:
    assert score_qa(text, text).value == 1.0


@given(st.text(max_size=60))
def test_normalisation_is_idempotent(text: str) -> None:
    assert normalize_text(normalize_text(text)) == normalize_text(text)


@given(st.text(alphabet="abc123 .,=\n", max_size=40).filter(lambda text: "answer" not in text))
def test_extraction_of_a_bare_answer_is_idempotent(text: str) -> None:
    bare = extract_answer(text, "math")
    assert extract_answer(bare, "math") == bare


@given(st.integers(-(10**12), 10**12))
def test_every_notation_of_an_integer_is_accepted(number: int) -> None:
    for text in (
        f"{number:,}",
        f"{number}.0",
        f"{number}.",
        f"${number}$",
        f"\\boxed{{{number}}}",
        f"#### {number:,}",
        f"<answer>{number}</answer>",
        f"{number} apples",
        f"{number:,}".replace(",", "\\,"),
        f"x = {number}",
    ):
        assert score_math(text, str(number)).value == 1.0, text


@given(st.integers(-(10**6), 10**6), st.integers(1, 4))
def test_every_notation_of_a_decimal_is_accepted(digits: int, decimals: int) -> None:
    value = Fraction(digits, 10**decimals)
    text = f"{digits / 10**decimals:.{decimals}f}"
    for other in (text + "0", f"{float(text):e}", f"{value.numerator}/{value.denominator}"):
        assert score_math(other, text).value == 1.0, other


@given(st.integers(2, 10**6), st.sampled_from([-1, 1, 10, -10, 100]))
def test_different_integer_is_wrong(number: int, offset: int) -> None:
    assert score_math(str(number + offset), str(number)).value == 0.0
    assert score_qa(str(number + offset), str(number)).value == 0.0


@settings(deadline=None)
@given(st.text(max_size=80), st.sampled_from(["7", "0.5", r"\frac{1}{2}", "(1,2)", "B", "x+1"]))
def test_math_scorer_accepts_any_text(text: str, gold: str) -> None:
    assert score_math(text, gold).value in (0.0, 1.0)


@given(st.text(max_size=80), st.text(max_size=20))
def test_qa_scorer_accepts_any_text(text: str, gold: str) -> None:
    assert 0.0 <= score_qa(text, gold).value <= 1.0


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=20))
def test_levels_increase_with_the_score(shares: list[tuple[float, bool]]) -> None:
    scores = [Score(float(share == 1.0), "m", "a", "", share) for share, _ in shares]
    ordered = sorted(scores, key=lambda score: score.partial)
    levels = [quantize(score) for score in ordered]
    assert levels == sorted(levels) and set(levels) <= set(LEVELS)


def assertions(count: int) -> list[str]:
    return [f"assert f({n}) == {n}" for n in range(count)]


@pytest.mark.parametrize(
    ("solution", "level"),
    [
        ("def f(n): return n", 1.0),
        ("def f(n): return n if n < 8 else 0", 0.7),
        ("def f(n): return n if n < 5 else 0", 0.4),
        ("def f(n): return -1", 0.2),
        ("def f(n: return", 0.0),
        ("", 0.0),
    ],
)
async def test_levels_of_code(solution: str, level: float) -> None:
    assert quantize(await score_code(solution, assertions(10), "f")) == level


@pytest.mark.parametrize(
    ("prediction", "gold", "level"),
    [
        ("Barack Hussein Obama", "Barack Hussein Obama", 1.0),
        ("Barack Hussein Obama of Hawaii", "Barack Hussein Obama Hawaii", 0.7),
        ("Obama", "Barack Obama", 0.4),
        ("Biden", "Barack Obama", 0.2),
        ("maybe", "yes", 0.0),
        ("many", "17", 0.0),
        ("", "Barack Obama", 0.0),
    ],
)
def test_levels_of_qa(prediction: str, gold: str, level: float) -> None:
    assert quantize(score_qa(prediction, gold)) == level


@pytest.mark.parametrize(
    ("prediction", "gold", "level"),
    [
        ("42", "42", 1.0),
        ("41", "42", 0.2),
        ("x+2", "x+1", 0.2),
        ("please provide more context, you gave 17", "17", 0.0),
        ("I am not sure about that", "17", 0.0),
        ("C", "B", 0.2),
        ("none of these", "B", 0.0),
        ("", "17", 0.0),
    ],
)
def test_levels_of_math(prediction: str, gold: str, level: float) -> None:
    assert quantize(score_math(prediction, gold)) == level


def test_prose_for_a_number_is_labelled_as_wrong_type() -> None:
    assert score_math("please provide more context, you gave 17", "17").label == WRONG_TYPE


# -- generated problems ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "test"])
async def test_quickstart_problems_accept_their_answer_and_reject_perturbed_ones(split: str) -> None:
    """Covers the held-out problems of the quickstart, and as many of its training problems."""
    rng = random.Random(0)
    for row in itertools.islice(synthetic_rows(0, split), 300):
        problem = read_problem(f"{row.context}\n\n{row.question}")
        assert problem is not None
        answer = problem.answer()
        gold = {
            "domain": row.domain,
            "golds": row.answer,
            "hidden_tests": row.hidden_tests,
            "entry_point": row.entry_point,
        }
        assert (await score_answer(answer, **gold)).value == 1.0, row
        perturbed = {
            "math": [str(int(answer) + rng.choice([-1, 1, 10])), f"{answer}0", f"-{answer}", f"{answer}.5"]
            if row.domain == "math"
            else [],
            "qa": [f"{answer}x", f"not {answer}", f"{answer} or Zzyzx", "unanswerable"],
            "code": [answer.replace("return", "return not", 1), f"def {row.entry_point}(*numbers): return 0.5"],
        }[row.domain]
        for wrong in perturbed:
            assert (await score_answer(wrong, **gold)).value < 1.0, (row, wrong)
