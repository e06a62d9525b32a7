"""Policies outside a trainer: finding and loading them, sampling from them, the tiny policy for tests and demos."""

from .composer import Policy, choose_budget
from .gguf import check_gguf, local_model
from .loading import (
    find_model,
    is_adapter,
    load_model,
    load_policy,
    load_tokenizer,
    model_init_kwargs,
    takes_system_role,
    weights_digest,
)
from .sampling import sample_completions
from .spec import ModelOptions, PolicySpec, SamplingOptions, read_spec, write_spec
from .tiny import build_tiny_policy

__all__ = [
    "ModelOptions",
    "Policy",
    "PolicySpec",
    "SamplingOptions",
    "build_tiny_policy",
    "check_gguf",
    "choose_budget",
    "find_model",
    "is_adapter",
    "load_model",
    "load_policy",
    "load_tokenizer",
    "local_model",
    "model_init_kwargs",
    "read_spec",
    "sample_completions",
    "takes_system_role",
    "weights_digest",
    "write_spec",
]
