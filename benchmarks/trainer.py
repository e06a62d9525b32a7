"""
Time of a step of `WorkflowGRPOTrainer` over one of TRL's `GRPOTrainer`, same model, cheap reward and seed.

Also what the guard against collapse adds to it, with probes of 16 prompts every 10 steps (but not the calls of their
workflows).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from transformers import Qwen2Config, Qwen2ForCausalLM, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from aflow_trl.evaluation import sample_policy
from aflow_trl.policies.tiny import build_tokenizer
from aflow_trl.trainer import CollapseGuard, Probe, Share, WorkflowGRPOConfig, WorkflowGRPOTrainer

STEPS, WARM_UP, ROUNDS = 25, 5, 3
PROBE = 16


def length_reward(completions: list[Any], **_: Any) -> list[float]:
    """A reward that costs nothing."""
    return [min(1.0, len(set(completion[0]["content"])) / 20) for completion in completions]


class Clock(TrainerCallback):  # type: ignore[misc]
    """Seconds of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self.started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop."""
        self.seconds.append(time.perf_counter() - self.started)


def step_times(trainer_class: type, config_class: type, *, guarded: bool = False, **options: Any) -> list[float]:
    """Seconds of the steps of one short training."""
    texts = [f"What is {a} + {b}?" for a in range(16) for b in range(16)]
    tokenizer = build_tokenizer(texts)
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        args = config_class(
            output_dir=folder,
            per_device_train_batch_size=64,
            num_generations=8,
            max_completion_length=32,
            max_steps=STEPS,
            learning_rate=0.0,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            seed=0,
            logging_steps=1_000,
            generation_kwargs={"min_new_tokens": 32},
            **options,
        )
        trainer = trainer_class(
            model=model,
            reward_funcs=length_reward,
            args=args,
            train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in texts]),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        if guarded:
            prompts = [[{"role": "user", "content": text}] for text in texts[:PROBE]]

            def probe() -> Probe:
                return Probe(prompts, sample_policy(trainer, prompts, seed=0), {"valid": Share(1.0, PROBE)})

            # Before the clock, which then measures it.
            trainer.callback_handler.callbacks.insert(0, CollapseGuard(trainer, probe, "rollback"))
        trainer.train()
    return clock.seconds[WARM_UP:]


def main() -> None:
    """Alternate the two, so that both meet the same noise, and print the ratio of their medians."""
    ratios = []
    for _ in range(ROUNDS):
        theirs = statistics.median(step_times(GRPOTrainer, GRPOConfig))
        ours = statistics.median(step_times(WorkflowGRPOTrainer, WorkflowGRPOConfig, stop_strings=[]))
        ratios.append(ours / theirs)
    show("step time over TRL's GRPOTrainer", ratios)
    ratios = []
    for _ in range(ROUNDS):
        # Means: a probe is in one step of ten.
        plain = statistics.fmean(step_times(WorkflowGRPOTrainer, WorkflowGRPOConfig, stop_strings=[]))
        own = statistics.fmean(step_times(WorkflowGRPOTrainer, WorkflowGRPOConfig, guarded=True, stop_strings=[]))
        ratios.append(own / plain)
    show("step time with the guard over that without", ratios)


def show(what: str, ratios: list[float]) -> None:
    """Print the median and the rounds."""
    rounds = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    print(f"trainer: {what} {statistics.median(ratios):.3f} (rounds: {rounds})")


if __name__ == "__main__":
    main()
