"""Traces are complete: rewards and advantages of a run come out of them again, exactly, without a model call."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from aflow_trl.errors import RecipeError
from aflow_trl.rewards import DEFAULT_WEIGHTS, workflow_rewards
from aflow_trl.rollouts import Rollouts, read_rollout
from aflow_trl.runs import replay
from aflow_trl.storage import TraceFile, read_rows
from aflow_trl.trainer import EstimatorSettings, estimate_advantages
from conftest import ScriptedEndpoint, operator_script

SETTINGS = {
    "reward_funcs": list(DEFAULT_WEIGHTS),
    "reward_weights": list(DEFAULT_WEIGHTS.values()),
    "gate_secondary": True,
    "quantize_correctness": False,
    "operators": None,
    "operator_modules": [],
    "primary": 0,
    "num_generations": 4,
    "advantage_estimator": "wa_grpo",
    "advantage_scale": "batch",
    "tie_break_alpha": 0.1,
    "tie_tolerance": 1e-6,
    "advantage_clip": None,
    "seed": 0,
}
TEXTS = ["Custom", "Custom -> Review", "Custom -> Format", "nonsense"]


async def record(endpoint: ScriptedEndpoint, folder: Path, steps: int = 2) -> None:
    """A run's files, as a trainer writes them."""
    endpoint.script = operator_script(
        Custom="Obama", Format="42", Review="<verdict>correct</verdict><feedback>f</feedback>"
    )
    rollouts = Rollouts(endpoint.engine(), trace_path=folder / "traces.jsonl.gz")
    rewards_file = TraceFile(folder / "rewards.jsonl.gz")
    for step in range(steps):
        columns: dict[str, Any] = {
            "question": [f"q {step}"] * 4,
            "answer": [["Barack Obama"]] * 4,
            "domain": ["qa"] * 4,
        }
        logged: dict[str, Any] = {}
        columns["log_extra"] = logged.__setitem__
        columns["trainer_state"] = type("State", (), {"global_step": step})
        texts = list(TEXTS)
        values = [await function(texts, texts, **columns) for function in workflow_rewards(rollouts)]
        rewards = torch.tensor(values).T
        options = {f.name: SETTINGS[f.name] for f in dataclasses.fields(EstimatorSettings)}
        features = {name: torch.tensor(logged[name], dtype=torch.float32) for name in ("progress",)}
        advantages = estimate_advantages(
            rewards,
            torch.tensor(SETTINGS["reward_weights"]),
            features,
            logged["workflow"],
            EstimatorSettings(**options),
            seed=step,
        )
        rewards_file.append([{"step": step, "rewards": rewards.tolist(), "advantages": advantages.tolist()}])
    (folder / "settings.json").write_text(json.dumps(SETTINGS))


async def test_unchanged_run_comes_out_exactly(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    await record(endpoint, tmp_path)
    calls = len(endpoint.payloads)
    steps = list(replay(tmp_path))
    assert [one.step for one in steps] == [0, 1] and len(endpoint.payloads) == calls
    for one in steps:
        assert torch.equal(one.old_rewards, one.new_rewards) and torch.equal(one.old_advantages, one.new_advantages)
        assert one.old_advantages.abs().max() > 0


@pytest.mark.parametrize(
    ("change", "rewards_change"),
    [
        ({"tie_break_alpha": 0.0}, False),
        ({"advantage_scale": "none"}, False),
        ({"advantage_estimator": "wa_grpo_classic"}, False),
        ({"gate_secondary": False}, True),
        ({"quantize_correctness": True}, True),
    ],
)
async def test_other_settings_change_what_they_decide(
    change: dict[str, Any], rewards_change: bool, endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    await record(endpoint, tmp_path)
    one = next(replay(tmp_path, SETTINGS | change))
    assert torch.equal(one.old_rewards, one.new_rewards) is not rewards_change
    # Among wrong answers cost never counts, so here the gate changes rewards alone.
    assert torch.equal(one.old_advantages, one.new_advantages) is ("gate_secondary" in change)


@pytest.mark.parametrize(
    ("change", "named"), [({"num_generations": 8}, "groups of 4"), ({"advantage_estimator": "grpo"}, "TRL's own")]
)
async def test_what_a_replay_cannot_do_is_said(
    change: dict[str, Any], named: str, endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    await record(endpoint, tmp_path, steps=1)
    with pytest.raises(RecipeError, match=named):
        next(replay(tmp_path, SETTINGS | change))


def test_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="settings"):
        next(replay(tmp_path))


async def test_rollout_is_read_back_as_it_was_written(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(
        Custom="42", Review="<verdict>incorrect</verdict><feedback>f</feedback>", Revise="43"
    )
    rollouts = Rollouts(endpoint.engine())
    row = {"question": "q", "answer": ["42"], "domain": "math", "public_tests": ["assert True"], "id": "7"}
    (rollout,) = await rollouts.execute(["Custom -> Review ? Revise : done"], [row], salt="s", phase="p", step=0)
    assert read_rollout(json.loads(json.dumps(rollout.to_json(), default=str))) == rollout


async def test_step_that_was_done_again_counts_once(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    await record(endpoint, tmp_path)
    await record(endpoint, tmp_path)
    assert [one.step for one in replay(tmp_path)] == [0, 1]


def test_batch_that_was_cut_off_loses_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.jsonl.gz"
    for number in range(3):  # three processes: each was killed while it wrote its second batch
        monkeypatch.setattr("aflow_trl.storage.jsonl._BEGUN", set())
        file = TraceFile(path)
        file.append([{"run": number, "n": n} for n in range(5)])
        cut = gzip.compress(b'{"run": 9}\n' * 100)
        with path.open("ab") as stream:
            stream.write(cut[: len(cut) // 2])
    rows = [row for row in read_rows(path) if row["run"] != 9]
    assert rows == [{"run": run, "n": n} for run in range(3) for n in range(5)]


def test_large_file_is_put_aside_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aflow_trl.storage.jsonl.MAX_PART_BYTES", 100)
    file = TraceFile(tmp_path / "t.jsonl.gz")
    for number in range(12):
        file.append([{"n": number}] * 3)
    assert len(list(tmp_path.iterdir())) > 2
    assert [row["n"] for row in read_rows(tmp_path / "t.jsonl.gz")] == [n for n in range(12) for _ in range(3)]
