"""An estimate of the memory that a training needs on each device."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM
from trl import get_peft_config

from ..data import PolicyPrompt
from ..policies import local_model
from .recipe import Recipe

ASSUMED_PROBLEM_TOKENS = 300
"""Problems differ: some passages are longer, most questions are shorter."""
CHARACTERS_PER_TOKEN = 4
ADAPTER_BYTES = 16
"""Weight, gradient and two moments of Adam in float32."""
GB = 1e9


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a training on one device, in GB (1e9 bytes)."""

    weights: float
    """The policy, as it is loaded for training."""
    optimizer: float
    """An adapter with gradients and moments of Adam, in float32; without one, gradients and moments like weights."""
    vllm: float
    """Share of the card that vLLM reserves, colocated."""
    sleeping: bool
    """Whether vLLM leaves its share to the training."""
    generation: float
    """KV cache of `generate`, where there is no vLLM."""
    activations: float
    """Activations (checkpointed, or not) and logits of one batch."""

    @property
    def total(self) -> float:
        """Everything that is there at once."""
        if self.sleeping:
            return self.weights + self.optimizer + max(self.vllm, self.activations)
        return self.weights + self.optimizer + self.vllm + max(self.generation, self.activations)

    def __str__(self) -> str:
        parts = ", ".join(
            f"{name} {value:.1f}" for name, value in asdict(self).items() if value >= 0.05 and name != "sleeping"
        )
        return f"about {self.total:.1f} GB ({parts})"


def estimate_memory(recipe: Recipe, device_gb: float) -> Memory:
    """
    Estimate the memory of a recipe on each device, from the configuration of its model.

    Args:
        recipe ([`~aflow_trl.recipes.Recipe`]):
            Recipe whose model is a folder or an id of the Hub.
        device_gb (`float`):
            Memory of the device, of which vLLM takes a share.

    Raises:
        `OSError`: The configuration of the model cannot be read.
    """
    training, options = recipe.training, recipe.model_options
    name = local_model(recipe.model.model_name_or_path)
    config = AutoConfig.from_pretrained(name, revision=options.revision, trust_remote_code=options.trust_remote_code)
    text: Any = config.get_text_config()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        adapter = get_peft_config(recipe.model)
        if adapter is not None:
            model = get_peft_model(model, adapter)
        trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    weight_bytes = _bytes_per_weight(recipe)
    activation_bytes = 2 if training.bf16 or training.fp16 else 4
    completion = training.max_completion_length or 0
    batch = training.per_device_train_batch_size
    tokens = batch * (_prompt_tokens(recipe) + completion)
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    cache = tokens * text.num_hidden_layers * 2 * text.num_key_value_heads * head_size * activation_bytes
    # Checkpointed, one vector a layer and the inside of a single layer; else about 20 vectors a layer.
    kept = text.num_hidden_layers + 20 if training.gradient_checkpointing else text.num_hidden_layers * 20
    logits = batch * completion * text.vocab_size * 4 * 2
    return Memory(
        weights=parameters * weight_bytes / GB,
        optimizer=trainable * (ADAPTER_BYTES if adapter is not None else 3 * weight_bytes) / GB,
        vllm=training.vllm_gpu_memory_utilization * device_gb
        if training.use_vllm and training.vllm_mode == "colocate"
        else 0.0,
        sleeping=training.vllm_enable_sleep_mode,
        generation=0.0 if training.use_vllm else cache / GB,
        activations=(tokens * text.hidden_size * kept * activation_bytes + logits) / GB,
    )


def _prompt_tokens(recipe: Recipe) -> int:
    prompt = PolicyPrompt(recipe.run.policy_prompt, recipe.operators)
    text = prompt.system + "".join(map("".join, prompt.shots))
    return ASSUMED_PROBLEM_TOKENS + len(text) // CHARACTERS_PER_TOKEN


def _bytes_per_weight(recipe: Recipe) -> float:
    if recipe.model.load_in_4bit:
        # NF4 with its scales; embeddings and norms stay in 16 bits.
        return 0.72
    if recipe.model.load_in_8bit:
        return 1.1
    return 4.0 if recipe.model.dtype == "float32" else 2.0
