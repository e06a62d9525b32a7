"""
Every private name of TRL and transformers that the trainer relies on.

If one of these tests fails with a new release of TRL: read how that release does what the name did, adapt the place in
`aflow_trl/trainer` that the table names, run `make test` and `make test-trl`, and only then raise the upper bound of
`trl` in `pyproject.toml`.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from trl import GRPOConfig, GRPOTrainer

from aflow_trl.trainer import WorkflowGRPOConfig, WorkflowGRPOTrainer
from trainers import build

METHODS = {
    # Overridden in workflow_grpo_trainer.py: each passes its arguments on, so their order is what matters.
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_get_train_sampler": ["self", "dataset"],
    "_get_grad_norm": ["self", "model", "grad_norm"],
    "_save_rng_state": ["self", "output_dir"],
    "_load_rng_state": ["self", "checkpoint"],
    "compute_loss": ["self", "model", "inputs", "return_outputs", "num_items_in_batch"],
    "create_model_card": ["self", "model_name", "dataset_name", "tags"],
    # Called: `sample`, `load_policy`.
    "_generate": ["self", "prompts"],
    "_load_from_checkpoint": ["self", "resume_from_checkpoint", "model"],
}
FIRST_PARAMETERS = {
    # Called by the collapse guard; overridden. Their later parameters differ between releases and are passed on.
    "_generate_single_turn": ["self", "prompt_ids", "images"],
    # 1.14 passes token ids, mask and number of logits on as `*args`.
    "_get_per_token_logps_and_entropies": ["self", "model"],
}
ATTRIBUTES = {
    "_step": "checkpoint.py: position in the cycle of generations",
    "_buffered_inputs": "checkpoint.py, collapse_guard.py: completions that are still to be trained on",
    "_metrics": "checkpoint.py, generation.py, workflow_grpo_trainer.py: values of the metrics since the last log, by mode",
    "_logs": "workflow_grpo_trainer.py: the table of completions, with columns of the reward functions in `extra`",
    "_tokenizer": "generation.py: the tokenizer, where `processing_class` may be a processor",
    "_last_loaded_step": "workflow_grpo_trainer.py (load_policy), collapse_guard.py: step whose weights vLLM holds",
    "num_generations_eval": "generation.py: completions of a prompt outside training",
    "generation_config": "generation.py: temperature of `generate`",
    "generation_kwargs": "generation.py: temperature of paged generation",
    "mask_truncated_completions": "generation.py: masking that does not know stop strings",
}
LOGGED_BY_GENERATE = [f"completions/{name}" for name in ("clipped_ratio", "mean_terminated_length")]
GENERATED = "_generate returns token ids at index 1 and completions at index 3"


@pytest.mark.parametrize("name", METHODS)
def test_private_method_has_the_parameters_that_are_passed_on(name: str) -> None:
    assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == METHODS[name]


@pytest.mark.parametrize("name", FIRST_PARAMETERS)
def test_private_method_has_the_first_parameters_that_are_used(name: str) -> None:
    expected = FIRST_PARAMETERS[name]
    assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters)[: len(expected)] == expected


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_private_attribute_exists_on_trls_own_trainer(name: str, tiny_model: Path, tmp_path: Path) -> None:
    trainer = build(GRPOTrainer, GRPOConfig, tiny_model, tmp_path)
    # TRL sets the step of the weights that vLLM holds only where vLLM is used.
    source = inspect.getsource(GRPOTrainer)
    assert hasattr(trainer, name) or f"self.{name} =" in source, ATTRIBUTES[name]


def test_generation_returns_ids_and_completions_where_they_are_read(tiny_model: Path, tmp_path: Path) -> None:
    trainer = build(WorkflowGRPOTrainer, WorkflowGRPOConfig, tiny_model, tmp_path)
    output = trainer._generate([[{"role": "user", "content": "What is 2 * 3?"}]])
    assert isinstance(output[1][0][0], int), GENERATED
    assert output[3][0][0]["role"] == "assistant", GENERATED


@pytest.mark.parametrize("name", LOGGED_BY_GENERATE)
def test_generation_logs_the_metrics_that_stop_strings_correct(name: str, tiny_model: Path, tmp_path: Path) -> None:
    trainer = build(GRPOTrainer, GRPOConfig, tiny_model, tmp_path)
    trainer._generate([[{"role": "user", "content": "What is 2 * 3?"}]])
    assert len(trainer._metrics["train" if trainer.model.training else "eval"][name]) == 1


def test_trl_has_no_hook_for_advantages_yet() -> None:
    """
    huggingface/trl#7291 asks for one. When a release has it, compute the advantages there and remove
    `_replace_advantages`; the columns of the reward functions are gathered after it in the proposal (#7298).
    """
    assert not [name for name in vars(GRPOTrainer) if "advantage" in name]
