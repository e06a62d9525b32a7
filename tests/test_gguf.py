"""GGUF files as policies, without a hub: converted once, trained, loaded back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from aflow_trl.errors import RecipeError
from aflow_trl.policies import ModelOptions, load_policy, local_model
from aflow_trl.recipes import load_recipe
from aflow_trl.train import main as train
from command_line import aflow

ROOT = Path(__file__).parent.parent
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(folder: Path, target: Path) -> None:
    """Write a folder of a Qwen2 model as a GGUF file, as llama.cpp's converter does."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config, tokenizer = model.config, AutoTokenizer.from_pretrained(folder)
    writer = gguf.GGUFWriter(target, "qwen2")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = set(tokenizer.all_special_ids)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if index in special else 1 for index in range(len(tokens))])
    merges = bpe["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    for name, tensor in model.state_dict().items():
        stem, kind = name.rsplit(".", 1)
        layer = stem.split(".")[2] if stem.startswith("model.layers.") else None
        short = NAMES[stem if layer is None else stem.split(".", 3)[3]]
        writer.add_tensor(f"{'' if layer is None else f'blk.{layer}.'}{short}.{kind}", tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def gguf_file(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(tiny_model, path)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFLOW_TRL_CACHE", str(tmp_path / "cache"))


def test_the_weights_are_those_of_the_file(gguf_file: Path, tiny_model: Path) -> None:
    model, tokenizer = load_policy(str(gguf_file), ModelOptions(dtype="float32"))
    original, _ = load_policy(str(tiny_model), ModelOptions(dtype="float32"))
    states = [dict(item.state_dict()) for item in (model, original)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert tokenizer.chat_template and tokenizer.pad_token


def test_a_file_is_converted_once(gguf_file: Path) -> None:
    folder = Path(local_model(str(gguf_file)))
    written = (folder / "config.json").stat().st_mtime_ns
    assert local_model(str(gguf_file)) == str(folder) and (folder / "config.json").stat().st_mtime_ns == written


def test_processes_may_convert_at_the_same_time(gguf_file: Path) -> None:
    code = f"from aflow_trl.policies import local_model; print(local_model({str(gguf_file)!r}))"
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0] and len(folders) == 1
    (folder,) = map(Path, folders)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_other_names_are_left_alone() -> None:
    assert local_model("Qwen/Qwen2.5-0.5B-Instruct") == "Qwen/Qwen2.5-0.5B-Instruct"


def test_a_missing_file_is_refused_with_the_recipe(tmp_path: Path) -> None:
    flags = ["--model_name_or_path", "none.gguf", "--output_dir", str(tmp_path / "run")]
    with pytest.raises(RecipeError, match=r"'none.gguf' does not exist"):
        load_recipe(["quickstart.yaml", *flags])


def test_a_file_that_is_no_gguf_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUFnot really")
    with pytest.raises(RecipeError, match="cannot be converted"):
        local_model(str(tmp_path / "broken.gguf"))


@pytest.mark.slow
def test_a_policy_from_a_file_is_trained_and_answers(gguf_file: Path, tmp_path: Path) -> None:
    recipe: dict[str, Any] = yaml.safe_load((ROOT / "recipes" / "quickstart.yaml").read_text(encoding="utf-8"))
    recipe |= {"model_name_or_path": str(gguf_file), "output_dir": str(tmp_path / "run"), "policy_prompt": "fewshot"}
    recipe |= {"max_steps": 1, "num_train_problems": 16, "num_eval_problems": 3, "baseline_workflows": []}
    recipe |= {"per_device_train_batch_size": 8, "max_completion_length": 8}
    recipe |= {"warm_start": {"max_calls": 600, "winners": 1, "sft_steps": 2, "sft_batch_size": 2}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    result = aflow(str(tmp_path / "recipe.yaml"), command=train)
    assert result.returncode == 0, result.stderr[-3000:]
    question = "Ana has 20 apples. Ana gets 5 more. How many apples does Ana have now?"
    answered = aflow("run", question, "--model", str(tmp_path / "run"))
    assert answered.returncode in (0, 1) and "workflow" in answered.stdout, answered.stderr
