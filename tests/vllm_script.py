"""Run by test_vllm.py in a process of its run: the trainer with vLLM colocated, on the CPU; results as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import trl.generation.vllm_generation as generation
import vllm.model_executor.layers.utils as layers
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from aflow_trl.dsl import extract, workflow_regex
from aflow_trl.errors import RunStoppedError
from aflow_trl.trainer import WorkflowGRPOConfig, WorkflowGRPOTrainer

# The CPU backend packs weights and drops their loader, which the sync of TRL needs; and it would compile for minutes.
layers.dispatch_cpu_unquantized_gemm = lambda layer, remove_weight: setattr(
    layer, "cpu_linear", torch.nn.functional.linear
)
generation.LLM = functools.partial(generation.LLM, enforce_eager=True, dtype="float32")

STEPS = 4
WRITTEN: list[str] = []


def reward(completions: list[Any], **_: Any) -> list[float]:
    texts = [completion[0]["content"] for completion in completions]
    WRITTEN.extend(texts)
    return [float(sum(map(ord, text)) % 7) / 6 for text in texts]


async def awaited_reward(completions: list[Any], **_: Any) -> list[float]:
    await asyncio.sleep(0.1)
    return reward(completions)


def build_trainer(model: str, folder: Path, function: Any = reward, **overrides: Any) -> Any:
    # TRL leaves them for vLLM; the next configuration would take them for a launcher's.
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)
    settings = {
        "output_dir": str(folder),
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": 0.3,
        "vllm_max_model_length": 256,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 16,
        "max_steps": STEPS,
        "learning_rate": 1e-2,
        "max_sampling_logp_difference": 1e-3,
        "stop_strings": ["</workflow>"],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "seed": 0,
    }
    prompts = [{"prompt": [{"role": "user", "content": f"What is {n} + 1?"}]} for n in range(16)]
    return WorkflowGRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        reward_funcs=[function],
        args=WorkflowGRPOConfig(**settings | overrides),
        train_dataset=Dataset.from_list(prompts),
        processing_class=AutoTokenizer.from_pretrained(model),
    )


def close(run: Any) -> None:
    """End an engine before the next begins: it would take down the state that vLLM keeps for all of them."""
    run.vllm_generation.llm.llm_engine.engine_core.shutdown()
    del run
    gc.collect()


def differences(run: Any) -> dict[str, Any]:
    logs = [entry for entry in run.state.log_history if "reward" in entry]
    return {
        "max": [entry["sampling/sampling_logp_difference/max"] for entry in logs],
        "stale": [entry["sampling/stale"] for entry in logs],
        "reason": run.sync_guard.reason,
    }


def main(model: str, output: Path) -> None:
    results: dict[str, Any] = {}
    run = build_trainer(model, output / "synced")
    run.train()
    results["synced"] = differences(run)
    run = close(run)
    # The negative control: nothing reaches vLLM after the first generation.
    run = build_trainer(model, output / "stale")
    run.vllm_generation.sync_weights = lambda *args, **kwargs: None
    with contextlib.suppress(RunStoppedError):
        run.train()
    results["stale"] = differences(run)
    run = close(run)
    run = build_trainer(model, output / "lagged", awaited_reward, rollout_lag=1)
    run.train()
    logs = [entry for entry in run.state.log_history if "reward" in entry]
    results["lagged"] = differences(run) | {
        name: [entry[f"rollout/{name}"] for entry in logs] for name in ("lag", "kl")
    }
    run = close(run)
    WRITTEN.clear()
    run = build_trainer(
        model,
        output / "constrained",
        vllm_structured_outputs_regex=workflow_regex(2),
        max_completion_length=200,
        max_steps=2,
        learning_rate=0.0,
    )
    run.train()
    workflows = [extract(text).workflow for text in WRITTEN if text.endswith("</workflow>")]
    results["constrained"] = {
        "written": len(WRITTEN),
        "ended": len(workflows),
        "valid": sum(workflow is not None for workflow in workflows),
        "compared": any("sampling/stale" in entry for entry in run.state.log_history),
    }
    (output / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
