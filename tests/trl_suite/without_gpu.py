"""pytest plugin: where there is no accelerator, TRL's tests train on the CPU; their configurations do not ask for it."""

from typing import Any

import torch
from trl import GRPOConfig

if not torch.accelerator.is_available():
    original = GRPOConfig.__post_init__

    def post_init(self: Any) -> None:
        """Complete the configuration for the CPU."""
        self.use_cpu = True
        original(self)

    GRPOConfig.__post_init__ = post_init
