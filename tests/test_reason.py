"""Plain reasoning: what each reward gives each reply, and runs under torchrun with logs and checkpoints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from aflow_trl.recipes import load_recipe
from aflow_trl.rewards import REASON_WEIGHTS, reasoning_rewards, stated_answer

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


@pytest.mark.parametrize(("text", "gold", "due"), REPLIES)
async def test_a_reply_earns_what_it_should(text: str, gold: str, due: tuple[float, ...]) -> None:
    completions = [[{"role": "assistant", "content": text}]]
    columns: dict[str, Any] = {"answer": [[gold]], "domain": ["math"]}
    given = [(await function([], completions, **columns))[0] for function in reasoning_rewards(list(REASON_WEIGHTS))]
    assert given == pytest.approx(list(due))


async def test_only_a_right_answer_reaches_the_full_reward() -> None:
    totals = {}
    for text, gold, _ in REPLIES:
        columns: dict[str, Any] = {"answer": [[gold]], "domain": ["math"]}
        own = [await function([], [text], **columns) for function in reasoning_rewards(list(REASON_WEIGHTS))]
        totals[text] = sum(weight * value[0] for weight, value in zip(REASON_WEIGHTS.values(), own, strict=True))
    best_wrong = max(total for (text, gold, due), total in zip(REPLIES, totals.values(), strict=True) if due[0] == 0)
    assert totals[GOOD] == sum(REASON_WEIGHTS.values()) > best_wrong + 1


async def test_a_number_is_asked_of_math_alone() -> None:
    (_, digit, _, _) = reasoning_rewards(list(REASON_WEIGHTS))
    text = "<think>a</think><answer>Oslo</answer>"
    assert await digit([], [text, text], domain=["qa", "math"]) == [1.0, 0.0]


async def test_code_is_judged_by_its_tests() -> None:
    (correctness, *_) = reasoning_rewards(list(REASON_WEIGHTS))
    text = "<think>a</think><answer>```python\ndef f(x):\n    return x + 1\n```</answer>"
    columns = {"answer": [[]], "domain": ["code"], "hidden_tests": [["assert f(1) == 2"]], "entry_point": ["f"]}
    assert await correctness([], [text], **columns) == [1.0]


def test_the_last_answer_counts() -> None:
    assert stated_answer("<answer>1</answer> no: <answer> 2 </answer>") == "2"


def test_the_task_has_its_own_defaults() -> None:
    machine = ["--use_cpu", "true", "--bf16", "false"]
    training = load_recipe(["--task", "reason", "--model_name_or_path", "x", *machine]).training
    found = (training.learning_rate, training.num_generations, training.max_completion_length, training.beta)
    assert found == (1e-6, 4, 256, 0.0)
    assert (training.epsilon, training.gradient_accumulation_steps, training.save_steps) == (0.2, 2, 100)
    assert training.advantage_estimator == "grpo" and training.stop_strings == ["</answer>"]
    flagged = load_recipe(["--task", "reason", "--model_name_or_path", "x", "--learning_rate", "1e-3", *machine])
    assert flagged.training.learning_rate == 1e-3


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


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_under_torchrun_writes_logs_and_checkpoints(processes: int, tiny_model: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load((ROOT / "recipes" / "reason-quickstart.yaml").read_text())
    recipe |= {"model_name_or_path": str(tiny_model), "output_dir": str(tmp_path / "runs" / "reason")} | SHORT
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    done = subprocess.run(
        [*command, "--module", "aflow_trl.train", str(tmp_path / "recipe.yaml")],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    output = tmp_path / "runs" / "reason"
    summary = json.loads((output / "summary.json").read_text())
    assert summary["trained"]["accuracy"]["n"] == 10 and summary["nonfinite_steps"] == 0
    assert list(output.rglob("events.out.tfevents.*")) and (output / "checkpoint-1").is_dir()
    assert done.stdout.count("Held-out problems") == 1


@pytest.mark.slow
def test_prompts_that_are_too_long_are_counted_or_end_the_run(tiny_model: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load((ROOT / "recipes" / "reason-quickstart.yaml").read_text())
    recipe |= {"model_name_or_path": str(tiny_model), "output_dir": str(tmp_path / "run")} | SHORT
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"max_prompt_length": 4}))
    command = [sys.executable, "-m", "aflow_trl.train", str(tmp_path / "recipe.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "max_prompt_length 4" in done.stderr
