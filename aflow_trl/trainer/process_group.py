"""The end of a training on several processes."""

from __future__ import annotations

import gc

import torch


def close_process_group() -> None:
    """
    End the process group of a training whose trainer is no longer used.

    Its threads end with the last reference to it. A trainer and its callbacks refer to each other and so keep the
    model's DDP wrapper, and with it the group, until the garbage is collected; threads that live on until the
    interpreter exits may abort a process that has done its work.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        gc.collect()
