"""Runs that report to each of the usual trackers, offline."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from aflow_trl.train import main as train
from command_line import aflow

ROOT = Path(__file__).parent.parent
METRIC = "accuracy/all"
TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")


def write_recipe(folder: Path, model: Path, **changes: object) -> str:
    recipe = yaml.safe_load((ROOT / "recipes" / "quickstart.yaml").read_text(encoding="utf-8"))
    recipe |= {"model_name_or_path": str(model), "output_dir": str(folder / "run"), "max_steps": 2, "use_peft": False}
    recipe |= {"num_train_problems": 30, "num_eval_problems": 6, "warm_start": None, "baseline_workflows": []}
    recipe |= {"per_device_train_batch_size": 8, "max_completion_length": 8, "logging_steps": 1}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | changes), encoding="utf-8")
    return str(folder / "recipe.yaml")


def holds(folder: Path, text: str) -> bool:
    """Whether a file in the folder has the text in its content or its path."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return any(text in str(path) or text.encode() in path.read_bytes() for path in files)


@pytest.mark.slow
@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_run_reports_to_its_tracker(
    tracker: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "wandb"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlflow").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    (tmp_path / "wandb").mkdir()
    settings = {"report_to": tracker, "log_completions": True, "eval_strategy": "steps", "eval_steps": 1}
    result = aflow(write_recipe(tmp_path, tiny_model, **settings), command=train)
    assert result.returncode == 0, result.stderr[-3000:]
    folders = {"tensorboard": tmp_path / "run" / "runs", "trackio": Path(os.environ["TRACKIO_DIR"])}
    assert holds(folders.get(tracker, tmp_path / tracker), METRIC)


@pytest.mark.slow
def test_a_tracker_that_refuses_does_so_before_the_evaluation(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    result = aflow(write_recipe(tmp_path, tiny_model, report_to="mlflow"), command=train)
    assert result.returncode == 2 and "report_to: mlflow refuses" in result.stderr
    assert "held-out evaluation" not in result.stdout


@pytest.mark.slow
def test_the_table_of_completions_fits_80_columns(tiny_model: Path, tmp_path: Path) -> None:
    result = aflow(write_recipe(tmp_path, tiny_model, log_completions=True, report_to="none"), command=train)
    begin = result.stdout.index("completions of step 1")
    table = result.stdout[begin : result.stdout.index("step    2/2")].splitlines()
    assert max(map(len, table)) <= 80 and len(table) < 60
    assert result.stdout.count("completions of step") == 2


@pytest.mark.slow
def test_other_terminals_can_follow_a_run(tiny_model: Path, tmp_path: Path) -> None:
    result = aflow(write_recipe(tmp_path, tiny_model), command=train)
    assert result.returncode == 0, result.stderr[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "run" / "progress.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line.get("unit") == "steps"]
    assert [line["done"] for line in steps if "metrics" not in line] == [1, 2]
    assert {line["total"] for line in steps} == {2} and any(METRIC in line.get("metrics", {}) for line in steps)
    assert {"workflows", "completions"} <= {line.get("unit") for line in lines}
    phases = list(dict.fromkeys(line["phase"] for line in lines))
    assert "training" in phases and phases[-1] == "held-out evaluation of the trained policy"
    log = (tmp_path / "run" / "run.log").read_text()
    assert all(phase in log for phase in phases) and "step    2/2" in log
