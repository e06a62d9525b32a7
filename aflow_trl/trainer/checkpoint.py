"""What a checkpoint needs beside what transformers writes, for a run to go on exactly as if it had never ended."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

LAYOUT = (
    *("per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation", "num_iterations"),
    *("num_generations", "world_size", "seed"),
)
"""Arguments that decide which completions a step trains on."""
_CHECKPOINT = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")


def state_path(checkpoint: Path, process_index: int) -> Path:
    """Where a process keeps its part of a checkpoint."""
    return checkpoint / f"rollout_state_{process_index}.pt"


def save_state(checkpoint: Path, process_index: int, state: dict[str, Any]) -> None:
    """Write a process's part of a checkpoint: under another name, then renamed, so that it is whole or not there."""
    path = state_path(checkpoint, process_index)
    scratch = path.with_suffix(".tmp")
    torch.save(state, scratch)
    scratch.replace(path)


def load_state(checkpoint: Path, process_index: int) -> dict[str, Any] | None:
    """A process's part of a checkpoint, on the CPU; `None` if there is none. Only plain data and tensors are read."""
    path = state_path(checkpoint, process_index)
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def is_complete(checkpoint: Path) -> bool:
    """
    Whether a checkpoint was written to its end. Its last part is the trainer's state, after the parts of all
    processes; a kill in between leaves it missing or cut off. One that another trainer wrote has no such parts.
    """
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def last_checkpoint(output_dir: Path) -> Path | None:
    """
    The latest complete checkpoint of a run.

    Args:
        output_dir (`Path`):
            Output folder of the run; it need not exist.

    Returns:
        `Path`: The checkpoint with the highest step, or `None` if there is none.
    """
    found = {
        int(match.group(1)): path
        for path in (output_dir.iterdir() if output_dir.is_dir() else ())
        if (match := _CHECKPOINT.fullmatch(path.name)) and is_complete(path)
    }
    return found[max(found)] if found else None
