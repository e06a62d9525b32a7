"""One specification of the policy: whoever asks it, asks it with the prompt and the sampling of its training."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aflow_trl.operators import DEFAULT_OPERATORS, Problem
from aflow_trl.policies import ModelOptions, Policy, PolicySpec, SamplingOptions, read_spec, write_spec
from aflow_trl.recipes import load_recipe
from aflow_trl.trainer import Probe, WorkflowGRPOConfig, WorkflowGRPOTrainer
from aflow_trl.warm_start import WarmStartSettings, fine_tune, sft
from trainers import PROMPTS, build, options

MARK = "quietly"
TEMPLATE_KWARGS = {"tone": MARK}
CONVERSATION = [{"role": "user", "content": PROMPTS[0]}]


@pytest.fixture
def marked_model(tiny_model: Path, tmp_path: Path) -> Path:
    """A model whose chat template writes an argument into the prompt."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{{ tone }} " + tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    return folder


def marked_trainer(model: Path, output_dir: Path, **overrides: Any) -> Any:
    overrides = {"chat_template_kwargs": TEMPLATE_KWARGS} | overrides
    return build(WorkflowGRPOTrainer, WorkflowGRPOConfig, model, output_dir, **overrides)


def is_marked(tokenizer: Any, ids: Any) -> bool:
    return MARK in tokenizer.decode(ids)


def test_training_and_evaluation_ask_with_the_arguments_of_the_template(marked_model: Path, tmp_path: Path) -> None:
    trainer = marked_trainer(marked_model, tmp_path)
    assert is_marked(trainer._tokenizer, trainer._generate([CONVERSATION])[0][0])


def test_the_collapse_guard_does(marked_model: Path, tmp_path: Path) -> None:
    trainer = marked_trainer(marked_model, tmp_path)
    guard = trainer.watch_collapse([{"prompt": CONVERSATION}] * 2, lambda *_, **__: None)
    guard._keep(Probe([CONVERSATION], ["Custom"], {}), 0)
    assert is_marked(trainer._tokenizer, guard._good["inputs"]["input_ids"][0])


def test_the_fine_tuning_of_a_warm_start_does(
    marked_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spy(self: Any) -> None:
        seen.extend(self.train_dataset["input_ids"])

    monkeypatch.setattr(sft.SFTTrainer, "train", spy)
    tokenizer = AutoTokenizer.from_pretrained(marked_model)
    fine_tune(
        AutoModelForCausalLM.from_pretrained(marked_model),
        tokenizer,
        [{"prompt": CONVERSATION, "completion": [{"role": "assistant", "content": "Custom"}]}],
        WarmStartSettings(),
        WorkflowGRPOConfig(**options(tmp_path / "run", chat_template_kwargs=TEMPLATE_KWARGS)),
        None,
        tmp_path / "policy",
    )
    assert len(seen) == 1 and is_marked(tokenizer, seen[0])


def test_inference_does_and_samples_as_in_training(
    marked_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = SamplingOptions(
        temperature=0.7,
        min_p=0.1,
        repetition_penalty=1.1,
        max_completion_length=3,
        stop_strings=("o",),
        chat_template_kwargs=TEMPLATE_KWARGS,
        generation_kwargs={"typical_p": 0.9},
    )
    write_spec(PolicySpec("compact", sampling=sampling), marked_model)
    policy = Policy(str(marked_model), DEFAULT_OPERATORS)
    calls: list[dict[str, Any]] = []
    generate = policy.model.generate

    def spy(**arguments: Any) -> torch.Tensor:
        calls.append(arguments)
        return generate(**arguments)

    monkeypatch.setattr(policy.model, "generate", spy)
    policy.compose([Problem("What is 2 * 3?", "math")], samples=1)
    (call,) = calls
    assert is_marked(policy.tokenizer, call["input_ids"][0])
    assert {name: call[name] for name in ("temperature", "min_p", "repetition_penalty", "typical_p")} == {
        "temperature": 0.7,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "typical_p": 0.9,
    }
    assert call["stop_strings"] == ["o"] and call["max_new_tokens"] == 3


def test_a_checkpoint_of_a_run_that_was_killed_has_its_specification(tmp_path: Path) -> None:
    spec = PolicySpec(
        "compact", ("Custom",), sampling=SamplingOptions(temperature=0.3), model=ModelOptions(dtype="bf16")
    )
    write_spec(spec, tmp_path)
    (tmp_path / "checkpoint-5").mkdir()
    assert read_spec(str(tmp_path / "checkpoint-5")) == read_spec(str(tmp_path)) == spec


def test_a_model_without_a_specification_is_asked_with_the_defaults(tmp_path: Path) -> None:
    assert read_spec(str(tmp_path)) == read_spec("someone/never-published") == PolicySpec()


def test_a_recipe_gives_the_specification_of_the_end_of_its_temperature_schedule() -> None:
    flags = ["--temperature_initial", "1.5", "--temperature_final", "0.6", "--temperature_warmup_steps", "9"]
    recipe = load_recipe(["quickstart.yaml", *flags, "--min_p", "0.05", "--generation_kwargs", '{"typical_p": 0.9}'])
    sampling = recipe.policy_spec.sampling
    assert (sampling.temperature, sampling.min_p, sampling.generation_kwargs) == (0.6, 0.05, {"typical_p": 0.9})
