"""
Time of a training step of `WorkflowGRPOTrainer` relative to TRL's `GRPOTrainer`: same model, cheap reward and seed.

Also the relative cost of the collapse guard, with probes of 16 prompts every 10 steps, without the model calls that
scoring a probe takes.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence

import torch
from datasets import Dataset
from transformers import Qwen2Config, Qwen2ForCausalLM, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from aflow_trl.policies.tiny import build_tokenizer
from aflow_trl.trainer import WorkflowGRPOConfig, WorkflowGRPOTrainer

STEPS = 25
WARM_UP_STEPS = 5
"""Number of first steps that are not timed."""
ROUNDS = 3
PROBE_PROMPTS = 16
QUESTIONS = [f"What is {a} + {b}?" for a in range(16) for b in range(16)]


async def length_reward(completions: Sequence[Sequence[Mapping[str, str]]], **_: object) -> list[float]:
    """A reward that costs nothing to compute. Async, because only then TRL starts the event loop that probes need."""
    return [min(1.0, len(set(completion[0]["content"])) / 20) for completion in completions]


async def score_probe(
    texts: Sequence[str], rows: Sequence[Mapping[str, object]], *, seed: int, step: int
) -> dict[str, list[bool]]:
    """A score of the collapse guard's probe that costs nothing to compute."""
    return {"valid": [True] * len(texts)}


class StepTimer(TrainerCallback):  # type: ignore[misc]
    """Seconds of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._started = 0.0

    def on_step_begin(self, *_: object, **__: object) -> None:
        """Start the timer."""
        self._started = time.perf_counter()

    def on_step_end(self, *_: object, **__: object) -> None:
        """Stop the timer."""
        self.seconds.append(time.perf_counter() - self._started)


def step_times(trainer_class: type[GRPOTrainer], config_class: type[GRPOConfig], **options: object) -> list[float]:
    """Seconds of the timed steps of one short training; `options` are further fields of the configuration."""
    tokenizer = build_tokenizer(QUESTIONS)
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
    rows = [{"prompt": [{"role": "user", "content": text}]} for text in QUESTIONS]
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
            # Completions of equal length: the two trainers must not differ in the number of tokens.
            generation_kwargs={"min_new_tokens": 32},
            **options,
        )
        trainer = trainer_class(
            model=model,
            reward_funcs=length_reward,
            args=args,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        if isinstance(trainer, WorkflowGRPOTrainer):
            # The reward function executes no workflow, so the trainer does not do this itself.
            trainer.watch_collapse(rows[:PROBE_PROMPTS], score_probe)
        # Added last, so that the step it times includes the guard's callback.
        timer = StepTimer()
        trainer.add_callback(timer)
        trainer.train()
    return timer.seconds[WARM_UP_STEPS:]


def main() -> None:
    """Print the ratios of step times. Both sides of a ratio alternate, so that they meet the same noise."""
    plain = {"stop_strings": [], "collapse_guard": "off"}
    ratios = []
    for _ in range(ROUNDS):
        trl_s = statistics.median(step_times(GRPOTrainer, GRPOConfig))
        ratios.append(statistics.median(step_times(WorkflowGRPOTrainer, WorkflowGRPOConfig, **plain)) / trl_s)
    print_ratios("step time relative to TRL's GRPOTrainer", ratios)
    guarded = plain | {"collapse_guard": "rollback", "probe_steps": 10}
    ratios = []
    for _ in range(ROUNDS):
        # Means, not medians: only one step in ten has a probe.
        plain_s = statistics.fmean(step_times(WorkflowGRPOTrainer, WorkflowGRPOConfig, **plain))
        ratios.append(statistics.fmean(step_times(WorkflowGRPOTrainer, WorkflowGRPOConfig, **guarded)) / plain_s)
    print_ratios("step time with the collapse guard relative to without", ratios)


def print_ratios(label: str, ratios: Sequence[float]) -> None:
    """Print the median and all rounds."""
    rounds = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    print(f"trainer: {label} {statistics.median(ratios):.3f} (rounds: {rounds})")


if __name__ == "__main__":
    main()
