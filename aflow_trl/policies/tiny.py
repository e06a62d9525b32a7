"""
A tiny policy that is built when it is first needed: up to a million parameters, with a tokenizer and chat template.

Its cold start is a short supervised fine-tuning on random valid workflows and some junk. They are drawn independently
of the problem, so that nothing hints at which workflow is good. For reasoning it is easy problems, many of them
answered wrongly.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from accelerate.utils import wait_for_everyone
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from ..data import Message, PolicyPrompt, Row, mixed_rows, policy_prompts, sum_rows, synthetic_rows
from ..dsl import Vocabulary, format_workflow, sample_workflow
from ..improvement import Attempt, Failure, Improvement, improvement_messages
from ..operators import DEFAULT_OPERATORS, OperatorRegistry, load_operators
from ..storage import PROGRESS, cache_root

Example: TypeAlias = dict[str, list[Message]]
"""`prompt` and `completion` of supervised fine-tuning."""
VOCABULARY_SIZE = 1_024
HIDDEN_SIZE, HEADS = 128, 4


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Size and cold start of the tiny policy for a task."""

    steps: int
    batch: int
    learning_rate: float
    layers: int = 4
    initializer_range: float = 0.02
    """Standard deviation of the weights. Logits are at most the norm of an embedding times √128: with 0.02 an adapter,
    which leaves the embeddings as they are, cannot make any choice certain."""
    learns_problems: bool = False
    """Whether the problems are part of the loss, as in the pretraining of a real model: a policy has to read them."""


COLD_STARTS = {
    "compose": ColdStart(400, 24, 2e-3, layers=2, initializer_range=0.08, learns_problems=True),
    "improve": ColdStart(400, 24, 2e-3),
    # Reading numbers out of a problem takes longer to learn than writing workflows that do not depend on it.
    "reason": ColdStart(1200, 32, 1e-3),
}
"""By task."""
SFT_EXAMPLES = 8_192
JUNK_SHARE = 0.05
BUDGETS, BUDGET_SHARE = ("low", "medium", "high"), 0.3
"""Budgets in the prompts of the cold start, and the share of those that have one."""
DATA_SEED = 1_000_003
"""Offset of the seed, so that the problems of the cold start differ from those of a run."""
RIGHT_SHARE = 0.6
"""Share of right answers in the cold start for reasoning; the others are off by a little."""
MISTAKES = (-3, -2, -1, 1, 2, 3)
UNTIDY_SHARE = 0.2
"""Share of replies that lack a tag in the cold start for reasoning."""
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% if m['role'] == 'assistant' %}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_LAUNCH_VARIABLES = (
    "RANK",
    "LOCAL_",
    "WORLD_SIZE",
    "GROUP_",
    "ROLE_",
    "MASTER_",
    "TORCHELASTIC_",
    "ACCELERATE_",
    # A launcher limits each process to one thread; while the policy is built, the others wait.
    "OMP_NUM_THREADS",
)
"""Prefixes of the environment variables that make a process part of a launch."""
SPECIAL_TOKENS = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")


def build_tiny_policy(
    seed: int,
    *,
    prompt: str,
    operators: OperatorRegistry | None = None,
    task: str = "compose",
    cache_dir: Path | None = None,
) -> Path:
    """
    Folder of the tiny policy, built on the first call and cached.

    In a distributed launch every process has to call it: one process of each machine builds, the others wait.

    Args:
        seed (`int`):
            Seed of weights, data and training.
        prompt (`str`):
            Policy prompt that it is trained on.
        operators ([`~aflow_trl.operators.OperatorRegistry`], *optional*):
            Operators of its random workflows. Defaults to all.
        task (`str`, *optional*, defaults to `"compose"`):
            What its prompts ask for: `"compose"`, `"improve"` or `"reason"`.
        cache_dir (`Path`, *optional*):
            Where policies are cached. Defaults to `$AFLOW_TRL_CACHE` or `~/.cache/aflow_trl`.

    Returns:
        `Path`: Folder for `from_pretrained`.
    """
    registry = DEFAULT_OPERATORS if operators is None else operators
    root = cache_dir or cache_root()
    folder = root / f"tiny-policy-{task}-{prompt}-seed{seed}-{_fingerprint(prompt, registry)}"
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        if not _is_complete(folder):
            _build(seed, prompt, registry, task, folder)
        return folder
    # The trainer that builds it would take part in the launch and wait for the other processes, so it runs in a
    # process outside the launch.
    if int(os.environ.get("LOCAL_RANK", "0")) == 0 and not _is_complete(folder):
        modules = sorted({cls.__module__ for cls in registry.values()})
        request = {"seed": seed, "prompt": prompt, "task": task, "folder": str(folder)}
        request |= {"operators": list(registry), "modules": modules, "models": list(registry.models)}
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCH_VARIABLES)}
        command = [sys.executable, "-m", __name__, json.dumps(request)]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    wait_for_everyone()
    return folder


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("config.json", "model.safetensors", "tokenizer.json"))


def _build(seed: int, prompt: str, operators: OperatorRegistry, task: str, folder: Path) -> None:
    """Build into a scratch folder, then publish the whole by a rename."""
    _remove_abandoned(folder)
    examples = _EXAMPLES[task](seed, PolicyPrompt(prompt, operators))
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}")
    tokenizer = build_tokenizer([json.dumps(example, ensure_ascii=False) for example in examples])
    try:
        _train(examples, tokenizer, seed, scratch, COLD_STARTS[task])
    except BaseException:  # interrupted, or out of disk
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    if folder.is_dir() and not _is_complete(folder):
        shutil.rmtree(folder)
    try:
        scratch.rename(folder)
    except OSError:  # another process was faster; its result is the same
        shutil.rmtree(scratch)


def _remove_abandoned(folder: Path) -> None:
    """Remove what builds that were killed have left."""
    for scratch in folder.parent.glob(f".{folder.name}.*"):
        process_id = scratch.name.rpartition(".")[2]
        if process_id.isdigit() and not Path(f"/proc/{process_id}").exists():
            shutil.rmtree(scratch, ignore_errors=True)


def _fingerprint(prompt: str, operators: OperatorRegistry) -> str:
    """Digest of everything that a cached policy depends on: this module, the prompt and the operators."""
    source = Path(__file__).read_text(encoding="utf-8")
    parts = [source, json.dumps(policy_prompts()[prompt]), *sorted(operators), *operators.models]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=4).hexdigest()


def build_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the texts: any text round-trips."""
    tokenizer = Tokenizer(models.BPE())
    # `AutoTokenizer` chooses the class by the model type: with another pre-tokenizer, a loaded policy would read other
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


def _problems(seed: int) -> Iterator[Row]:
    """Problems of both suites, in turn, some of them with a budget."""
    rng = random.Random(seed)
    suites = synthetic_rows(seed + DATA_SEED, "train"), mixed_rows(seed + DATA_SEED, "train")
    rows = itertools.islice(itertools.chain.from_iterable(zip(*suites, strict=False)), SFT_EXAMPLES)
    return (replace(row, budget=rng.choice(BUDGETS) if rng.random() < BUDGET_SHARE else "") for row in rows)


def _compose_examples(seed: int, prompt: PolicyPrompt) -> list[Example]:
    rng = random.Random(seed)
    vocabulary = prompt.operators.vocabulary
    examples = []
    for row in _problems(seed):
        text = _random_workflow(rng, vocabulary)
        examples.append(_example(prompt.messages(row), f"<workflow>{text}</workflow>"))
    return examples


def _improve_examples(seed: int, prompt: PolicyPrompt) -> list[Example]:
    """Prompts with made-up scores; the reply does not depend on them."""
    rng = random.Random(seed)
    vocabulary = prompt.operators.vocabulary
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
        examples.append(
            _example(improvement_messages(record, prompt), f"<workflow>{_random_workflow(rng, vocabulary)}</workflow>")
        )
    return examples


def _reason_examples(seed: int, prompt: PolicyPrompt) -> list[Example]:
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
        examples.append(_example(prompt.reasoning_messages(row), text))
    return examples


_EXAMPLES = {"compose": _compose_examples, "improve": _improve_examples, "reason": _reason_examples}


def _example(messages: list[Message], text: str) -> Example:
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
    examples: list[Example],
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    folder: Path,
    start: ColdStart,
) -> None:
    set_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=3 * HIDDEN_SIZE,
        num_hidden_layers=start.layers,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=start.initializer_range,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = Qwen2ForCausalLM(config).to(torch.float32)
    args = SFTConfig(
        output_dir=str(folder),
        max_steps=start.steps,
        per_device_train_batch_size=start.batch,
        learning_rate=start.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=20,
        completion_only_loss=not start.learns_problems,
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
    trainer = SFTTrainer(
        model=model, args=args, train_dataset=dataset, processing_class=tokenizer, callbacks=[_CountSteps()]
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_model(str(folder))
    tokenizer.save_pretrained(str(folder))


class _CountSteps(TrainerCallback):
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        PROGRESS.count("steps of the tiny policy", state.global_step, state.max_steps)


def _main(request: str) -> None:
    fields = json.loads(request)
    operators = load_operators(fields["modules"]).select(fields["operators"]).with_models(fields["models"])
    _build(fields["seed"], fields["prompt"], operators, fields["task"], Path(fields["folder"]))


if __name__ == "__main__":
    _main(sys.argv[1])
