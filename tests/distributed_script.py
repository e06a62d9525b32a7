"""Run by test_distributed.py under torchrun: one step on two processes, groups split over both."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from aflow_trl.trainer import WorkflowGRPOConfig, WorkflowGRPOTrainer, close_process_group


def primary(completions: list[Any], log_extra: Any, log_metric: Any, **_: Any) -> list[float | None]:
    texts = [completion[0]["content"] for completion in completions]
    log_extra("rollout/progress", [len(text) % 5 / 5 for text in texts])
    log_extra("rollout/workflow", texts)
    # A user's own columns, one of them on a single process.
    for name in ("task", "executed", "progress"):
        log_extra(name, texts)
    if os.environ["RANK"] == "1":
        log_extra("on_one_process", texts)
    # Different names on different processes: the flush has to survive it.
    log_metric(f"only_here/{len(texts[0])}", 1.0)
    return [None if len(text) % 7 == 0 else float(len(text) % 3) / 2 for text in texts]


def secondary(completions: list[Any], **_: Any) -> list[float]:
    return [1 / (1 + len(completion[0]["content"])) for completion in completions]


def main(model: str, output: Path) -> None:
    trainer = WorkflowGRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        reward_funcs=[primary, secondary],
        args=WorkflowGRPOConfig(
            output_dir=str(output / "run"),
            per_device_train_batch_size=6,
            num_generations=4,
            max_completion_length=8,
            max_steps=1,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            seed=1,
        ),
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": f"{n}?"}]} for n in range(12)]),
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    seen: dict[str, Any] = {}
    original = trainer._generate_and_score_completions

    def spy(inputs: Any) -> Any:
        result = original(inputs)
        seen["local"] = result["advantages"].clone()
        seen["rewards"] = trainer._gathered_rewards.clone()
        seen["progress"] = list(trainer._logs["extra"]["rollout/progress"])
        seen["on_one_process"] = list(trainer._logs["extra"]["on_one_process"])
        seen["logged"] = list(trainer._logs["advantages"])
        return result

    trainer._generate_and_score_completions = spy
    trainer.train()
    torch.save(seen, output / f"rank{trainer.accelerator.process_index}.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
    close_process_group()
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    Path(sys.argv[2], f"threads{os.environ['RANK']}.txt").write_text("\n".join(threads))
