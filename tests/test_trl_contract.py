"""
A `WorkflowGRPOTrainer` is a `GRPOTrainer`: every option does what it does in TRL, has a documented meaning of its own,
or is refused.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from aflow_trl.trainer import WorkflowGRPOConfig, WorkflowGRPOTrainer
from trainers import build, options, parameters, primary_reward, secondary_reward

COMBINATIONS: list[dict[str, Any]] = [
    {},
    # Optimisation
    {"learning_rate": 0.0},
    {"weight_decay": 0.1, "adam_beta2": 0.95},
    {"max_grad_norm": 0.01},
    {"lr_scheduler_type": "cosine", "warmup_steps": 1},
    {"gradient_accumulation_steps": 2},
    {"gradient_checkpointing": True},
    {"per_device_train_batch_size": 4, "num_generations": 4},
    {"optim": "sgd"},
    {"seed": 7, "data_seed": 8},
    {"bf16": True, "use_cpu": True},
    # Generation
    {"num_generations": 2},
    {"num_generations": 8},
    {"temperature": 0.7},
    {"top_p": 0.8},
    {"top_k": 5},
    {"min_p": 0.1},
    {"repetition_penalty": 1.2},
    {"generation_kwargs": {"typical_p": 0.8}},
    {"chat_template_kwargs": {"enable_thinking": False}},
    {"max_completion_length": 3},
    {"cache_implementation": "dynamic"},
    {"shuffle_dataset": False},
    {"num_iterations": 2},
    {"num_iterations": 2, "epsilon": 0.01},
    {"num_iterations": 2, "epsilon": 0.01, "epsilon_high": 0.02},
    {"num_iterations": 2, "delta": 1.5},
    {"steps_per_generation": 2},
    {"generation_batch_size": 16},
    {"steps_per_generation": 4, "gradient_accumulation_steps": 2},
    {"pad_to_multiple_of": 8},
    {"disable_dropout": True},
    # Loss
    {"beta": 0.1},
    {"beta": 0.1, "num_iterations": 2, "use_bias_correction_kl": False},
    {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.3},
    {"loss_type": "grpo"},
    {"loss_type": "bnpo"},
    {"loss_type": "dapo"},
    {"loss_type": "dr_grpo"},
    {"loss_type": "cispo", "num_iterations": 2, "epsilon_high": 0.02},
    {"loss_type": "luspo", "importance_sampling_level": "sequence"},
    {"loss_type": "sapo", "num_iterations": 2, "sapo_temperature_neg": 1.2, "sapo_temperature_pos": 0.9},
    {"loss_type": "vespo", "num_iterations": 2, "vespo_k_pos": 1.5, "vespo_lambda_pos": 2.5},
    {"loss_type": "vespo", "num_iterations": 2, "vespo_k_neg": 2.5, "vespo_lambda_neg": 1.5},
    {"importance_sampling_level": "sequence", "num_iterations": 2},
    {"mask_truncated_completions": True},
    {"top_entropy_quantile": 0.5},
    {"entropy_coef": 0.01},
    {"use_adaptive_entropy": True, "entropy_target": 6.0, "entropy_coef_delta": 0.01},
    {"use_adaptive_entropy": True, "entropy_coef_min": 0.001, "entropy_coef_max": 0.002},
    {"num_iterations": 2, "off_policy_mask_threshold": 0.01},
    {"cast_lm_head_to_fp32": True},
    # Rewards, adapters, evaluation, logs
    {"peft_config": LoraConfig(r=4, lora_dropout=0.0, target_modules=["q_proj", "v_proj"])},
    {"peft_config": LoraConfig(r=4, lora_dropout=0.0, target_modules=["q_proj"]), "beta": 0.1},
    {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4},
    {"eval_strategy": "steps", "eval_steps": 1, "num_generations_eval": 2, "per_device_eval_batch_size": 4},
    {"log_completions": True, "num_completions_to_print": 1, "log_unique_prompts": True},
    {"remove_unused_columns": True},
    {"model_init_kwargs": None, "trust_remote_code": True},
]
TWO_REWARDS: list[dict[str, Any]] = [
    {},
    {"reward_weights": [1.0, 0.2]},
    {"reward_weights": [1.0, -0.5]},
    {"multi_objective_aggregation": "normalize_then_sum"},
]

VLLM = "needs vLLM: tests/test_vllm.py, and tests/test_generation.py for a server"
ELSEWHERE: dict[str, str] = {
    "scale_rewards": "documented: follows from the estimator, and a contradiction is refused",
    "use_vllm": VLLM,
    "router_aux_loss_coef": "needs a mixture of experts: TRL's own suite (make test-trl)",
    "ds3_gather_for_generation": "needs DeepSpeed",
    "max_tool_calling_iterations": "needs tools: TRL's own suite (make test-trl)",
    "log_multimodal": "needs images",
    "log_completions_hub_repo": "needs the Hub",
    "use_transformers_continuous_batching": "needs paged attention on a GPU",
    "transformers_continuous_batching_config": "needs paged attention on a GPU",
    "use_transformers_paged": "deprecated alias",
}
"""Fields of `GRPOConfig` that no combination sets, and where or why not."""
TIMES = ("time", "runtime", "per_second")


def run(kind: type, config: type, model: Path, output_dir: Path, **overrides: Any) -> Any:
    """A trained trainer; the evaluation, where there is one, is on the training data."""
    trainer = build(kind, config, model, output_dir, **{"max_steps": 2, "reward_funcs": [primary_reward]} | overrides)
    trainer.train()
    return trainer


def assert_same_run(ours: Any, theirs: Any) -> None:
    """Equal parameters, and an equal log: of what TRL logs, ours may lack nothing and change nothing."""
    assert torch.equal(parameters(ours), parameters(theirs))
    for entry, expected in zip(ours.state.log_history, theirs.state.log_history, strict=True):
        for name, value in expected.items():
            if not any(part in name for part in TIMES):
                assert entry[name] == value or math.isnan(value), name


def name_of(combination: dict[str, Any]) -> str:
    """Short name of a combination."""
    values = {name: "LoRA" if name == "peft_config" else value for name, value in combination.items()}
    return ", ".join(f"{name}={value}" for name, value in values.items()) or "defaults"


def supported(combination: dict[str, Any]) -> dict[str, Any]:
    """A combination, skipped where the installed TRL does not have the option."""
    names = {item.name for item in dataclasses.fields(GRPOConfig)} | {"peft_config", "reward_funcs"}
    if missing := combination.keys() - names:
        pytest.skip(f"this TRL has no {', '.join(missing)}")
    return combination


@pytest.mark.parametrize("combination", COMBINATIONS, ids=name_of)
def test_option_acts_as_in_trl(combination: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    """
    With TRL's estimator the whole run is TRL's; with WA-GRPO, everything but the advantage is.

    With one reward and the divisor of a group, the advantage of WA-GRPO is that of GRPO, so that nothing may differ.
    """
    combination = supported(combination)
    theirs = run(GRPOTrainer, GRPOConfig, tiny_model, tmp_path / "theirs", **combination)
    trl_estimator, wa_grpo = (
        run(WorkflowGRPOTrainer, WorkflowGRPOConfig, tiny_model, tmp_path / "ours", **chosen, **combination)
        for chosen in ({"advantage_estimator": "grpo"}, {"advantage_scale": "group"})
    )
    assert_same_run(trl_estimator, theirs)
    assert_same_run(wa_grpo, theirs)


@pytest.mark.parametrize("combination", TWO_REWARDS, ids=name_of)
def test_trl_estimator_aggregates_rewards_as_trl_does(
    combination: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    rewards = {"reward_funcs": [primary_reward, secondary_reward]}
    theirs = run(GRPOTrainer, GRPOConfig, tiny_model, tmp_path / "theirs", **rewards, **combination)
    ours = run(
        WorkflowGRPOTrainer,
        WorkflowGRPOConfig,
        tiny_model,
        tmp_path / "ours",
        advantage_estimator="grpo",
        **rewards,
        **combination,
    )
    assert_same_run(ours, theirs)


def test_no_option_of_trl_is_silent() -> None:
    """Every field of `GRPOConfig` is tried in a combination, or listed with where it is tried or why it is not."""
    inherited = {item.name for item in dataclasses.fields(TrainingArguments)}
    own = {item.name for item in dataclasses.fields(GRPOConfig)} - inherited
    tried = {name for combination in COMBINATIONS + TWO_REWARDS for name in combination}
    elsewhere = ELSEWHERE.keys() | {name for name in own if name.startswith("vllm_")}
    assert own - tried - elsewhere == set(), "a new option of TRL: add it to COMBINATIONS, or say why not"
    assert tried & elsewhere == set()


def test_constructor_takes_what_trls_takes_in_the_same_places() -> None:
    theirs, ours = (list(inspect.signature(kind.__init__).parameters) for kind in (GRPOTrainer, WorkflowGRPOTrainer))
    assert ours[:4] == theirs[:4]


@pytest.mark.parametrize(
    ("overrides", "option"),
    [
        ({"scale_rewards": "group", "advantage_scale": "batch"}, "scale_rewards"),
        ({"scale_rewards": False, "advantage_estimator": "grpo"}, "scale_rewards"),
        ({"loss_type": "bnpo", "advantage_estimator": "dr_grpo"}, "loss_type"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "multi_objective_aggregation"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_option_of_trl_that_contradicts_the_estimator_is_refused(
    overrides: dict[str, Any], option: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=option):
        WorkflowGRPOConfig(**options(tmp_path, **overrides))
