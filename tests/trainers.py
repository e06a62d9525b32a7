"""Trainers of the tests: a random tiny model, rewards that count letters, and rewards of real rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from aflow_trl.dsl import extract
from aflow_trl.engine import Engine
from aflow_trl.errors import RunStoppedError
from aflow_trl.llm import ExecutorConfig, LLMClient
from aflow_trl.rewards import workflow_rewards
from aflow_trl.rollouts import Rollouts
from aflow_trl.simulator import simulated_client
from aflow_trl.trainer import WorkflowGRPOConfig, WorkflowGRPOTrainer

PROMPTS = [f"What is {a} * {b}?" for a in range(2, 6) for b in range(2, 6)]
WORDS = ("Custom", "Review", "e", "o")


def dataset() -> Dataset:
    return Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in PROMPTS])


def text_of(completion: Any) -> str:
    return completion[0]["content"]


def primary_reward(completions: list[Any], **_: Any) -> list[float]:
    return [float(sum(text_of(c).count(word) for word in WORDS) % 3) / 2 for c in completions]


def secondary_reward(completions: list[Any], **_: Any) -> list[float]:
    return [1 / (1 + len(text_of(c))) for c in completions]


def options(output_dir: Path, **overrides: Any) -> dict[str, Any]:
    return {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 8,
        "max_steps": 3,
        "learning_rate": 1e-2,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": 3,
    } | overrides


def build(kind: type, config: type, model: Path, output_dir: Path, **overrides: Any) -> Any:
    trainer_options = {
        key: overrides.pop(key) for key in ("reward_funcs", "peft_config", "rollout_func") if key in overrides
    }
    return kind(
        model=AutoModelForCausalLM.from_pretrained(model),
        reward_funcs=trainer_options.pop("reward_funcs", [primary_reward, secondary_reward]),
        args=config(**options(output_dir, **overrides)),
        train_dataset=dataset(),
        eval_dataset=dataset().select(range(2)),
        processing_class=AutoTokenizer.from_pretrained(model),
        **trainer_options,
    )


def train_until_stopped(trainer: Any) -> str:
    """Train a run that stops before its last step, and return what the error says."""
    with pytest.raises(RunStoppedError) as error:
        trainer.train()
    return str(error.value)


def parameters(trainer: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def simulated(**options: Any) -> LLMClient:
    return simulated_client(ExecutorConfig(executor_base_url="simulated", **options))


def workflow_trainer(client: Any, model: Path, output_dir: Path, **overrides: Any) -> Any:
    """Trainer on rewards of real rollouts; whatever the random model writes, a workflow runs."""
    rollouts = Rollouts(Engine(client))
    rollouts.engine._extraction = lambda _: extract("Custom")
    return WorkflowGRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        reward_funcs=workflow_rewards(rollouts),
        args=WorkflowGRPOConfig(**options(output_dir, **overrides)),
        train_dataset=dataset().map(lambda row: {"question": row["prompt"][0]["content"], "answer": ["42"]}),
        processing_class=AutoTokenizer.from_pretrained(model),
    )
