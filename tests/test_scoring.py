"""Scorers agree with a table of right and wrong answers, and never execute the text that they compare."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aflow_trl.data import read_problem, synthetic_rows
from aflow_trl.errors import ScorerError
from aflow_trl.scoring import LEVELS, Score, quantize, score_answer, score_code, score_math, score_qa, symbolic

MATH_WRONG = [
    (r"\frac{1}{3}", r"\frac{1}{2}"),
    (r"\sqrt{5}", "5"),
    (r"2\pi", "2"),
    ("-3", "3"),
    ("3x+1", "3"),
    ("1990", "2000"),
    ("1005", "1000"),
    ("100.9", "100"),
    ("200", "#### 1,200"),
    ("24", "He sold 48/2 = <<48/2=24>>24. In total 48+24 = <<48+24=72>>72.\n#### 72"),
    ("(1,2)", "(1,3)"),
    ("{}", "7"),
    ("[]", "7"),
    ("None", "7"),
    (r"\boxed{}", "7"),
    ("", "7"),
    ("0.001", "0.0004"),
    ("-5+12i", "-5+13i"),
    ("please provide more context, you gave 17", "17"),
    ("x=7 or x=5", "x=5 or x=8"),
    ("x=7", "x=5 or x=7"),
    ("6, 7, 8, 42", "42"),
    ("41.99", "42"),
    ("3.2", "3.14"),
    ("1/3", "0.34"),
    ("The answer is 41.", "42"),
    ("42", "E"),
    ("D", "E"),
    (r"\{1,2\}", r"\{1,3\}"),
    (r"\frac{\sqrt{3}}{2}", r"\frac{\sqrt{2}}{2}"),
    ("nan", "7"),
    ("4 or 5", "4"),
    ("4, 5, 6", "4"),
    (r"\boxed{7 or 8 or 9}", "7"),
    (r"3 \sqrt{2}", "3"),
    ("12 - 3", "12"),
    (r"5 \pm 2", "5"),
    ("2 + 3x", "2"),
    ("2 x^2", "2 x^3"),
    ("2 pi", "2"),
    ("2", "2 pi"),
    ("5 million", "5"),
    (r"5\text{ million}", "5"),
    ("y=5", "x=5"),
    ("0.54", "0.5"),
    ("x+2$ $x+1", "x+1"),
    (r"\{1,2,3\}", "(1,2,3)"),
    ("[1,2]", "(1,2)"),
    ("42, or 43", "42"),
    ("42, but maybe 43", "42"),
    ("inf", "7"),
]
MATH_RIGHT = [
    ("0.5", r"\frac{1}{2}"),
    ("3/4", "0.75"),
    (r"\boxed{\frac{\sqrt{2}}{2}}", r"\frac{\sqrt2}{2}"),
    ("1200", "#### 1,200"),
    ("(1,2)", "(1, 2)"),
    (r"10\text{ cm}", "10"),
    (r"3\frac{1}{2}", "3.5"),
    ("50 hours", "50"),
    ("42.0", "42"),
    ("x=7 or x=5", "x=5 or x=7"),
    (r"\sqrt{12}", r"2\sqrt{3}"),
    ("42, which is often written", "42"),
    ("E. might dream", "E"),
    ("(E)", "E"),
    ("$1,234.50", "1234.5"),
    ("50%", "0.5"),
    (r"50\%", "50"),
    ("The answer is 42.", "42"),
    (r"So \boxed{42}", "42"),
    ("<answer>42</answer>", "42"),
    ("-7", "-7"),
    ("3.14159", "3.14"),
    ("x = 5", "5"),
    (r"\{1,2\}", r"\{2,1\}"),
    ("x^2+2x+1", "(x+1)^2"),
    ("1e3", "1000"),
    (r"2 \times 10^3", "2000"),
    ("7 1/2", "7.5"),
    ("−3", "-3"),
    (r"90^\circ", "90"),
]
QA_WRONG = [
    ("John Smith", "Will Smith"),
    ("New York", "New Jersey"),
    ("not yes", "yes"),
    ("no", "yes"),
    ("yes and no", "yes"),
    ("cat", "category"),
    ("often", "ten"),
    ("12 May 1990", "12 June 1990"),
    ("World War 2", "2 people"),
    ("|".join(map(str, range(100))), "42"),
    ("please provide more context, you gave 17", "17"),
    ("Paris or London or Rome", "Paris"),
    ("1991", "1990"),
    ("", "Paris"),
    ("Paris", ""),
    ("May", "12 May 1990"),
    ("", ""),
    ("the", ""),
    ("35", "3.5"),
    ("5", "-5"),
    ("12", "1-2"),
    ("war did not end", "the war did end"),
    ("of", "House of Commons"),
]
QA_RIGHT = [
    ("the Eiffel Tower", "Eiffel Tower"),
    ("The answer is Paris.", "paris"),
    ("PARIS!", "Paris"),
    ("17", "17"),
    ("17.0", "17"),
    ("1,200", "1200"),
    ("yes", "Yes"),
    ("unanswerable", ""),
    ("No answer", ""),
    ("<answer>Tolva</answer>", "Tolva"),
]


@pytest.mark.parametrize(("prediction", "gold"), MATH_WRONG)
def test_wrong_math_answer_scores_zero(prediction: str, gold: str) -> None:
    assert score_math(prediction, gold).value == 0.0


@pytest.mark.parametrize(("prediction", "gold"), MATH_RIGHT)
def test_right_math_answer_scores_one(prediction: str, gold: str) -> None:
    assert score_math(prediction, gold).value == 1.0


@pytest.mark.parametrize(("prediction", "gold"), QA_WRONG)
def test_wrong_qa_answer_scores_zero(prediction: str, gold: str) -> None:
    assert score_qa(prediction, gold).value == 0.0


@pytest.mark.parametrize(("prediction", "gold"), QA_RIGHT)
def test_right_qa_answer_scores_one(prediction: str, gold: str) -> None:
    assert score_qa(prediction, gold).value == 1.0


def test_qa_score_is_that_of_the_best_alias() -> None:
    assert score_qa("NYC", ["New York City", "NYC"]).value == 1.0


def test_qa_gives_partial_credit_for_a_shorter_name() -> None:
    assert score_qa("Obama", "Barack Obama").value == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{[__import__('os').system('touch pwned')]}",
        "__import__('pathlib').Path('pwned').touch()",
        r"\boxed{exec(open('x').read())}",
        "(lambda: __import__('os').mkdir('pwned'))()",
    ],
)
def test_answers_are_never_executed(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert score_math(text, "3").value == 0.0
    assert score_math(text, r"\frac{x}{2}").value == 0.0
    assert list(tmp_path.iterdir()) == []


SLOW = r"\sum_{k=1}^{1000000} \frac{1}{k}"
"""Takes a second to compare."""


def test_comparison_that_times_out_is_a_scorer_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic, "COMPARE_TIMEOUT_S", 0.05)
    with pytest.raises(ScorerError):
        symbolic.symbolically_equal("x+1", SLOW)


def test_worker_that_timed_out_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(ScorerError):
        patch.setattr(symbolic, "COMPARE_TIMEOUT_S", 0.05)
        symbolic.symbolically_equal("x+1", SLOW)
    assert symbolic.symbolically_equal("x+1", "1+x")


def test_reordered_words_are_not_an_exact_match() -> None:
    assert score_qa("man bites dog", "dog bites man").value < 1.0


def test_qa_without_a_gold_answer_is_a_scorer_error() -> None:
    with pytest.raises(ScorerError):
        score_qa("x", [])


def test_empty_answer_is_labelled() -> None:
    assert score_math("", "7").label == score_qa("", "x").label == "no_answer"


SQUARE_TESTS = ["assert f(1) == 1", "assert f(2) == 4"]


async def test_code_is_right_only_if_every_test_passes() -> None:
    assert (await score_code("def f(x): return x * x", SQUARE_TESTS, "f")).value == 1.0
    half = await score_code("def f(x): return 1", SQUARE_TESTS, "f")
    assert (half.value, half.partial) == (0.0, 0.5)


async def test_partial_credit_is_the_share_of_tests_passed() -> None:
    assert (await score_code("def f(x): return 1", SQUARE_TESTS, "f", partial_credit=True)).value == 0.5


async def test_empty_code_is_no_answer() -> None:
    assert (await score_code("", SQUARE_TESTS, "f")).label == "no_answer"


async def test_code_is_extracted_from_a_fenced_block() -> None:
    assert (await score_code("Here:\n```python\ndef f(x): return x ** 2\n```", SQUARE_TESTS, "f")).value == 1.0


async def test_code_without_tests_is_a_scorer_error() -> None:
    with pytest.raises(ScorerError):
        await score_code("def f(): pass", [])


LEVEL_OF = [
    (Score(1.0, "m", "a", "", 1.0), 1.0),
    (Score(0.0, "m", "a", "", 0.9), 0.7),
    (Score(0.0, "m", "a", "", 0.5), 0.4),
    (Score(0.0, "m", "a", "", 0.1), 0.2),
    (Score(0.0, "m", "", "no_answer"), 0.0),
]


@pytest.mark.parametrize(("score", "level"), LEVEL_OF)
def test_every_level_is_reachable(score: Score, level: float) -> None:
    assert quantize(score) == level


def test_levels_increase_with_partial_credit() -> None:
    values = [quantize(Score(0.0, "m", "a", "", share / 100)) for share in range(100)]
    assert values == sorted(values) and set(values) == set(LEVELS[1:4])


@given(st.integers(-(10**9), 10**9))
def test_integers_match_only_themselves(number: int) -> None:
    assert score_math(str(number), str(number)).value == 1.0
    assert score_math(f"{number:,}", str(number)).value == 1.0
    assert score_math(str(number + 1), str(number)).value == 0.0


@given(st.integers(-500, 500), st.integers(1, 500))
def test_fractions_are_compared_exactly(numerator: int, denominator: int) -> None:
    gold = rf"\frac{{{abs(numerator)}}}{{{denominator}}}"
    assert score_math(f"{abs(numerator)}/{denominator}", gold).value == 1.0
    assert score_math(f"{abs(numerator) + 1}/{denominator}", gold).value == 0.0


async def test_synthetic_problems_accept_their_answer_and_reject_another() -> None:
    for row in itertools.islice(synthetic_rows(3, "test"), 60):
        solved = read_problem(f"{row.context}\n\n{row.question}")
        assert solved is not None
        gold = {
            "domain": row.domain,
            "golds": row.answer,
            "hidden_tests": row.hidden_tests,
            "entry_point": row.entry_point,
        }
        assert (await score_answer(solved.answer(), **gold)).value == 1.0, row
        wrong = {"math": f"{solved.answer()}1", "qa": "Zzyzx", "code": f"def {row.entry_point}(numbers): return None"}
        assert (await score_answer(wrong[row.domain], **gold)).value == 0.0, row
