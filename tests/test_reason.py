"""Plain reasoning: what each reward gives each reply, and runs under torchrun with logs and checkpoints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from aflow_trl.recipes import load_recipe
from aflow_trl.rewards import REASON_WEIGHTS, reasoning_rewards, stated_answer
from aflow_trl.train import main as train
from command_line import aflow, read_strictly

ROOT = Path(__file__).parent.parent
GOOD = "<think>6 times 7</think>\n<answer>42</answer>"

# Reply, gold: correctness, digit, hard format, marks.
REPLIES = [
    (GOOD, "42", (1, 1, 1, 1)),
    ("<think>a</think><answer>42</answer>", "42", (1, 1, 1, 1)),
    ("<think>a</think><answer>forty-two</answer>", "42", (0, 0, 1, 1)),
    ("<think>a</think><answer>41</answer>", "42", (0, 1, 1, 1)),
    ("<think>a</think><answer>42.0</answer>", "42", (1, 1, 1, 1)),
    ("<think>a</think><answer>1,042</answer>", "1042", (1, 1, 1, 1)),
    ("<think>a</think><answer></answer>", "42", (0, 0, 0, 1)),
    ("<think>a < b</think><answer>x < 3</answer>", "42", (0, 0, 1, 1)),
    (f"<think>a</think><answer>{'7' * 6000}</answer>", "42", (0, 1, 1, 1)),
    ("<answer>42</answer>", "42", (1, 1, 0, 0.5)),
    ("<think>a</think>42", "42", (0, 0, 0, 0.5)),
    ("42", "42", (0, 0, 0, 0)),
    ("", "42", (0, 0, 0, 0)),
    (f"{GOOD} and more", "42", (1, 1, 0, 1)),
    (f"Sure: {GOOD}", "42", (1, 1, 0, 1)),
    ("<think></think><answer>42</answer>", "42", (1, 1, 0, 1)),
    ("<think>a</think><answer>41</answer><answer>42</answer>", "42", (1, 1, 0, 0.5)),
    ("<think>a<think>b</think><answer>42</answer>", "42", (1, 1, 0, 0.75)),
    # Every number at once is no answer, and a tag of tags is no form.
    ("<think>a</think><answer>1 2 3 42</answer>", "42", (0, 0, 1, 1)),
    ("<think>a</think><answer><answer>42</answer></answer>", "42", (0, 0, 0, 0.5)),
]


async def rewards_of(text: str, gold: str) -> list[float]:
    completions = [[{"role": "assistant", "content": text}]]
    columns: dict[str, Any] = {"answer": [[gold]], "domain": ["math"]}
    return [(await function([], completions, **columns))[0] for function in reasoning_rewards(list(REASON_WEIGHTS))]


@pytest.mark.parametrize(("text", "gold", "expected"), REPLIES)
async def test_a_reply_earns_what_it_should(text: str, gold: str, expected: tuple[float, ...]) -> None:
    assert await rewards_of(text, gold) == pytest.approx(list(expected))


async def test_only_a_right_answer_reaches_the_full_reward() -> None:
    weights = list(REASON_WEIGHTS.values())

    async def total(text: str, gold: str) -> float:
        return sum(weight * value for weight, value in zip(weights, await rewards_of(text, gold), strict=True))

    best_wrong = max([await total(text, gold) for text, gold, expected in REPLIES if expected[0] == 0])
    assert await total(GOOD, "42") == sum(weights) > best_wrong + 1


async def test_only_math_answers_have_to_be_numbers() -> None:
    (_, digit, _, _) = reasoning_rewards(list(REASON_WEIGHTS))
    text = "<think>a</think><answer>Oslo</answer>"
    assert await digit([], [text, text], domain=["qa", "math"]) == [1.0, 0.0]


@pytest.mark.parametrize(("sign", "expected"), [("+", 1.0), ("-", 0.0)])
async def test_code_is_scored_by_its_tests(sign: str, expected: float) -> None:
    (correctness, *_) = reasoning_rewards(list(REASON_WEIGHTS))
    text = f"<think>a</think><answer>```python\ndef f(x):\n    return x {sign} 1\n```</answer>"
    columns = {"answer": [[]], "domain": ["code"], "hidden_tests": [["assert f(1) == 2"]], "entry_point": ["f"]}
    assert await correctness([], [text], **columns) == [expected]


def test_the_last_answer_counts() -> None:
    assert stated_answer("<answer>1</answer> no: <answer> 2 </answer>") == "2"


MINIMAL = ("--task", "reason", "--model_name_or_path", "x", "--use_cpu", "true", "--bf16", "false")


def test_the_task_changes_defaults_of_the_training() -> None:
    training = load_recipe(MINIMAL).training
    values = (training.learning_rate, training.num_generations, training.max_completion_length, training.beta)
    assert values == (1e-6, 4, 256, 0.0)
    assert (training.epsilon, training.gradient_accumulation_steps, training.save_steps) == (0.2, 2, 100)
    assert training.advantage_estimator == "grpo" and training.stop_strings == ["</answer>"]


def test_a_flag_overrides_a_default_of_the_task() -> None:
    assert load_recipe([*MINIMAL, "--learning_rate", "1e-3"]).training.learning_rate == 1e-3


SHORT = {
    "max_steps": 2,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "num_train_problems": 24,
    "num_eval_problems": 10,
    "max_completion_length": 8,
    "save_strategy": "steps",
    "save_steps": 1,
    "report_to": "tensorboard",
    "use_cpu": True,
}


def write_recipe(model: Path, folder: Path, **changes: Any) -> str:
    recipe = yaml.safe_load((ROOT / "recipes" / "reason-quickstart.yaml").read_text())
    recipe |= {"model_name_or_path": str(model), "output_dir": str(folder / "run")} | SHORT | changes
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return str(folder / "recipe.yaml")


@dataclass
class Launched:
    """A run under torchrun."""

    output_dir: Path
    output: subprocess.CompletedProcess[str]
    summary: dict[str, Any]


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two processes"])
def launched(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Launched:
    folder = tmp_path_factory.mktemp("reason")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={request.param}"]
    command += ["--module", "aflow_trl.train", write_recipe(tiny_model, folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert output.returncode == 0, output.stderr[-2000:]
    return Launched(folder / "run", output, json.loads((folder / "run" / "summary.json").read_text()))


@pytest.mark.slow
def test_a_run_under_torchrun_evaluates_every_held_out_problem_once(launched: Launched) -> None:
    assert launched.summary["trained"]["accuracy"]["n"] == 10 and launched.summary["nonfinite_steps"] == 0


@pytest.mark.slow
def test_a_run_under_torchrun_writes_logs_and_checkpoints(launched: Launched) -> None:
    assert list(launched.output_dir.rglob("events.out.tfevents.*"))
    assert {path.name for path in launched.output_dir.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}


@pytest.mark.slow
def test_a_run_under_torchrun_prints_from_one_process(launched: Launched) -> None:
    assert launched.output.stdout.count("Held-out problems") == 1


@pytest.mark.slow
def test_a_strict_parser_reads_every_json_file_of_a_run(launched: Launched) -> None:
    assert {"summary.json", "checkpoint-2/trainer_state.json"} <= set(read_strictly(launched.output_dir))


@pytest.mark.slow
def test_a_run_whose_prompts_are_all_too_long_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    refused = aflow(write_recipe(tiny_model, tmp_path, max_prompt_length=4), command=train)
    assert refused.returncode == 2 and "max_prompt_length is 4" in refused.stderr


@pytest.mark.slow
def test_prompts_that_are_too_long_are_left_out_and_counted(tiny_model: Path, tmp_path: Path) -> None:
    # The second question is longer than the limit.
    questions = ["What is 6 * 7?", "What is " + " + ".join(["1"] * 3_000) + "?", "What is 6 * 8?", "What is 6 * 9?"]
    rows = [json.dumps({"question": question, "answer": "42"}) for question in questions]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    changes = {"train_data": str(tmp_path / "rows.jsonl"), "max_prompt_length": 2_000, "max_steps": 1}
    finished = aflow(write_recipe(tiny_model, tmp_path, **changes), command=train)
    assert finished.returncode == 0, finished.stderr[-2000:]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["left_out"] == {"train": 1, "held_out": 0}
    assert "1 of 4 train prompts are longer than 2000 tokens" in finished.stdout
