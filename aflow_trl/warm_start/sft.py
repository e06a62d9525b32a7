"""Supervised fine-tuning (SFT) of the policy on the winners of the search."""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.utils import wait_for_everyone
from datasets import Dataset
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import SFTConfig, SFTTrainer

from ..data import Message, PolicyPrompt, Row
from ..dsl import CLOSING_TAG
from ..storage import PROGRESS
from ..trainer import StepRecord, WorkflowGRPOConfig
from .settings import WarmStartSettings
from .types import Candidate, Group

MAX_SFT_EXAMPLES = 4_096
"""Maximum number of examples; a longer fine-tuning repeats them."""


def sft_examples(
    groups: Mapping[Group, Sequence[Row]],
    winners: Mapping[Group, Sequence[Candidate]],
    prompt: PolicyPrompt,
    *,
    seed: int,
) -> list[dict[str, list[Message]]]:
    """
    Training examples: the prompt of a problem, and a winner of its group as completion.

    Winners are drawn by weight and not always the best one, so that the policy still writes several workflows for
    reinforcement learning to choose from.

    Args:
        groups (`Mapping[Group, Sequence[Row]]`):
            Problems of each group.
        winners (`Mapping[Group, Sequence[Candidate]]`):
            Winners of each group and, where problems have one, of their budget.
        prompt ([`~aflow_trl.data.PolicyPrompt`]):
            Prompt of the policy.
        seed (`int`):
            Seed of the order and of the draws.

    Returns:
        `list[dict[str, list[Message]]]`: Conversations with `prompt` and `completion`, at most [`MAX_SFT_EXAMPLES`].
    """
    rng = random.Random(seed)
    pairs = [(row, group) for group, rows in groups.items() for row in rows]
    rng.shuffle(pairs)
    examples = []
    for row, group in pairs[:MAX_SFT_EXAMPLES]:
        winner = draw_winner(winners[replace(group, budget=row.budget)], rng)
        reply = {"role": "assistant", "content": f"<workflow>{winner.workflow}{CLOSING_TAG}"}
        examples.append({"prompt": prompt.messages(row), "completion": [reply]})
    return examples


def draw_winner(winners: Sequence[Candidate], rng: random.Random) -> Candidate:
    """One of the winners of a group, by weight."""
    return rng.choices(winners, [winner.weight for winner in winners])[0]


def fine_tune(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Mapping[str, Sequence[Message]]],
    settings: WarmStartSettings,
    training: WorkflowGRPOConfig,
    peft_config: Any,
    folder: Path,
) -> None:
    """
    Fine-tune a policy with TRL's `SFTTrainer`.

    Args:
        model:
            Policy; an adapter is added if `peft_config` is given.
        tokenizer:
            Tokenizer of the policy.
        examples (`Sequence[Mapping[str, Sequence[dict[str, str]]]]`):
            Conversational prompts and completions.
        settings ([`WarmStartSettings`]):
            Steps, batch size and learning rate.
        training ([`~aflow_trl.WorkflowGRPOConfig`]):
            Configuration of the later training, whose optimiser, precision and device are used.
        peft_config ([`~peft.PeftConfig`], *optional*):
            Adapter.
        folder (`Path`):
            Folder of the result. It is renamed into place when it is complete, so that its existence says so.
    """
    # Next to the folder and so on the same file system, for the rename to be atomic.
    scratch = folder.with_name(f"{folder.name}.tmp")
    rows: list[dict[str, Any]] = [dict(example) for example in examples]
    if training.chat_template_kwargs:
        # SFTTrainer reads the arguments of the chat template from a column.
        rows = [row | {"chat_template_kwargs": training.chat_template_kwargs} for row in rows]
    trainer = SFTTrainer(
        model=model,
        args=_sft_config(settings, training, scratch),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    # The console belongs to the progress lines of the run.
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(StepRecord(partial(PROGRESS.count, "fine-tuning steps")))
    trainer.train()
    trainer.save_model(str(scratch))
    if trainer.is_world_process_zero():
        # A rename onto a folder that is not empty fails.
        if folder.exists():
            shutil.rmtree(folder)
        scratch.rename(folder)
    # Other processes load the folder next.
    wait_for_everyone()


def _sft_config(settings: WarmStartSettings, training: WorkflowGRPOConfig, output_dir: Path) -> SFTConfig:
    return SFTConfig(
        output_dir=str(output_dir),
        max_steps=settings.sft_steps,
        per_device_train_batch_size=settings.sft_batch_size,
        learning_rate=settings.sft_learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, settings.sft_steps // 10),
        # The prompt is given at inference: the policy has to learn the workflow alone.
        completion_only_loss=True,
        # A prompt that is cut off would lose the problem.
        max_length=None,
        # Batches of similar length hold little padding.
        train_sampling_strategy="group_by_length",
        adam_beta2=training.adam_beta2,
        adam_epsilon=training.adam_epsilon,
        bf16=training.bf16,
        fp16=training.fp16,
        use_cpu=training.use_cpu,
        gradient_checkpointing=training.gradient_checkpointing,
        # An interrupted fine-tuning is repeated from the winners.
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=10,
        seed=training.seed,
        dataloader_pin_memory=training.dataloader_pin_memory,
    )
