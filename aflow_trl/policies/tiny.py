"""
A tiny policy built on the spot: about a million parameters, its own tokenizer and chat template.

Its cold start is a short SFT on random valid workflows with some junk among them. They are drawn without regard to the
problem, so nothing hints at which workflow is good. For reasoning it is easy problems, mostly answered wrongly.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer, set_seed
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from ..data import policy_messages, policy_prompts, reasoning_messages, sum_rows, synthetic_rows
from ..dsl import Vocabulary, format_workflow, sample_workflow
from ..improvement import Attempt, Failure, Improvement, improvement_messages

VOCABULARY_SIZE = 1_024
HIDDEN_SIZE, LAYERS, HEADS = 128, 4, 4
SFT: dict[str, dict[str, float]] = {
    "compose": {"steps": 400, "batch": 24, "learning_rate": 2e-3},
    "improve": {"steps": 400, "batch": 24, "learning_rate": 2e-3},
    # To read numbers out of a problem takes longer than to write workflows that have nothing to do with it.
    "reason": {"steps": 1200, "batch": 32, "learning_rate": 1e-3},
}
"""Cold start by task."""
SFT_EXAMPLES = 8_192
JUNK_SHARE = 0.05
DATA_SEED = 1_000_003
"""Sets the problems of the cold start apart from those of a run."""
RIGHT_SHARE = 0.6
"""Of the cold start for reasoning: right answers; the others are off by a little."""
MISTAKES = (-3, -2, -1, 1, 2, 3)
UNTIDY_SHARE = 0.2
"""Of the cold start for reasoning: replies that lack a tag."""
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% if m['role'] == 'assistant' %}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL_TOKENS = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")


def build_tiny_policy(
    seed: int, *, prompt: str, vocabulary: Vocabulary, task: str = "compose", cache_dir: Path | None = None
) -> Path:
    """
    Folder of the tiny policy, built on the first call and cached.

    Args:
        seed (`int`):
            Seed of weights, data and training.
        prompt (`str`):
            Policy prompt it is trained on.
        vocabulary (`Mapping[str, OperatorSpec]`):
            Operators its random workflows use.
        task (`str`, *optional*, defaults to `"compose"`):
            What its prompts ask for: `"compose"`, `"improve"` or `"reason"`.
        cache_dir (`Path`, *optional*):
            Where policies are kept. Defaults to `$AFLOW_TRL_CACHE` or `~/.cache/aflow_trl`.

    Returns:
        `Path`: Folder for `from_pretrained`.
    """
    root = cache_dir or Path(os.environ.get("AFLOW_TRL_CACHE", Path.home() / ".cache" / "aflow_trl"))
    name = f"tiny-policy-{task}-{prompt}-seed{seed}-{_fingerprint(prompt, vocabulary)}"
    folder = root / name
    if (folder / "config.json").is_file():
        return folder
    examples = _EXAMPLES[task](seed, prompt, vocabulary)
    scratch = root / f".{name}.{os.getpid()}"
    tokenizer = build_tokenizer([json.dumps(example, ensure_ascii=False) for example in examples])
    _train(examples, tokenizer, seed, scratch, **SFT[task])
    try:
        scratch.rename(folder)
    except OSError:  # another process was faster; its result is the same
        shutil.rmtree(scratch)
    return folder


def _fingerprint(prompt: str, vocabulary: Vocabulary) -> str:
    """Digest of everything a cached policy depends on: this module, the prompt and the operators."""
    source = Path(__file__).read_text(encoding="utf-8")
    parts = [source, json.dumps(policy_prompts()[prompt]), *sorted(vocabulary)]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=4).hexdigest()


def build_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the texts: any text round-trips."""
    tokenizer = Tokenizer(models.BPE())
    # `AutoTokenizer` goes by the type of the model: with another pre-tokenizer, a loaded policy would read other
    # tokens than it was trained on.
    loaded = Qwen2Tokenizer().backend_tokenizer
    tokenizer.pre_tokenizer, tokenizer.normalizer = loaded.pre_tokenizer, loaded.normalizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=list(SPECIAL_TOKENS[2:]),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def _compose_examples(seed: int, prompt: str, vocabulary: Vocabulary) -> list[dict[str, object]]:
    rng = random.Random(seed)
    names = list(vocabulary)
    examples = []
    for row in itertools.islice(synthetic_rows(seed + DATA_SEED, "train"), SFT_EXAMPLES):
        text = _random_workflow(rng, vocabulary)
        messages = policy_messages(row, prompt=prompt, operators=names, descriptions="")
        examples.append(_example(messages, f"<workflow>{text}</workflow>"))
    return examples


def _improve_examples(seed: int, prompt: str, vocabulary: Vocabulary) -> list[dict[str, object]]:
    """Prompts with made-up scores; the reply has nothing to do with them."""
    rng = random.Random(seed)
    names = list(vocabulary)
    examples = []
    for row in itertools.islice(synthetic_rows(seed + DATA_SEED, "train"), SFT_EXAMPLES):
        current, *others = (format_workflow(sample_workflow(rng, vocabulary=vocabulary)) for _ in range(3))
        score = rng.randint(0, 8) / 8
        record = Improvement(
            row.domain,
            current,
            score,
            (Failure(row.question, str(rng.randint(0, 99)), row.answer[0] if row.answer else "what its tests want"),)
            * (score < 1),
            tuple(Attempt(other, rng.randint(0, 8) / 8 - score) for other in others),
        )
        messages = improvement_messages(record, prompt=prompt, operators=names, descriptions="")
        examples.append(_example(messages, f"<workflow>{_random_workflow(rng, vocabulary)}</workflow>"))
    return examples


def _reason_examples(seed: int, prompt: str, vocabulary: Vocabulary) -> list[dict[str, object]]:
    """Easy problems; part of the answers are wrong and part of the replies lack a tag."""
    rng = random.Random(seed)
    examples = []
    for row in itertools.islice(sum_rows(seed + DATA_SEED, "train"), SFT_EXAMPLES):
        numbers = re.findall(r"\d+", row.question)
        right = int(row.answer[0])
        answer = right if rng.random() < RIGHT_SHARE else max(1, right + rng.choice(MISTAKES))
        text = f"<think>{' + '.join(numbers)}</think><answer>{answer}</answer>"
        if rng.random() < UNTIDY_SHARE:
            text = text.replace(rng.choice(["<think>", "</think>", "<answer>"]), "")
        examples.append(_example(reasoning_messages(row, prompt=prompt), text))
    return examples


_EXAMPLES = {"compose": _compose_examples, "improve": _improve_examples, "reason": _reason_examples}


def _example(messages: list[dict[str, str]], text: str) -> dict[str, object]:
    return {"prompt": messages, "completion": [{"role": "assistant", "content": text}]}


def _random_workflow(rng: random.Random, vocabulary: Vocabulary) -> str:
    text = format_workflow(sample_workflow(rng, vocabulary=vocabulary))
    return _spoil(text, rng) if rng.random() < JUNK_SHARE else text


def _spoil(text: str, rng: random.Random) -> str:
    """Junk as a real model writes it: cut off, a bracket lost, a name made up."""
    cut = rng.randrange(1, max(2, len(text)))
    return rng.choice(
        [text[:cut], text.replace("]", "", 1) + " ->", f"{text} -> Solve", text.replace("->", "", 1) + " ("]
    )


def _train(
    examples: list[dict[str, object]],
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    folder: Path,
    *,
    steps: float,
    batch: float,
    learning_rate: float,
) -> None:
    set_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=3 * HIDDEN_SIZE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = Qwen2ForCausalLM(config).to(torch.float32)
    args = SFTConfig(
        output_dir=str(folder),
        max_steps=int(steps),
        per_device_train_batch_size=int(batch),
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=20,
        completion_only_loss=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        train_sampling_strategy="group_by_length",
        seed=seed,
        dataloader_pin_memory=False,
    )
    dataset = Dataset.from_list(examples)
    trainer = SFTTrainer(model=model, args=args, train_dataset=dataset, processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_model(str(folder))
    tokenizer.save_pretrained(str(folder))
