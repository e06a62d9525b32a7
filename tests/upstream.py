"""Tiny versions of the public benchmarks in their exact upstream columns, in a layout that `datasets` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HUMANEVAL_TEST = """

METADATA = {"author": "nobody"}


def check(candidate):
    assert candidate([1.0, 2.0, 3.0], 0.5) == False
    assert candidate([1.0, 2.8, 3.0], 0.3) == True
"""
POLY_PROMPT = '''import math


def poly(xs: list, x: float):
    """
    Evaluates polynomial with coefficients xs at point x.
    """
    return sum([coeff * math.pow(x, i) for i, coeff in enumerate(xs)])


def find_zero(xs: list):
    """ xs are coefficients of a polynomial; find_zero finds x such that poly(x) = 0.
    >>> round(find_zero([1, 2]), 2) # f(x) = 1 + 2x
    -0.5
    """
'''
POLY_SOLUTION = """    begin, end = -1.0, 1.0
    while poly(xs, begin) * poly(xs, end) > 0:
        begin, end = begin * 2.0, end * 2.0
    while end - begin > 1e-10:
        center = (begin + end) / 2.0
        if poly(xs, center) * poly(xs, begin) > 0:
            begin = center
        else:
            end = center
    return begin
"""
POLY_TEST = """
def check(candidate):
    assert math.fabs(poly([1, 2], candidate([1, 2]))) < 1e-4
    assert math.fabs(poly([-6, 11, -6, 1], candidate([-6, 11, -6, 1]))) < 1e-4
"""
CLOSE_PROMPT = '''from typing import List


def has_close_elements(numbers: List[float], threshold: float) -> bool:
    """ Check if in given list of numbers, are any two numbers closer to each other than given threshold.
    >>> has_close_elements([1.0, 2.0, 3.0], 0.5)
    False
    >>> has_close_elements([1.0, 2.8, 3.0, 4.0, 5.0, 2.0], 0.3)
    True
    """
'''
CLOSE_SOLUTION = """    for idx, elem in enumerate(numbers):
        for idx2, elem2 in enumerate(numbers):
            if idx != idx2 and abs(elem - elem2) < threshold:
                return True
    return False
"""
PLUS_CHECK = """
import numpy as np

def is_floats(x) -> bool:
    if isinstance(x, float):
        return True
    if isinstance(x, (list, tuple)):
        return all(isinstance(i, float) for i in x)
    if isinstance(x, np.ndarray):
        return x.dtype == np.float64 or x.dtype == np.float32
    return False

def assertion(out, exp, atol):
    exact_match = out == exp
    if atol == 0 and is_floats(exp):
        atol = 1e-6
    if not exact_match and atol != 0:
        assert type(out) == type(exp)
        assert np.allclose(out, exp, rtol=1e-07, atol=atol)
    else:
        assert exact_match
"""
PLUS_TEST = f"""{PLUS_CHECK}

def check(candidate):
    inputs = [[[1.0, 2.0, 3.0], 0.5], [[1.0, 2.8, 3.0], 0.3]]
    results = [False, True]
    for i, (inp, exp) in enumerate(zip(inputs, results)):
        assertion(candidate(*inp), exp, 0)
"""
MBPP_PLUS_TEST = f"""{PLUS_CHECK}

inputs = [[3], [4]]
results = [4.71238898038469, 6.283185307179586]
for i, (inp, exp) in enumerate(zip(inputs, results)):
    assertion(half_circle(*inp), exp, 0)
"""


def gsm8k(question: str, answer: str, *, steps: str = "It is <<1+1=2>>2.") -> dict[str, Any]:
    return {"question": question, "answer": f"{steps}\n#### {answer}"}


def competition(problem: str, solution: str, level: str = "Level 3") -> dict[str, Any]:
    return {"problem": problem, "level": level, "type": "Algebra", "solution": solution}


def humaneval(number: int, prompt: str, solution: str, test: str, name: str) -> dict[str, Any]:
    columns = {"prompt": prompt, "canonical_solution": solution, "test": test, "entry_point": name}
    return {"task_id": f"HumanEval/{number}"} | columns


def mbpp(number: int, text: str, code: str, tests: list[str], setup: str = "") -> dict[str, Any]:
    columns = {"text": text, "code": code, "test_list": tests, "test_setup_code": setup, "challenge_test_list": []}
    return {"task_id": number} | columns


def mbpp_plus(number: int, prompt: str, code: str, tests: list[str], test: str) -> dict[str, Any]:
    columns = {"code": code, "prompt": prompt, "source_file": "x", "test_imports": [], "test_list": tests}
    return {"task_id": number, "test": test} | columns


def hotpot(number: str, question: str, answer: str, level: str = "hard") -> dict[str, Any]:
    context = {
        "title": ["Arthur's Magazine", "First for Women"],
        "sentences": [
            ["Arthur's Magazine was an American periodical.", " It ran from 1844."],
            ["First for Women is a magazine.", " It was started in 1989."],
        ],
    }
    columns = {"supporting_facts": {"title": ["First for Women"], "sent_id": [1]}, "context": context}
    return {"id": number, "question": question, "answer": answer, "type": "comparison", "level": level} | columns


def drop(number: str, passage: str, question: str, spans: list[str]) -> dict[str, Any]:
    answers = {"spans": spans, "types": ["span"] * len(spans)}
    return {
        "section_id": "nfl_1",
        "query_id": number,
        "passage": passage,
        "question": question,
        "answers_spans": answers,
    }


def squad(number: str, context: str, question: str, answers: list[str]) -> dict[str, Any]:
    spans = {"text": answers, "answer_start": [0] * len(answers)}
    return {"id": number, "title": "T", "context": context, "question": question, "answers": spans}


SEVEN = "def seventh(n):\n    return n * 7"
HALF = "import math\ndef half_circle(r):\n    return math.pi * r / 2"
APPLES = "A farmer has {} apples in a crate and sells two of them every day at the market in town. How many remain?"

ROWS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "gsm8k": {
        "train": [
            gsm8k("Ann has 2 pens and buys 3 more. How many pens has she?", "5"),
            gsm8k("A firm earns 1,000 dollars twice. How much is that?", "2,000"),
            {"question": "What is this?", "answer": "nobody knows"},
            gsm8k("Bob walks 3 miles a day. How far in 4 days?", "12"),
            # A copy except for case and punctuation, and a near copy of a test row.
            gsm8k("ANN has 2 pens, and buys 3 more.  How many pens has she?", "5"),
            gsm8k(APPLES.format(9) + " Count well.", "7"),
        ],
        "test": [gsm8k(APPLES.format(9), "7"), gsm8k("A cat eats 2 fish. Two cats eat?", "4")],
    },
    "math": {
        "train": [
            competition("Compute $\\frac{1}{2}+\\frac{1}{4}$.", "It is $\\boxed{\\frac{3}{4}}$."),
            competition("No box here.", "It is 3.", "Level 1"),
            competition("Level of this is odd: $1+1$?", "$\\boxed{2}$", "Level ?"),
        ],
        "test": [competition("What is $3!$?", "$\\boxed{6}$", "Level 5")],
    },
    "humaneval": {
        "test": [
            humaneval(0, CLOSE_PROMPT, CLOSE_SOLUTION, HUMANEVAL_TEST, "has_close_elements"),
            humaneval(32, POLY_PROMPT, POLY_SOLUTION, POLY_TEST, "find_zero"),
            # A reference solution that fails its tests.
            humaneval(99, CLOSE_PROMPT + "\n", "    return True\n", HUMANEVAL_TEST, "has_close_elements"),
        ]
    },
    "humaneval+": {"test": [humaneval(0, CLOSE_PROMPT, CLOSE_SOLUTION, PLUS_TEST, "has_close_elements")]},
    "mbpp": {
        "train": [
            mbpp(
                601,
                "Write a function to multiply by seven.",
                SEVEN,
                ["assert seventh(1) == 7", "assert seventh(2) == 14", "assert seventh(FOUR) == 28"],
                "FOUR = 4",
            ),
            # The same task as a test row of MBPP+.
            mbpp(
                700,
                "Half the circumference of a circle.",
                HALF,
                ["assert half_circle(0) == 0", "assert half_circle(2) > 3"],
            ),
            mbpp(602, "One test only.", SEVEN, ["assert seventh(1) == 7"]),
        ],
        "validation": [
            mbpp(511, "Seven times it.", SEVEN, ["assert seventh(3) == 21", "assert (seventh(0)) == 0"]),
        ],
        "test": [mbpp(11, "Times seven, please.", SEVEN, ["assert seventh(5) == 35", "assert seventh(6) == 42"])],
    },
    "mbpp+": {
        "test": [
            mbpp_plus(
                700,
                "Write a function for half the circumference of a circle.",
                HALF,
                ["assert half_circle(0) == 0"],
                MBPP_PLUS_TEST,
            )
        ]
    },
    "hotpotqa": {
        "train": [hotpot("5a7", "Which magazine was started first?", "Arthur's Magazine", "medium")],
        "validation": [hotpot("5a8", "When was First for Women started?", "1989")],
    },
    "drop": {
        "train": [
            drop("q1", "The Bears scored 21 points. Smith ran twice.", "How many points did the Bears score?", ["21"]),
            # The same question on a different passage, which makes it a different problem.
            drop(
                "q2",
                "The Bears scored 7 points. It rained.",
                "How many points did the Bears score?",
                ["7", " 7"],
            ),
            drop("q4", "Smith and Jones ran.", "Who ran?", ["Smith", "Jones"]),
        ],
        "validation": [drop("q3", "Jones kicked a goal.", "Who kicked the goal?", ["Jones"])],
    },
    "squad_v2": {
        "train": [
            squad("s1", "Oslo is the capital of Norway.", "What is Norway's capital?", ["Oslo", "Oslo"]),
            squad("s2", "Oslo is the capital of Norway.", "What is Chile's capital?", []),
        ],
        "validation": [squad("s3", "Rome is old.", "Which city is old?", ["Rome"])],
    },
}


def write_upstream(folder: Path) -> Path:
    """Write every benchmark to `folder/NAME/SPLIT.jsonl`."""
    for name, splits in ROWS.items():
        (folder / name).mkdir(parents=True)
        for split, rows in splits.items():
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / name / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder
