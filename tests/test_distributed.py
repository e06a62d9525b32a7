"""Two processes: the advantages are those of one, and a whole run ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from aflow_trl.llm import CallCache
from aflow_trl.rollouts import read_rollout, trace_name
from aflow_trl.runs import replay
from aflow_trl.storage import read_rows
from aflow_trl.trainer.advantages import wa_grpo

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


def launch(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"} | env,
    )


def test_advantages_of_two_processes_are_those_of_one(tiny_model: Path, tmp_path: Path) -> None:
    script = str(Path(__file__).with_name("distributed_script.py"))
    arguments = ["--standalone", "--nproc_per_node=2", script, str(tiny_model), str(tmp_path)]
    result = launch("torch.distributed.run", *arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    # Alive at interpreter exit, they may abort a process that has done its work.
    assert not any("gloo" in path.read_text() for path in tmp_path.glob("threads*.txt"))
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert torch.equal(torch.nan_to_num(first["rewards"]), torch.nan_to_num(second["rewards"]))
    whole = torch.cat([first["local"], second["local"]])
    assert first["logged"] == second["logged"] == pytest.approx(whole.tolist())
    assert first["on_one_process"] == second["on_one_process"]
    assert first["on_one_process"][:6] == [None] * 6 and None not in first["on_one_process"][6:]
    rewards = first["rewards"]
    expected = wa_grpo(rewards[:, 0], rewards[:, 1].nan_to_num(), 4, progress=torch.tensor(first["progress"]))
    torch.testing.assert_close(whole, expected, atol=0, rtol=0)


SAME = (
    *(
        "reward",
        "reward_std",
        "rewards/",
        "workflows/",
        "accuracy/",
        "operators/",
        "invalid/",
        "groups/",
        "advantage/",
    ),
    *("completions/", "executor/calls_per_workflow", "frac_reward_zero_std"),
)
"""Metrics that do not depend on the number of processes; what each pays for does, and so do times."""


@pytest.mark.parametrize("estimator", ["wa_grpo", "grpo"])
def test_two_processes_learn_what_one_does_on_the_same_batch(estimator: str, tiny_model: Path, tmp_path: Path) -> None:
    results = []
    for config in ("cpu", "cpu_2"):
        folder = tmp_path / config
        folder.mkdir()
        done = launch(
            *("accelerate.commands.launch", "--config_file", str(ROOT / "accelerate_configs" / f"{config}.yaml")),
            *(str(Path(__file__).with_name("same_batch_script.py")), str(tiny_model), str(folder), estimator),
        )
        assert done.returncode == 0, done.stderr[-3000:]
        results.append(torch.load(folder / "result.pt"))
        assert results[-1]["processes"] == (2 if config == "cpu_2" else 1)
    one, two = results
    assert one["advantages"] == two["advantages"] and any(any(step) for step in one["advantages"])
    for ours, theirs in zip(one["logs"], two["logs"], strict=True):
        named = {key for key in ours.keys() | theirs.keys() if key.startswith(SAME)}
        assert {"accuracy/all", "workflows/entropy", "invalid/unknown_operator"} <= named
        assert {key: ours.get(key) for key in named} == pytest.approx(
            {key: theirs.get(key) for key in named}, rel=1e-6
        )
    # Gradients are summed in another order.
    torch.testing.assert_close(two["parameters"], one["parameters"], atol=1e-5, rtol=0)


def test_first_run_on_two_processes_builds_one_policy_and_ends_with_one_summary(tmp_path: Path) -> None:
    recipe = yaml.safe_load((ROOT / "recipes" / "quickstart.yaml").read_text()) | {
        "output_dir": str(tmp_path / "run"),
        "max_steps": 2,
        "per_device_train_batch_size": 12,
        "num_eval_problems": 15,
        "num_train_problems": 60,
        "baseline_workflows": [],
        "warm_start": None,
        "use_cpu": True,
        "call_cache": str(tmp_path / "calls.sqlite"),
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    arguments = ["--standalone", "--nproc_per_node=2", "--module", "aflow_trl.train", str(path)]
    result = launch("torch.distributed.run", *arguments, AFLOW_TRL_CACHE=str(tmp_path / "cache"))
    assert result.returncode == 0, result.stderr[-3000:]
    (policy,) = (path.parent for path in (tmp_path / "cache").rglob("config.json"))
    assert {"model.safetensors", "tokenizer.json"} <= {path.name for path in policy.iterdir()}
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["accuracy"]["trained"]["n"] == 15
    assert result.stdout.count("Held-out accuracy") == 1
    rollouts = [read_rollout(row) for rank in range(2) for row in read_rows(tmp_path / "run" / trace_name(rank))]
    paid = sum(rollout.trace.paid_calls for rollout in rollouts)
    by_operator, by_domain = summary["ledger"]["by_operator"], summary["ledger"]["by_domain"]
    for accounts in (by_operator, by_domain):
        assert sum(account["model_calls"] for account in accounts.values()) == summary["model_calls"] == paid
    # Both processes write one cache; a reply that both asked for at once is there once.
    assert 0 < CallCache(tmp_path / "calls.sqlite").stats().replies <= paid
    steps = list(replay(tmp_path / "run"))
    assert steps and all(torch.equal(step.old_advantages, step.new_advantages) for step in steps)
