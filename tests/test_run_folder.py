"""The output folder of a run: one run at a time, its record, resuming what is finished, and signals in every phase."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from aflow_trl.errors import RecipeError
from aflow_trl.llm import ExecutorConfig
from aflow_trl.storage import RunRecord, read_run
from aflow_trl.train import main as train
from aflow_trl.trainer import INTERRUPTION
from aflow_trl.trainer.checkpoint import state_path
from command_line import aflow

SHORT: dict[str, Any] = {
    "max_steps": 2,
    "save_strategy": "steps",
    "save_steps": 1,
    "warm_start": None,
    "num_train_problems": 32,
    "num_eval_problems": 4,
    "baseline_workflows": ["AnswerGenerate"],
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "collapse_guard": "off",
}


def write_recipe(folder: Path, **changes: Any) -> str:
    root = Path(__file__).parents[1]
    content = yaml.safe_load((root / "recipes" / "quickstart.yaml").read_text(encoding="utf-8"))
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content | SHORT | {"output_dir": str(folder / "run")} | changes))
    return str(path)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# -- the lock --------------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from aflow_trl.storage import RunRecord
with RunRecord(Path(sys.argv[1])) as record:
    record.begin({})
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process at work in the folder `run`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_run_in_a_folder_is_refused_by_name(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    result = aflow(write_recipe(tmp_path), command=train)
    assert result.returncode == 2
    assert all(text in result.stderr for text in (str(holder.pid), str(tmp_path / "run"), "output_dir")), result.stderr


def test_the_folder_of_a_killed_run_is_free(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.kill()
    holder.wait()
    with RunRecord(tmp_path / "run"):
        pass


def test_what_is_wrong_from_the_start_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RecipeError), RunRecord(tmp_path / "run"):
        raise RecipeError
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match="cannot be written"), RunRecord(tmp_path / "file" / "run"):
        pass


# -- record and resume -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Recipe and folder of a finished run of two steps."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = write_recipe(folder)
    result = aflow(recipe, "--learning_rate", "1e-4", command=train)
    assert result.returncode == 0, result.stderr
    return recipe, folder / "run"


@pytest.mark.slow
def test_the_record_holds_what_ran(finished: tuple[str, Path]) -> None:
    run = read_run(finished[1])
    assert run is not None and (run["outcome"], run["step"], run["max_steps"], run["task"]) == (
        "finished",
        2,
        2,
        "compose",
    )
    assert run["recipe"]["learning_rate"] == 1e-4, "that of the flag"
    assert ExecutorConfig(**run["executor"]).executor_base_url == "simulated"
    assert run["process"]["pid"] == os.getpid() and "trl" in run["versions"]


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is(finished: tuple[str, Path]) -> None:
    before = contents(finished[1])
    for _ in range(2):
        result = aflow(finished[0], "--learning_rate", "1e-4", "--resume", command=train)
        assert result.returncode == 0 and "is finished" in result.stdout and "training" not in result.stdout
    assert contents(finished[1]) == before


@pytest.mark.slow
def test_a_policy_is_run_with_the_executor_of_its_training(finished: tuple[str, Path]) -> None:
    question = "Ana has 20 apples. Ana gets 5 more. How many apples does Ana have now?"
    result = aflow("run", question, "--model", str(finished[1]))
    assert "simulated executor" in result.stderr and result.returncode in (0, 1)


@pytest.mark.slow
def test_a_larger_max_steps_goes_on_with_a_finished_run(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    assert aflow(recipe, command=train).returncode == 0
    result = aflow(recipe, "--max_steps", "3", "--resume", command=train)
    state = json.loads((tmp_path / "run" / "checkpoint-3" / "trainer_state.json").read_text())
    assert result.returncode == 0 and state["global_step"] == 3


@pytest.mark.slow
def test_resume_where_nothing_was_saved_says_so(tmp_path: Path) -> None:
    result = aflow(write_recipe(tmp_path, max_steps=1), "--resume", command=train)
    assert result.returncode == 0 and "no checkpoint" in result.stdout


# -- signals ---------------------------------------------------------------------------------------------------------

LAUNCHERS = {
    "python": [sys.executable, "-m", "aflow_trl.train"],
    "accelerate": [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "-m", "aflow_trl.train"],
}


def start(launcher: str, folder: Path, **changes: Any) -> subprocess.Popen[str]:
    command = [*LAUNCHERS[launcher], write_recipe(folder, **{"max_steps": 400, "save_strategy": "no"} | changes)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def wait_for(folder: Path, condition: Any) -> None:
    end = time.monotonic() + 120
    while not condition(read_run(folder / "run") or {}):
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_training_ends_with_a_checkpoint_of_the_last_step(
    number: signal.Signals, lag: int, tmp_path: Path
) -> None:
    process = start("python", tmp_path, rollout_lag=lag, simulated_latency_s=0.5 * lag)
    wait_for(tmp_path, lambda run: run.get("step", 0) >= 2)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    run = read_run(tmp_path / "run")
    assert run is not None and process.returncode == 3 and run["outcome"] == "stopped", output
    checkpoint = tmp_path / "run" / f"checkpoint-{run['step']}"
    assert (checkpoint / "trainer_state.json").is_file()
    assert number.name in output and "--resume" in output and "Traceback" not in output
    state = torch.load(state_path(checkpoint, 0), weights_only=False)
    assert len(state["in_flight"]) == lag


@pytest.mark.slow
def test_a_signal_in_an_evaluation_ends_at_once(tmp_path: Path) -> None:
    process = start("python", tmp_path, simulated_latency_s=0.5, num_eval_problems=16)
    wait_for(tmp_path, lambda run: str(run.get("phase", "")).startswith("held-out"))
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 3 and "SIGTERM" in output and "--resume" in output and "Traceback" not in output
    assert (read_run(tmp_path / "run") or {})["outcome"] == "stopped"


WARM_START = {"max_calls": 4_000, "winners": 1, "sft_steps": 200, "sft_batch_size": 8}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "number"),
    [
        (r"warm start: \d+ workflows", signal.SIGINT),
        ("warm start: fine-tuning", signal.SIGTERM),
        ("held-out evaluation of the trained policy", signal.SIGINT),
    ],
)
def test_a_signal_in_another_phase_ends_at_once(phase: str, number: signal.Signals, tmp_path: Path) -> None:
    settings = {"warm_start": WARM_START} if phase.startswith("warm") else {"max_steps": 1, "num_eval_problems": 16}
    process = start("python", tmp_path, simulated_latency_s=0.5, **settings)
    wait_for(tmp_path, lambda run: re.match(phase, str(run.get("phase", ""))))
    time.sleep(0.5)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 3 and number.name in output and "--resume" in output and "Traceback" not in output
    assert (read_run(tmp_path / "run") or {})["outcome"] == "stopped"


def test_a_signal_waits_until_the_model_is_saved() -> None:
    events: list[str] = []
    with INTERRUPTION.handling_signals(events.append), INTERRUPTION.in_training():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        events.append("saved")
    assert events == ["saved", "SIGTERM"]


@pytest.mark.slow
def test_the_death_of_the_launcher_leaves_no_orphan(tmp_path: Path) -> None:
    process = start("accelerate", tmp_path)
    wait_for(tmp_path, lambda run: run.get("step", 0) >= 2)
    children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    process.wait(timeout=60)
    _, alive = psutil.wait_procs(children, timeout=60)
    run = read_run(tmp_path / "run")
    assert alive == [] and run is not None and run["outcome"] == "stopped", run
    assert (tmp_path / "run" / f"checkpoint-{run['step']}").is_dir(), run["reason"]


# -- a full disk -----------------------------------------------------------------------------------------------------

TMPFS = ["unshare", "--user", "--map-root-user", "--mount"]
SESSION = """
import subprocess, sys
size, recipe, folder = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
command = [sys.executable, "-m", "aflow_trl.train", recipe]
codes = [subprocess.run(command).returncode]
subprocess.run(["mount", "-o", "remount,size=100m", folder], check=True)
codes.append(subprocess.run([*command, "--resume"]).returncode)
print("codes", *codes)
"""


def can_mount() -> bool:
    """Whether this user may mount a file system in a namespace of its own."""
    command = [*TMPFS, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="needs user namespaces")
@pytest.mark.parametrize("size", ["24k", "2m", "5m"])
def test_a_full_disk_is_a_sentence_and_the_run_goes_on(size: str, tmp_path: Path) -> None:
    # Full while traces are written; while the first checkpoint is; while the second is.
    folder = tmp_path / "run"
    folder.mkdir()
    recipe = write_recipe(tmp_path, max_steps=3)
    command = [*TMPFS, sys.executable, "-c", SESSION, size, recipe, str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "codes 3 0" in result.stdout, result.stdout + result.stderr
    assert f"the disk of {folder} is full" in result.stdout and "Traceback" not in result.stdout + result.stderr
