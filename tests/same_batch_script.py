"""
Run by test_distributed.py through `accelerate launch`, with one process and with two: the same global batch.

What a completion says depends on its place in the global batch alone; everything after that is the real thing.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aflow_trl.data import PolicyPrompt, build_dataset, load_rows
from aflow_trl.engine import Engine
from aflow_trl.llm import ExecutorConfig, LLMClient
from aflow_trl.rewards import workflow_rewards
from aflow_trl.rollouts import Rollouts
from aflow_trl.simulator import SimulatedApp, in_process
from aflow_trl.trainer import WorkflowGRPOConfig, WorkflowGRPOTrainer, close_process_group

WORKFLOWS = (
    "Custom",
    "AnswerGenerate",
    "Programmer",
    "Custom -> Review ? Revise : done",
    "[Custom, Custom, Custom] -> ScEnsemble",
    "Nothing -> Custom",
    "AnswerGenerate -> Format",
    "`Custom`",
)
GLOBAL_BATCH = 24


class ByPlace(WorkflowGRPOTrainer):
    """Writes, for each place in the global batch and step, a fixed workflow."""

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        start = self.accelerator.process_index * len(prompt_ids)
        texts = [
            WORKFLOWS[(5 * place + 3 * self.state.global_step + place // 7) % len(WORKFLOWS)]
            for place in range(start, start + len(prompt_ids))
        ]
        return [self._tokenizer(f"<workflow>{text}</workflow>")["input_ids"] for text in texts], None


def main(model: str, output: Path, estimator: str) -> None:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    config = ExecutorConfig(executor_base_url="simulated", executor_model="simulated-executor")
    app = SimulatedApp()
    engine = Engine(LLMClient(config, lambda: in_process(app)))
    rollouts = Rollouts(engine)
    rows = load_rows("synthetic", split="train", count=18, seed=0)
    trainer = ByPlace(
        model=AutoModelForCausalLM.from_pretrained(model),
        reward_funcs=workflow_rewards(rollouts),
        args=WorkflowGRPOConfig(
            output_dir=str(output / "run"),
            advantage_estimator=estimator,
            per_device_train_batch_size=GLOBAL_BATCH // processes,
            # Three groups of eight: with two processes, the second lies on both.
            num_generations=8,
            max_completion_length=64,
            max_steps=3,
            learning_rate=1e-3,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            seed=1,
        ),
        train_dataset=build_dataset(rows, PolicyPrompt("compact")),
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    advantages: list[list[float]] = []
    original = trainer._generate_and_score_completions

    def spy(inputs: Any) -> Any:
        result = original(inputs)
        advantages.append(trainer.accelerator.gather(result["advantages"]).tolist())
        return result

    trainer._generate_and_score_completions = spy
    trainer.train()
    trainer.run_async(engine.aclose())
    if trainer.accelerator.is_main_process:
        parameters = torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])
        logs = [entry for entry in trainer.state.log_history if "reward" in entry]
        result = {"processes": trainer.accelerator.num_processes, "logs": logs}
        torch.save(result | {"advantages": advantages, "parameters": parameters}, output / "result.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
    close_process_group()
