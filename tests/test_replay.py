"""Traces are complete: rewards and advantages of a run come out of them again, exactly, without a model call."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aflow_trl.engine import Engine
from aflow_trl.errors import RecipeError
from aflow_trl.rewards import DEFAULT_WEIGHTS, workflow_rewards
from aflow_trl.rollouts import Rollouts, read_rollout
from aflow_trl.runs import replay
from aflow_trl.storage import TraceFile, read_rows
from aflow_trl.trainer import AdvantageConfig, ReplaySettings, RewardBatch, compute_advantages
from conftest import ScriptedEndpoint, operator_script

SETTINGS = ReplaySettings(
    reward_funcs=list(DEFAULT_WEIGHTS),
    reward_weights=list(DEFAULT_WEIGHTS.values()),
    advantage_estimator="wa_grpo",
    advantage=AdvantageConfig(num_generations=4, tolerance=1e-6),
)
TEXTS = ["Custom", "Custom -> Review", "Custom -> Format", "nonsense"]


async def record(
    endpoint: ScriptedEndpoint, folder: Path, steps: int = 2, settings: ReplaySettings = SETTINGS
) -> None:
    """A run's files, as a trainer writes them; the first workflow names the models of the settings."""
    endpoint.script = operator_script(
        Custom="Obama", Format="42", Review="<verdict>correct</verdict><feedback>f</feedback>"
    )
    engine = Engine(endpoint.client(), models={name: endpoint.client() for name in settings.models})
    rollouts = Rollouts(engine, trace_path=folder / "traces.jsonl.gz")
    rewards_file = TraceFile(folder / "rewards.jsonl.gz")
    for step in range(steps):
        columns: dict[str, Any] = {
            "question": [f"q {step}"] * 4,
            # Two right answers at different cost, a partly right one, and no workflow.
            "answer": [["Obama"], ["Obama"], ["Barack Obama"], ["Barack Obama"]],
            "domain": ["qa"] * 4,
        }
        logged: dict[str, Any] = {}
        columns["log_extra"] = logged.__setitem__
        columns["trainer_state"] = type("State", (), {"global_step": step})
        texts = [" -> ".join(["Custom", *(f'Custom(model="{name}")' for name in settings.models)]), *TEXTS[1:]]
        values = [await function(texts, texts, **columns) for function in workflow_rewards(rollouts)]
        rewards = torch.tensor(values).T
        batch = RewardBatch(
            rewards, torch.tensor(SETTINGS.reward_weights), progress=torch.tensor(logged["rollout/progress"])
        )
        advantages = compute_advantages(batch, SETTINGS.advantage)
        rewards_file.append([{"step": step, "rewards": rewards.tolist(), "advantages": advantages.tolist()}])
    settings.write(folder)


@pytest.mark.parametrize("models", [[], ["strong"]])
async def test_unchanged_run_comes_out_exactly(models: list[str], endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    await record(endpoint, tmp_path, settings=replace(SETTINGS, models=models))
    calls = len(endpoint.payloads)
    steps = list(replay(tmp_path))
    assert [step.step for step in steps] == [0, 1] and len(endpoint.payloads) == calls
    for step in steps:
        assert torch.equal(step.old_rewards, step.new_rewards)
        assert torch.equal(step.old_advantages, step.new_advantages)
        assert step.old_advantages.abs().max() > 0


@pytest.mark.parametrize("change", [{"alpha": 0.0}, {"scale": "none"}])
async def test_settings_of_the_advantage_change_advantages_alone(
    change: dict[str, Any], endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    await record(endpoint, tmp_path)
    step = next(replay(tmp_path, replace(SETTINGS, advantage=replace(SETTINGS.advantage, **change))))
    assert torch.equal(step.old_rewards, step.new_rewards)
    assert not torch.equal(step.old_advantages, step.new_advantages)


async def test_gate_changes_rewards_of_wrong_answers_and_no_advantage(
    endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    await record(endpoint, tmp_path)
    step = next(replay(tmp_path, replace(SETTINGS, gate_secondary=False)))
    # Among wrong answers cost never counts.
    assert not torch.equal(step.old_rewards, step.new_rewards)
    assert torch.equal(step.old_advantages, step.new_advantages)


async def test_quantisation_changes_rewards_and_advantages(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    await record(endpoint, tmp_path)
    step = next(replay(tmp_path, replace(SETTINGS, quantize_correctness=True)))
    assert not torch.equal(step.old_rewards, step.new_rewards)
    assert not torch.equal(step.old_advantages, step.new_advantages)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (replace(SETTINGS, advantage=replace(SETTINGS.advantage, num_generations=8)), "groups of 4"),
        (replace(SETTINGS, advantage_estimator="grpo"), "step of TRL"),
    ],
    ids=["other groups", "an estimator of TRL"],
)
async def test_impossible_replay_is_refused(
    settings: ReplaySettings, message: str, endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    await record(endpoint, tmp_path, steps=1)
    with pytest.raises(RecipeError, match=message):
        next(replay(tmp_path, settings))


def test_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"replay_settings\.json"):
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
    assert [step.step for step in replay(tmp_path)] == [0, 1]


def test_batch_that_was_cut_off_loses_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.jsonl.gz"
    for number in range(3):  # three processes: each was killed while it wrote its second batch
        monkeypatch.setattr("aflow_trl.storage.jsonl._OPENED", set())
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
