"""
Stand-ins for the models and data sets of the Hub that TRL's tests load, as folders of the same names.

`from_pretrained("a/b")` and `load_dataset("a/b", "config")` take a folder `a/b` of the working directory before the Hub.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Cohere2Config,
    Cohere2ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

ORGANISATION = "trl-internal-testing"
MODELS: dict[str, tuple[type[PreTrainedModel], type[PretrainedConfig]]] = {
    "tiny-Cohere2ForCausalLM": (Cohere2ForCausalLM, Cohere2Config),
    "tiny-Gemma2ForCausalLM": (Gemma2ForCausalLM, Gemma2Config),
    "tiny-LlamaForCausalLM-3.2": (LlamaForCausalLM, LlamaConfig),
    "tiny-LlamaForSequenceClassification-3.2": (LlamaForSequenceClassification, LlamaConfig),
    "tiny-MistralForCausalLM-0.2": (MistralForCausalLM, MistralConfig),
    "tiny-Qwen2ForCausalLM-2.5": (Qwen2ForCausalLM, Qwen2Config),
    "tiny-Qwen2ForSequenceClassification-2.5": (Qwen2ForSequenceClassification, Qwen2Config),
    "tiny-Qwen3ForCausalLM": (Qwen3ForCausalLM, Qwen3Config),
    "tiny-Qwen3ForSequenceClassification": (Qwen3ForSequenceClassification, Qwen3Config),
    "tiny-Qwen3MoeForCausalLM": (Qwen3MoeForCausalLM, Qwen3MoeConfig),
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
PROMPTS = (
    # A test of the order of the batches spells out the first twelve.
    "Beautiful is better than",
    "Explicit is",
    "Simple is better",
    "Complex",
    "Flat is better than",
    "Sparse is better",
    "Readability",
    "Special cases aren't special",
    "Although practicality beats",
    "Errors should never",
    "Unless explicitly",
    "In the face of ambiguity, refuse",
    "There should be one-- and preferably",
    "Although that way may not be",
    "Now is better",
    "If the implementation is hard",
    "Namespaces are one",
)
SPLITS = {"train": PROMPTS, "test": PROMPTS[:2]}
VOCABULARY_SIZE = 151_669
QWEN_TOKENS = {
    293: "Ġb",
    314: "Ġ{",
    330: 'Ġ"',
    397: ">Ċ",
    411: "out",
    450: "dec",
    497: '",',
    522: "</",
    606: "name",
    788: '":',
    894: "Ġany",
    927: "sh",
    944: "'t",
    1318: "text",
    1414: "Ġknow",
    1513: "Ġdon",
    2765: "Ġwon",
    4913: '{"',
    5212: 'Ġ{"',
    5392: "Ġtool",
    6023: "hi",
    6659: "call",
    7692: "async",
    9520: "step",
    11248: "}}Ċ",
    13477: "rement",
    14172: "tool",
    16252: "Ġincrement",
    16370: "arguments",
    17453: "Done",
    22785: "_tool",
    35744: "increment",
    64648: "multiply",
    93054: "_multiply",
    95642: '"}}Ċ',
}
"""Tokens of Qwen that tests write by number, as replies with tool calls; `Ġ` is a space and `Ċ` a line break."""
CONTROL_TOKENS = {151_643: "<|endoftext|>", 151_644: "<|im_start|>", 151_645: "<|im_end|>"}
TAG_TOKENS = {
    151_657: "<tool_call>",
    151_658: "</tool_call>",
    151_665: "<tool_response>",
    151_666: "</tool_response>",
    151_667: "<think>",
    151_668: "</think>",
}


def build(folder: Path) -> None:
    """Write all stand-ins below a folder."""
    root = folder / ORGANISATION
    for name, (model_class, config_class) in MODELS.items():
        tokenizer = _qwen_tokenizer("qwen3" if "Qwen3" in name else "qwen2_5")
        torch.manual_seed(0)
        config = config_class(
            vocab_size=VOCABULARY_SIZE,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            num_labels=1,
            max_position_embeddings=2048,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            **(EXPERTS if "Moe" in name else {}),
        )
        model_class(config).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    _write_prompts(root / "zen")


def _qwen_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """
    A tokenizer that decodes as Qwen's where TRL's tests rely on it, and encodes every text byte by byte.

    The chat template is the copy that TRL ships: it recognises a template by its text.
    """
    # In the order of their characters, the bytes have the numbers they have with Qwen.
    tokens = dict(enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))) | QWEN_TOKENS | CONTROL_TOKENS | TAG_TOKENS
    vocabulary = {tokens.get(number, f"<|unused_{number}|>"): number for number in range(VOCABULARY_SIZE)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend = Qwen2Tokenizer().backend_tokenizer
    tokenizer.pre_tokenizer, tokenizer.normalizer = backend.pre_tokenizer, backend.normalizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(CONTROL_TOKENS.values()))
    # Tags are no special tokens, or decoding would drop them from the replies.
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAG_TOKENS.values()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        chat_template=(files("trl") / "chat_templates" / f"{template}.jinja").read_text(encoding="utf-8"),
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def _write_prompts(folder: Path) -> None:
    """Prompts, plain and conversational, in two splits each."""
    configs = ["---", "configs:"]
    for name in ("standard_prompt_only", "conversational_prompt_only"):
        configs += [f"- config_name: {name}", "  data_files:"]
        for split, texts in SPLITS.items():
            path = folder / name / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            conversational = name.startswith("conversational")
            prompts = [[{"role": "user", "content": text}] if conversational else text for text in texts]
            path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts), encoding="utf-8")
            configs += [f"  - split: {split}", f"    path: {name}/{split}.jsonl"]
    (folder / "README.md").write_text("\n".join([*configs, "---", ""]), encoding="utf-8")
