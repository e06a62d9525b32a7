"""Generation: no dropout, stop strings as ends, the temperature schedule, sampling outside training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import AutoTokenizer
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import utils as trl_utils

from aflow_trl.engine import Engine
from aflow_trl.rewards import workflow_rewards
from aflow_trl.rollouts import Rollouts
from aflow_trl.trainer import WorkflowGRPOConfig, WorkflowGRPOTrainer
from aflow_trl.trainer.generation import _temperature_cell
from aflow_trl.trainer.workflow_grpo_config import complete_config
from trainers import PROMPTS, build, options, simulated, workflow_trainer

CONVERSATIONS = [[{"role": "user", "content": text}] for text in PROMPTS]
SCHEDULE = {"temperature_initial": 2.0, "temperature_final": 0.5, "temperature_warmup_steps": 2}


def build_stopping(model: Path, output_dir: Path, **overrides: Any) -> Any:
    """A trainer whose completions end with an o, or after 24 tokens."""
    overrides = {"max_completion_length": 24, "stop_strings": ["o"], "max_steps": 1} | overrides
    return build(WorkflowGRPOTrainer, WorkflowGRPOConfig, model, output_dir, **overrides)


def temperatures_of(trainer: Any) -> list[float]:
    """Temperatures of the generations that follow; filled as they are made."""
    temperatures: list[float] = []
    generate = trainer.model.generate

    def spy(*args: Any, **kwargs: Any) -> Any:
        temperatures.append(kwargs["generation_config"].temperature)
        return generate(*args, **kwargs)

    trainer.model.generate = spy
    return temperatures


def test_generation_is_the_same_before_and_after_a_step_without_learning(tiny_model: Path, tmp_path: Path) -> None:
    """Generating in train mode with checkpointing drops the KV cache and writes garbage; here it must not."""
    trainer = build(
        WorkflowGRPOTrainer,
        WorkflowGRPOConfig,
        tiny_model,
        tmp_path,
        learning_rate=0.0,
        gradient_checkpointing=True,
        max_steps=2,
        generation_kwargs={"do_sample": False, "temperature": 1.0},
        shuffle_dataset=False,
    )
    prompts = [[{"role": "user", "content": PROMPTS[0]}]] * 4
    texts = []
    modes = []
    original = trainer.model.generate

    def spy(*args: Any, **kwargs: Any) -> Any:
        modes.append((trainer.model.training, trainer.model.is_gradient_checkpointing))
        return original(*args, **kwargs)

    trainer.model.generate = spy
    trainer.model.train()
    texts.append(trainer._generate(prompts)[3])
    trainer.train()
    trainer.model.train()
    texts.append(trainer._generate(prompts)[3])
    assert texts[0] == texts[1]
    assert modes and not any(training or checkpointing for training, checkpointing in modes)


def test_stop_string_ends_the_completion_and_nothing_is_trained_after_it(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    trainer = build(
        WorkflowGRPOTrainer, WorkflowGRPOConfig, tiny_model, tmp_path, max_completion_length=24, stop_strings=["o"]
    )
    ids = trainer._generate([[{"role": "user", "content": text}] for text in PROMPTS])[1]
    stopped = [completion for completion in ids if "o" in tokenizer.decode(completion)]
    assert stopped, "some completion has to meet the stop string for this test to say anything"
    for completion in stopped:
        assert "o" in tokenizer.decode(completion[-1:]), "its last token holds the stop string"
        assert "o" not in tokenizer.decode(completion[:-1]), "no token before it does"


def test_temperature_schedule_reaches_generation_and_loss(tiny_model: Path, tmp_path: Path) -> None:
    trainer = build(
        WorkflowGRPOTrainer,
        WorkflowGRPOConfig,
        tiny_model,
        tmp_path,
        beta=0.1,
        **SCHEDULE,
    )
    generated = temperatures_of(trainer)
    trainer.train()
    assert generated == [2.0, 1.25, 0.5]
    ids = torch.tensor([[5, 6, 7, 8]])
    mask = torch.ones_like(ids)
    result = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, 3)
    logits = trainer.model(input_ids=ids).logits[:, :-1] / 0.5
    expected = logits.log_softmax(-1).gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(result[0], expected, atol=1e-4, rtol=1e-4)


def test_vllm_gets_the_stop_string_and_keeps_it_in_the_text(tmp_path: Path) -> None:
    config = complete_config(
        "model",
        workflow_rewards(Rollouts(Engine(simulated()))),
        WorkflowGRPOConfig(**options(tmp_path, use_vllm=True)),
    )
    assert config.generation_kwargs == {"stop": ["</workflow>"], "include_stop_str_in_output": True}


def test_end_by_a_stop_string_is_logged_as_an_end(tiny_model: Path, tmp_path: Path) -> None:
    trainer = build_stopping(tiny_model, tmp_path)
    seen: list[list[int]] = []
    generate = trainer._generate

    def spy(prompts: Any) -> Any:
        output = generate(prompts)
        seen.extend(output[1])
        return output

    trainer._generate = spy
    trainer.train()
    ended = [ids for ids in seen if "o" in trainer._tokenizer.decode(ids)]
    assert 0 < len(ended) < len(seen), "some completions have to end and some to be cut for this test to say anything"
    logged = next(entry for entry in trainer.state.log_history if "completions/clipped_ratio" in entry)
    assert logged["completions/clipped_ratio"] == pytest.approx(1 - len(ended) / len(seen))
    lengths = [len(ids) for ids in ended]
    assert logged["completions/mean_terminated_length"] == pytest.approx(sum(lengths) / len(lengths))
    assert logged["completions/max_terminated_length"] == max(lengths)


def test_masking_of_truncated_completions_spares_what_a_stop_string_ended(tiny_model: Path, tmp_path: Path) -> None:
    trainer = build_stopping(tiny_model, tmp_path, mask_truncated_completions=True)
    trainer.model.train()
    rows = [{"prompt": conversation} for conversation in CONVERSATIONS[:2] for _ in range(4)]
    output = trainer._generate_and_score_completions(rows)
    lengths = output["completion_mask"].sum(dim=1).tolist()
    eos = [trainer._tokenizer.eos_token_id, trainer._tokenizer.pad_token_id]
    for ids, length in zip(output["completion_ids"].tolist(), lengths, strict=True):
        ended = "o" in trainer._tokenizer.decode(ids) or bool(set(ids) & set(eos))
        assert (length > 0) == ended
    assert 0 in lengths and any(lengths)
    assert int(output["num_items_in_batch"]) == sum(lengths)


def test_masking_without_any_stop_is_trls(tiny_model: Path, tmp_path: Path) -> None:
    trainer = build_stopping(tiny_model, tmp_path, mask_truncated_completions=True, stop_strings=[])
    assert trainer.mask_truncated_completions


def test_continuous_batching_is_cut_at_the_stop_string(tiny_model: Path, tmp_path: Path) -> None:
    trainer = build_stopping(tiny_model, tmp_path)
    tokenizer = trainer._tokenizer
    # The ids that continuous batching returns: it does not know stop strings.
    ids = tokenizer("ab" + "o" + "cd", add_special_tokens=False)["input_ids"]
    cut = trainer._cut_at_stop(ids)
    assert "o" in tokenizer.decode(cut) and "o" not in tokenizer.decode(cut[:-1])
    untouched = tokenizer("abcd", add_special_tokens=False)["input_ids"]
    assert trainer._cut_at_stop(untouched) == untouched


# -- temperature -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, LoraConfig(r=4, target_modules=["q_proj"])], ids=["model", "adapter"])
def test_schedule_reaches_the_reference_model(lora: LoraConfig | None, tiny_model: Path, tmp_path: Path) -> None:
    trainer = build(
        WorkflowGRPOTrainer,
        WorkflowGRPOConfig,
        tiny_model,
        tmp_path,
        learning_rate=0.0,
        beta=0.1,
        peft_config=lora,
        **SCHEDULE,
    )
    trainer.train()
    divergences = [entry["kl"] for entry in trainer.state.log_history if "kl" in entry]
    # A policy that does not move stays where the reference model is.
    assert divergences == pytest.approx([0.0] * 3, abs=1e-6)


def test_schedule_is_no_divergence_for_the_collapse_guard(tiny_model: Path, tmp_path: Path) -> None:
    trainer = workflow_trainer(simulated(), tiny_model, tmp_path, learning_rate=0.0, **SCHEDULE)
    trainer.train()
    divergences = [entry["watch/kl"] for entry in trainer.state.log_history if "watch/kl" in entry]
    assert divergences == pytest.approx([0.0] * 3, abs=1e-6)


def test_policy_is_sampled_at_the_final_temperature_whenever_it_is_compared(tiny_model: Path, tmp_path: Path) -> None:
    trainer = build(WorkflowGRPOTrainer, WorkflowGRPOConfig, tiny_model, tmp_path, **SCHEDULE)
    trainer.set_temperature(2.0)
    temperatures = temperatures_of(trainer)
    trainer.sample(CONVERSATIONS, seed=0)
    trainer.evaluate(trainer.train_dataset.select(range(4)))
    assert set(temperatures) == {0.5} and trainer.temperature == 2.0


@pytest.mark.skipif(not hasattr(trl_utils, "add_fused_lm_head"), reason="this TRL has no fused LM head")
def test_temperature_that_cannot_be_reached_is_reported_at_start(tiny_model: Path, tmp_path: Path) -> None:
    trainer = build(WorkflowGRPOTrainer, WorkflowGRPOConfig, tiny_model, tmp_path)
    forward = trainer.model.forward
    trainer.model.forward = lambda *args, **kwargs: forward(*args, **kwargs)
    with pytest.raises(RuntimeError, match="temperature_initial"):
        _temperature_cell(trainer.model)


# -- vLLM server -----------------------------------------------------------------------------------------------------


class EchoServer:
    """Stands in for the client of TRL's vLLM server: every completion is the prompt itself."""

    def generate(self, prompts: list[list[int]], n: int, **_: Any) -> dict[str, Any]:
        completions = [ids for ids in prompts for _ in range(n)]
        return {
            "prompt_ids": prompts,
            "completion_ids": completions,
            "logprobs": [[[0.0] for _ in ids] for ids in completions],
        }


def test_sample_from_a_server_gives_each_prompt_its_completion(tiny_model: Path, tmp_path: Path) -> None:
    trainer = build(WorkflowGRPOTrainer, WorkflowGRPOConfig, tiny_model, tmp_path)
    # TRL's code between trainer and client, as it is in server mode.
    generation = object.__new__(VLLMGeneration)
    vars(generation).update(
        accelerator=trainer.accelerator,
        mode="server",
        vllm_client=EchoServer(),
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        min_p=None,
        repetition_penalty=1.0,
        max_completion_length=8,
        logprobs=0,
        structured_outputs_regex=None,
        generation_kwargs={},
    )
    trainer.use_vllm, trainer.vllm_generation = True, generation
    trainer._last_loaded_step = trainer.state.global_step
    texts = trainer.sample(CONVERSATIONS, seed=0)
    assert [prompt in text for prompt, text in zip(PROMPTS, texts, strict=True)] == [True] * len(PROMPTS)
