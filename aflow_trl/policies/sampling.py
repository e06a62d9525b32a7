"""The sampler of a policy outside a trainer: for the warm start, for evaluation and for inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..data import Message
from ..storage import PROGRESS
from .spec import SamplingOptions


def sample_completions(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Sequence[Message]],
    sampling: SamplingOptions,
    *,
    seed: int,
    batch_size: int,
    num_samples: int | None = None,
) -> list[list[str]]:
    """
    Completions of a policy for chat prompts, up to and including the stop string.

    Args:
        model:
            Causal language model.
        tokenizer:
            Its tokenizer.
        conversations (`Sequence[Sequence[dict[str, str]]]`):
            Chat messages of each prompt.
        sampling ([`SamplingOptions`]):
            Sampling parameters, template arguments and stop strings.
        seed (`int`):
            Seed of the sampling; the global random state is restored afterwards.
        batch_size (`int`):
            Number of prompts generated at once.
        num_samples (`int`, *optional*):
            Completions per prompt. If `None`, one, decoded greedily.

    Returns:
        `list[list[str]]`: Completions by prompt.
    """
    options: dict[str, Any] = {"do_sample": False}
    # Greedy decoding is also what temperature 0 means to everybody; `generate` itself refuses it.
    if num_samples is not None and sampling.temperature > 0:
        options = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "repetition_penalty": sampling.repetition_penalty,
            "num_return_sequences": num_samples,
        }
    options |= sampling.generation_kwargs
    copies = options.get("num_return_sequences", 1)
    completions: list[list[str]] = []
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.no_grad():
        torch.manual_seed(seed)
        for start in range(0, len(conversations), batch_size):
            inputs = tokenizer.apply_chat_template(
                list(conversations[start : start + batch_size]),
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
                padding=True,
                tokenizer_kwargs={"padding_side": "left"},
                **sampling.chat_template_kwargs,
            ).to(model.device)
            output = model.generate(
                **inputs,
                max_new_tokens=sampling.max_completion_length,
                stop_strings=list(sampling.stop_strings) or None,
                tokenizer=tokenizer,
                pad_token_id=tokenizer.pad_token_id,
                **options,
            )
            new_tokens = output[:, inputs["input_ids"].shape[1] :]
            texts = tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
            completions += [texts[index : index + copies] for index in range(0, len(texts), copies)]
            PROGRESS.count("completions", len(completions), len(conversations))
    # Every prompt has the completions it was asked for, also where greedy decoding makes them equal.
    return [texts * (num_samples or 1) if len(texts) == 1 else texts for texts in completions]
