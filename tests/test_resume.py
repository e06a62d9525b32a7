"""A run that was ended at any moment goes on as if it had not been: parameters are bit-equal in the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig
from safetensors.torch import load_file
from transformers.trainer import TRAINER_STATE_NAME

from aflow_trl.errors import RecipeError
from aflow_trl.recipes import load_recipe
from aflow_trl.rollouts import Rollouts, read_rollout
from aflow_trl.storage import read_rows
from aflow_trl.trainer import StopConditions, WorkflowGRPOConfig, WorkflowGRPOTrainer, last_checkpoint
from aflow_trl.trainer.checkpoint import state_path
from trainers import build, parameters

ROOT = Path(__file__).parent.parent
LORA = {"peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=True)}
# 16 prompts, two a generation: an epoch is 8 generations.
CASES: list[tuple[str, int, dict[str, Any]]] = [
    ("between generations", 3, {}),
    ("with an adapter", 3, LORA),
    ("at the end of an epoch", 8, {"max_steps": 10}),
    ("in the second epoch", 11, {"max_steps": 13}),
    ("in the middle of two iterations", 3, {"num_iterations": 2, "max_steps": 6}),
    ("in the middle of a generation of four steps", 2, {"steps_per_generation": 4, "max_steps": 6}),
    ("in the middle, with accumulation", 1, {"steps_per_generation": 4, "gradient_accumulation_steps": 2}),
    ("in the middle, in the second epoch", 19, {"num_iterations": 2, "max_steps": 21}),
    (
        "in the middle of a temperature schedule and of a generation",
        3,
        {"num_iterations": 2, "max_steps": 6, "temperature_initial": 1.4, "temperature_warmup_steps": 6},
    ),
]


def trainer(model: Path, folder: Path, **overrides: Any) -> Any:
    return build(WorkflowGRPOTrainer, WorkflowGRPOConfig, model, folder, **{"max_steps": 5, **overrides})


@pytest.mark.parametrize(("at", "options"), [row[1:] for row in CASES], ids=[row[0] for row in CASES])
def test_resumed_run_ends_bit_equal(at: int, options: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    whole = trainer(tiny_model, tmp_path, save_strategy="steps", save_steps=at, **options)
    start = parameters(whole).clone()
    whole.train()
    again = trainer(tiny_model, tmp_path, **options)
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
    assert torch.equal(parameters(again), parameters(whole))
    assert not torch.equal(parameters(whole), start)
    ours, theirs = (
        [
            {k: v for k, v in entry.items() if k in ("step", "reward", "entropy", "grad_norm", "temperature")}
            for entry in own.state.log_history[:-1]
        ]
        for own in (again, whole)
    )
    assert ours == theirs


def test_without_the_buffer_a_run_cut_in_a_generation_goes_on_differently(tiny_model: Path, tmp_path: Path) -> None:
    """The negative control of the test above."""
    options = {"num_iterations": 2, "max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    whole = trainer(tiny_model, tmp_path, **options)
    whole.train()
    state_path(tmp_path / "checkpoint-3", 0).unlink()
    again = trainer(tiny_model, tmp_path, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert not torch.equal(parameters(again), parameters(whole))


def test_resume_with_other_groups_is_refused_by_name(tiny_model: Path, tmp_path: Path) -> None:
    trainer(tiny_model, tmp_path, save_strategy="steps", save_steps=2, max_steps=2).train()
    other = trainer(tiny_model, tmp_path, num_generations=2)
    with pytest.raises(ValueError, match="num_generations 4, this run has 2"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def checkpoint(folder: Path, step: int, state: str = "{}") -> Path:
    own = folder / f"checkpoint-{step}"
    own.mkdir()
    (own / TRAINER_STATE_NAME).write_text(state)
    return own


def test_a_learning_rate_that_was_changed_is_the_one_that_is_used(tiny_model: Path, tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "constant"}
    trainer(tiny_model, tmp_path, max_steps=2, learning_rate=1e-2, **options).train()
    again = trainer(tiny_model, tmp_path, max_steps=4, learning_rate=1e-3, lr_scheduler_type="constant")
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    rates = [entry["learning_rate"] for entry in again.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3])


def test_lost_steps_that_ended_a_run_do_not_end_it_again(tiny_model: Path, tmp_path: Path) -> None:
    stop = StopConditions(Rollouts(None), max_lost_steps=3)  # type: ignore[arg-type]
    stop.load_state_dict({"lost_steps": 3})
    assert stop.state_dict() == {"lost_steps": 0}
    stop.load_state_dict({"lost_steps": 2})
    assert stop.state_dict() == {"lost_steps": 2}


def test_a_checkpoint_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    whole = checkpoint(tmp_path, 20)
    checkpoint(tmp_path, 100, state='{"global_step": 1')
    (tmp_path / "checkpoint-120").mkdir()
    assert last_checkpoint(tmp_path) == whole
    assert last_checkpoint(tmp_path / "none") is None


def test_resume_takes_the_latest_complete_checkpoint(tmp_path: Path) -> None:
    whole = checkpoint(tmp_path, 20)
    recipe = load_recipe(["quickstart.yaml", "--resume", "--output_dir", str(tmp_path)])
    assert recipe.training.resume_from_checkpoint == str(whole)
    assert load_recipe(["quickstart.yaml", "--resume", "--output_dir", "none"]).training.resume_from_checkpoint is None


@pytest.mark.parametrize("flags", [["--resume"], []], ids=["both ways at once", "not complete"])
def test_a_checkpoint_that_cannot_be_meant_is_refused(flags: list[str], tmp_path: Path) -> None:
    cut = checkpoint(tmp_path, 100, state="")
    with pytest.raises(RecipeError, match=r"both given|no complete checkpoint"):
        load_recipe(["quickstart.yaml", *flags, "--resume_from_checkpoint", str(cut)])


def command(folder: Path, *flags: str) -> list[str]:
    recipe = yaml.safe_load((ROOT / "recipes" / "quickstart.yaml").read_text()) | {
        "output_dir": str(folder),
        "max_steps": 10,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        # Four prompts a step of two iterations, 12 problems: step 6 ends the first epoch, odd steps cut a generation.
        "num_iterations": 2,
        "num_train_problems": 12,
        "num_eval_problems": 3,
        "baseline_workflows": [],
        "warm_start": None,
        "learning_rate": 2.0e-3,
        "use_cpu": True,
        "temperature_initial": 1.0,
        "temperature_warmup_steps": 8,
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": 2,
        "logging_steps": 1,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.parent / f"{folder.name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return [sys.executable, "-m", "aflow_trl.train", str(path), *flags]


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


LAGS = [[], ["--rollout_lag", "2"]]
NAMES = ["no lag", "lag 2"]


def kill_at(folder: Path, step: int, delay_s: float, lag: list[str]) -> None:
    """Start a run and kill it some time after a checkpoint has begun to appear: perhaps while the next is written."""
    process = subprocess.Popen(
        command(folder, "--resume", *lag), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 200
    while not (folder / f"checkpoint-{step}").is_dir() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(delay_s)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("lag", LAGS, ids=NAMES)
def test_a_run_that_is_killed_again_and_again_ends_bit_equal(lag: list[str], tmp_path: Path) -> None:
    uninterrupted, folder = tmp_path / "whole", tmp_path / "run"
    subprocess.run(command(uninterrupted, *lag), check=True, capture_output=True, timeout=250)
    for step, delay_s in ((2, 0.0), (3, 0.03), (5, 0.6), (8, 0.1)):
        kill_at(folder, step, delay_s, lag)
        assert not (folder / "summary.json").exists()
    subprocess.run(command(folder, "--resume", *lag), check=True, capture_output=True, timeout=250)
    expected, found = adapter(uninterrupted), adapter(folder)
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    # What was paid for before a kill is in the accounts, also the steps that were done twice.
    summary = json.loads((folder / "summary.json").read_text())
    paid = sum(read_rollout(row).trace.paid_calls for row in read_rows(folder / "traces.jsonl.gz"))
    assert summary["model_calls"] == paid > json.loads((uninterrupted / "summary.json").read_text())["model_calls"]


@pytest.mark.slow
@pytest.mark.parametrize("lag", LAGS, ids=NAMES)
def test_two_processes_resume_bit_equal_in_the_middle_of_a_generation(lag: list[str], tmp_path: Path) -> None:
    def launch(folder: Path, *flags: str) -> None:
        arguments = [*command(folder, *flags, *lag)[2:], "--save_steps", "3", "--max_steps", "5"]
        launcher = [sys.executable, "-m", "accelerate.commands.launch"]
        config = str(ROOT / "accelerate_configs" / "cpu_2.yaml")
        done = subprocess.run(
            [*launcher, "--config_file", config, "-m", *arguments], capture_output=True, text=True, timeout=250
        )
        assert done.returncode == 0, done.stderr[-2000:]

    launch(tmp_path / "whole")
    (tmp_path / "cut").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "cut" / "checkpoint-3")
    assert state_path(tmp_path / "cut" / "checkpoint-3", 1).is_file()
    launch(tmp_path / "cut", "--resume")
    expected, found = adapter(tmp_path / "whole"), adapter(tmp_path / "cut")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    start = adapter(tmp_path / "cut" / "checkpoint-3")
    assert not all(torch.equal(start[name], found[name]) for name in start)
