"""
Stand-ins for the models and data sets of the Hub that TRL's tests load, as folders of the same names.

`from_pretrained("a/b")` and `load_dataset("a/b", "config")` take a folder `a/b` of the working directory before the Hub.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)

from aflow_trl.policies.tiny import build_tokenizer

ORGANISATION = "trl-internal-testing"
MODELS: dict[str, tuple[type[PreTrainedModel], type[PretrainedConfig]]] = {
    "tiny-Qwen2ForCausalLM-2.5": (Qwen2ForCausalLM, Qwen2Config),
    "tiny-Qwen2ForSequenceClassification-2.5": (Qwen2ForSequenceClassification, Qwen2Config),
    "tiny-Qwen3ForCausalLM": (Qwen3ForCausalLM, Qwen3Config),
    "tiny-Qwen3ForSequenceClassification": (Qwen3ForSequenceClassification, Qwen3Config),
    "tiny-LlamaForCausalLM-3.2": (LlamaForCausalLM, LlamaConfig),
    "tiny-LlamaForSequenceClassification-3.2": (LlamaForSequenceClassification, LlamaConfig),
    "tiny-MistralForCausalLM-0.2": (MistralForCausalLM, MistralConfig),
}
SENTENCES = [
    "Beautiful is better than ugly.",
    "Explicit is better than implicit.",
    "Simple is better than complex.",
    "Readability counts, and errors should never pass silently.",
]
SPLITS = {"train": 17, "test": 2}


def build(folder: Path) -> None:
    """Write all stand-ins below a folder."""
    root = folder / ORGANISATION
    tokenizer = build_tokenizer(SENTENCES)
    for name, (model_class, config_class) in MODELS.items():
        torch.manual_seed(0)
        config = config_class(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            num_labels=1,
            max_position_embeddings=512,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
        model_class(config).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    _write_prompts(root / "zen")


def _write_prompts(folder: Path) -> None:
    """Prompts, plain and conversational, in two splits each."""
    configs = ["---", "configs:"]
    for name in ("standard_prompt_only", "conversational_prompt_only"):
        configs += [f"- config_name: {name}", "  data_files:"]
        for split, count in SPLITS.items():
            path = folder / name / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            texts = [SENTENCES[number % len(SENTENCES)][: 12 + number] for number in range(count)]
            conversational = name.startswith("conversational")
            prompts = [[{"role": "user", "content": text}] if conversational else text for text in texts]
            path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts), encoding="utf-8")
            configs += [f"  - split: {split}", f"    path: {name}/{split}.jsonl"]
    (folder / "README.md").write_text("\n".join([*configs, "---", ""]), encoding="utf-8")
