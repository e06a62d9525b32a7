"""Refusal, before anything is paid for, of what the trainer would refuse after it."""

from __future__ import annotations

import copy
import tempfile
from typing import Any

from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM
from trl import get_peft_config
from trl.import_utils import is_vllm_available

from ..errors import RecipeError
from ..policies import load_tokenizer
from ..recipes import Recipe
from ..trainer import WorkflowGRPOTrainer
from .session import model_path

WIDTH = 8
"""Hidden size of the stand-in."""


def check_trainer(recipe: Recipe) -> None:
    """
    Build the trainer of a recipe around a stand-in of the model, and discard it.

    The configuration, the adapter and the tokenizer are those of the recipe. Called where model calls are made before
    the trainer is built, as by a warm start.

    Args:
        recipe ([`~aflow_trl.recipes.Recipe`]):
            Recipe of the run, not sharded.

    Raises:
        [`RecipeError`]: TRL, transformers or PEFT refuse something in the recipe.
    """
    if recipe.training.use_vllm and not is_vllm_available():
        raise RecipeError(
            "use_vllm is set, but vLLM is not installed. Run `pip install vllm`, or set use_vllm: false."
        )
    tokenizer = load_tokenizer(model_path(recipe), recipe.model_options)
    with tempfile.TemporaryDirectory() as folder:
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=1,
            pad_token_id=tokenizer.pad_token_id,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
        args = copy.copy(recipe.training)
        # The engine of vLLM, trackers and the Hub start with the trainer of the run alone.
        args.use_vllm = args.log_completions = args.push_to_hub = False
        args.report_to = []
        args.output_dir = folder
        adapter = get_peft_config(recipe.model)
        if adapter is not None:
            adapter.target_modules, adapter.modules_to_save = "all-linear", None
        dataset = Dataset.from_list([{"prompt": [{"role": "user", "content": ""}]}] * args.generation_batch_size)
        try:
            WorkflowGRPOTrainer(
                folder,
                [_stand_in_reward(name) for name in recipe.reward_names],
                args,
                train_dataset=dataset,
                eval_dataset=dataset,
                processing_class=tokenizer,
                peft_config=adapter,
            )
        except (ImportError, NotImplementedError, TypeError, ValueError) as error:
            raise RecipeError(f"the trainer refuses this recipe: {error}") from error


def _stand_in_reward(name: str) -> Any:
    def reward(completions: list[Any], **columns: Any) -> list[float]:
        """Never called."""
        return [0.0] * len(completions)

    reward.__name__ = name
    return reward
