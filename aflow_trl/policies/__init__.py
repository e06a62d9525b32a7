"""policies"""

from .composer import Policy, find_model, is_adapter, trained_sampling, weights_digest
from .tiny import build_tiny_policy

__all__ = ["Policy", "build_tiny_policy", "find_model", "is_adapter", "trained_sampling", "weights_digest"]
