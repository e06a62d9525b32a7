"""vLLM colocated with the trainer, without a GPU: see docs/learning.md for what has to be installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import save_tiny_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
# Read when torch and vLLM are imported.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of one process for all tests: vLLM takes long to start."""
    folder = tmp_path_factory.mktemp("vllm")
    # The CPU backend wants heads of at least 32.
    model = save_tiny_model(tmp_path_factory.mktemp("model"), hidden_size=64)
    script = str(Path(__file__).with_name("vllm_script.py"))
    done = subprocess.run(
        [sys.executable, script, str(model), str(folder)],
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | ENVIRONMENT,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    loaded: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return loaded


def test_rollouts_come_from_the_current_parameters(results: dict[str, Any]) -> None:
    measured = results["synced"]
    assert len(measured["max"]) == 4 and max(measured["max"]) < 1e-4
    assert measured["stale"] == [0.0] * 4 and measured["reason"] is None


def test_an_engine_that_gets_no_weights_is_noticed_and_ends_the_run(results: dict[str, Any]) -> None:
    """The negative control: from the second step on the parameters have moved."""
    measured = results["stale"]
    assert measured["max"][0] < 1e-4 and min(measured["max"][1:]) > 1e-2
    assert (
        measured["stale"] == [0.0, 1.0, 1.0, 1.0] and "do not come from the current parameters" in measured["reason"]
    )


def test_rollouts_that_lag_are_compared_with_the_policy_that_generated_them(results: dict[str, Any]) -> None:
    measured = results["lagged"]
    assert len(measured["max"]) == 4 and max(measured["max"]) < 1e-4
    assert measured["stale"] == [0.0] * 4 and measured["reason"] is None
    # The parameters have moved since.
    assert measured["lag"] == [0.0, 1.0, 1.0, 1.0] and min(measured["kl"][1:]) > 1e-6


def test_constrained_decoding_writes_workflows_only(results: dict[str, Any]) -> None:
    measured = results["constrained"]
    # The policy is untrained; a completion without an end ran out of tokens.
    assert measured["ended"] > 0 and measured["valid"] == measured["ended"]
    assert not measured["compared"]
