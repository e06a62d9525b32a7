"""`aflow-trl run`: one question or many, from a fixed workflow or from any form a policy can have."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aflow_trl.engine import Outcome, Trace
from aflow_trl.errors import RecipeError
from aflow_trl.inference import vote
from aflow_trl.operators import Problem
from aflow_trl.policies import find_model

MATH = "Ana has 20 apples. Ana gets 5 more. How many apples does Ana have now?"


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aflow_trl.cli", "run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_file_of_questions_is_answered_line_by_line(tmp_path: Path) -> None:
    questions = [{"id": "a", "question": MATH}, {"id": "b", "question": MATH, "domain": "math", "answer": "25"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(one) + "\n" for one in questions))
    done = cli(
        "--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl"), "--workflow", "Programmer"
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [one["id"] for one in answers] == ["a", "b"] and answers[0]["answer"] == answers[1]["answer"]
    assert "2 of 2 questions answered" in done.stdout and "answering" in done.stderr


def test_a_bad_question_is_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"question": "q"}\n{"text": "q"}\n')
    done = cli("--input", str(tmp_path / "in.jsonl"))
    assert done.returncode == 2 and "line 2" in done.stderr and "'text'" in done.stderr


def test_the_answer_is_short_and_the_trace_long() -> None:
    short, long = (cli(MATH, "--workflow", "Custom -> Review", *flags).stdout for flags in ([], ["--trace"]))
    assert "answer" in short and "positive" not in short
    assert ("positive" in long or "negative" in long) and "Review" in long


def test_a_policy_samples_workflows_and_votes(tiny_model: Path) -> None:
    done = cli(MATH, "--model", str(tiny_model), "--best-of", "3", "--json")
    content = json.loads(done.stdout)
    assert len(content["workflows"]) == len(content["traces"]) == 3


def test_a_checkpoint_is_chosen_by_its_step_and_the_latest_by_default(tiny_model: Path, tmp_path: Path) -> None:
    for step in (5, 20, 100):
        shutil.copytree(tiny_model, tmp_path / f"checkpoint-{step}")
    assert find_model(str(tmp_path), None).endswith("checkpoint-100")
    assert find_model(str(tmp_path), 20).endswith("checkpoint-20")
    with pytest.raises(RecipeError, match="5, 20, 100"):
        find_model(str(tmp_path), 7)
    shutil.copy(tiny_model / "config.json", tmp_path / "config.json")
    assert find_model(str(tmp_path), None) == str(tmp_path)
    assert find_model("organisation/name", None) == "organisation/name"


def test_a_policy_that_is_not_there_is_named() -> None:
    done = cli(MATH, "--model", "no/such/policy")
    assert done.returncode == 2 and "no/such/policy" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("flags", [["--best-of", "2"], ["--checkpoint", "1"]])
def test_flags_of_a_policy_need_one(flags: list[str]) -> None:
    done = cli(MATH, *flags)
    assert done.returncode == 2 and "--model" in done.stderr


def trace(answer: str, outcome: Outcome = Outcome.OK) -> Trace:
    return Trace(outcome, Problem("q"), answer=answer)


def test_the_vote_is_on_what_ended_well_and_the_first_wins_ties() -> None:
    lost = trace("9", Outcome.UNAVAILABLE)
    assert vote([lost, trace("1"), trace("2"), trace("2.0")], "math").answer == "2"
    assert vote([lost, trace("1"), trace("2")], "math").answer == "1"
    assert vote([lost], "math") is lost
