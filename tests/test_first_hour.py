"""The first hour of a new user, from the wheel in an empty folder, one test a step."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from hub_server import Hub, hub

ROOT = Path(__file__).parent.parent
QUESTION = "Ana has 12 cards. Ana finds 3 bags with 4 each. How many cards does Ana have now?"
OPERATORS = """
from aflow_trl.operators import Candidate, Operator, operator


@operator(description="Answers twice and keeps the second answer.", max_calls=2)
class Twice(Operator):
    async def run(self, state, arguments, call):
        await call.ask(f"Solve this problem.\\n{state.problem.statement}")
        return state.with_candidate(Candidate(await call.ask(f"Solve this problem.\\n{state.problem.statement}")))
"""
SCORERS = """
from aflow_trl.answers import extract_answer
from aflow_trl.scoring import scorer


@scorer(domain="estimation", description="estimates that may be ten percent off")
def within_ten_percent(answer, golds, question):
    value, gold = float(extract_answer(answer, "math")), float(golds[0])
    return abs(value - gold) <= 0.1 * abs(gold)
"""
pytestmark = pytest.mark.slow


@dataclass
class Session:
    """The user's folder, environment and Hub."""

    folder: Path
    bin: Path
    hub: Hub

    def __call__(self, command: str, *, codes: tuple[int, ...] = (0,)) -> str:
        """Type a command; returns what it prints."""
        program, *arguments = shlex.split(command)
        environment = {name: value for name, value in os.environ.items() if "PYTHON" not in name}
        environment |= {
            "HF_ENDPOINT": self.hub.url,
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": "hf_first_hour",
            "HF_HOME": str(self.folder / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        finished = subprocess.run(
            [str(self.bin / program), *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=400,
        )
        output = finished.stdout + finished.stderr
        assert finished.returncode in codes, f"{command}\n{output[-4000:]}"
        return output


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """An empty folder, and an environment with the wheel and nothing of this checkout."""
    folder = tmp_path_factory.mktemp("first-hour")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)]
    subprocess.run(command, check=True, timeout=240)
    venv.create(folder / "env", with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder / "env")}))
    # What the wheel depends on is here already; a path in a .pth file leads to packages, not to editable installs.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    (wheel,) = folder.glob("*.whl")
    python = str(folder / "env" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", str(wheel)], check=True, timeout=240)
    wheel.unlink()
    (folder / "work").mkdir()
    with hub() as imitation:
        yield Session(folder / "work", folder / "env" / "bin", imitation)


def test_the_wheel_is_what_runs(user: Session) -> None:
    assert user("aflow-trl --version").startswith("aflow_trl ")
    where = user('python -c "import aflow_trl; print(aflow_trl.__file__)"')
    assert Path(where.strip()).is_relative_to(user.bin.parent)


def test_recipes_are_listed_and_copied(user: Session) -> None:
    assert "quickstart.yaml" in user("aflow-trl recipes list")
    user("aflow-trl recipes copy quickstart.yaml")
    assert (user.folder / "quickstart.yaml").is_file()


def test_the_doctor_finds_nothing(user: Session) -> None:
    recipe = yaml.safe_load((user.folder / "quickstart.yaml").read_text(encoding="utf-8"))
    recipe |= {"max_steps": 4, "num_train_problems": 120, "num_eval_problems": 30, "per_device_train_batch_size": 32}
    recipe |= {"save_strategy": "steps", "save_steps": 2, "output_dir": "runs/first", "logging_steps": 1}
    recipe |= {"warm_start": {"max_calls": 1500, "winners": 1, "sft_steps": 5, "sft_batch_size": 8}}
    (user.folder / "first.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    user("aflow-trl doctor first.yaml")


def test_the_quickstart_trains(user: Session) -> None:
    output = user("python -m accelerate.commands.launch --num_processes 1 -m aflow_trl.train first.yaml --max_steps 2")
    assert "Held-out accuracy" in output
    assert (user.folder / "runs/first/adapter_model.safetensors").is_file()


def test_the_policy_answers_a_question(user: Session) -> None:
    # Whether a policy that was hardly trained finds an answer is another question.
    output = user(f"aflow-trl run '{QUESTION}' --model runs/first --trace", codes=(0, 1))
    assert "simulated executor" in output and "workflow" in output


def test_own_rows_operator_and_scorer_are_evaluated(user: Session) -> None:
    (user.folder / "my_operators.py").write_text(OPERATORS, encoding="utf-8")
    (user.folder / "my_scorers.py").write_text(SCORERS, encoding="utf-8")
    row = {"question": QUESTION, "answer": "24", "domain": "estimation"}
    (user.folder / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    flags = "--operator-module my_operators --scorer-module my_scorers --workflow Twice --out own"
    output = user(f"aflow-trl eval rows.jsonl --model runs/first {flags}")
    assert "estimati" in output
    report = json.loads((user.folder / "own/results.json").read_text(encoding="utf-8"))
    assert any(name.endswith("Twice") for name in report["systems"])


def test_the_training_goes_on_where_it_stopped(user: Session) -> None:
    output = user(
        "python -m accelerate.commands.launch --num_processes 1 -m aflow_trl.train first.yaml --max_steps 4 --resume"
    )
    assert "step    3/4" in output and "step    1/4" not in output


def test_another_terminal_follows_the_run(user: Session) -> None:
    lines = [json.loads(line) for line in (user.folder / "runs/first/progress.jsonl").read_text().splitlines()]
    steps = [line["done"] for line in lines if line.get("unit") == "steps" and "metrics" not in line]
    assert steps == [1, 2, 3, 4]
    assert "Held-out" not in lines[-1]["phase"] and "step    4/4" in (user.folder / "runs/first/run.log").read_text()


def test_the_policy_is_pushed_in_one_commit_of_harmless_files(user: Session) -> None:
    user(
        "python -m aflow_trl.train first.yaml --max_steps 4 --output_dir runs/pushed --push_to_hub true --hub_model_id someone/first"
    )
    repository = user.hub.repositories["someone/first"]
    assert repository.created["visibility"] == "private"
    # One commit of huggingface_hub makes the repository, with its `.gitattributes`; one is the policy.
    assert [set(files) - {".gitattributes"} for files in repository.commits[1:-1]] == []
    assert {"README.md", "adapter_model.safetensors", "adapter_config.json", "policy.json"} <= set(repository.files)
    forbidden = ("traces", "calls.sqlite", "rewards", "training_args", "run.json", "run.log", "progress", "checkpoint")
    assert not [name for name in repository.files if any(word in name for word in forbidden)]


def test_the_policy_is_loaded_back_from_the_hub(user: Session) -> None:
    output = user(f"aflow-trl run '{QUESTION}' --model someone/first --simulated", codes=(0, 1))
    assert "workflow" in output
