"""The part of a checkpoint that transformers does not write, without which a resumed run would not be bit-equal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .lag import Flight

if TYPE_CHECKING:
    from .workflow_grpo_trainer import WorkflowGRPOTrainer

LAYOUT = (
    *("per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation", "num_iterations"),
    *("num_generations", "world_size", "seed"),
)
"""Arguments that decide which completions a step trains on: a resumed run must not change them."""
_CHECKPOINT = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")


def state_path(checkpoint: Path, process_index: int) -> Path:
    """File of the part of a checkpoint that belongs to one process."""
    return checkpoint / f"rollout_state_{process_index}.pt"


def save_state(checkpoint: Path, process_index: int, state: dict[str, Any]) -> None:
    """Write the part of one process: under another name, then renamed, so that it is whole or missing."""
    path = state_path(checkpoint, process_index)
    scratch = path.with_suffix(".tmp")
    torch.save(state, scratch)
    scratch.replace(path)


def load_state(checkpoint: Path, process_index: int) -> dict[str, Any] | None:
    """The part of one process, on the CPU; `None` if there is none. Only plain data and tensors are read."""
    path = state_path(checkpoint, process_index)
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def is_complete(checkpoint: Path) -> bool:
    """
    Whether a checkpoint is complete. The trainer's state is written last, after the parts of all processes; a kill
    before that leaves it missing or truncated. A checkpoint of another trainer has no such parts.
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
            Output folder of the run; it may not exist.

    Returns:
        `Path`: The checkpoint with the highest step, or `None` if there is none.
    """
    complete = {
        int(match.group(1)): path
        for path in (output_dir.iterdir() if output_dir.is_dir() else ())
        if (match := _CHECKPOINT.fullmatch(path.name)) and is_complete(path)
    }
    return complete[max(complete)] if complete else None


def rollout_state(trainer: WorkflowGRPOTrainer) -> dict[str, Any]:
    """State that decides the steps after a checkpoint, beside parameters, optimiser and random numbers."""
    args = trainer.args
    in_cycle = trainer._step % (args.steps_per_generation * trainer.num_iterations) != 0
    return {
        "learning_rate": args.learning_rate,
        "layout": {name: getattr(args, name) for name in LAYOUT},
        "micro_step": trainer._step,
        "buffer": trainer._buffered_inputs if in_cycle else None,
        "in_flight": {number: flight.state_dict() for number, flight in trainer.in_flight.items()},
        "temperature": trainer.temperature,
        "cost_dial": None if trainer.cost_dial is None else trainer.cost_dial.state_dict(),
        "metrics": {name: list(values) for name, values in trainer._metrics["train"].items()},
        "callbacks": {name: callback.state_dict() for name, callback in trainer.stateful_callbacks().items()},
    }


def restore_rollout_state(trainer: WorkflowGRPOTrainer, state: dict[str, Any], checkpoint: str) -> None:
    """
    Restore the state of [`rollout_state`].

    Raises:
        `ValueError`: The run has other groups, batches, seed or processes than the checkpoint.
    """
    args = trainer.args
    for name in LAYOUT:
        if state["layout"].get(name) != getattr(args, name):
            raise ValueError(
                f"{checkpoint} was trained with {name} {state['layout'].get(name)}, this run has "
                f"{getattr(args, name)}. Resume with the same value, or start a new run from the adapter in it."
            )
    trainer._step = state["micro_step"]
    trainer._buffered_inputs = _to_device(state["buffer"], trainer.accelerator.device)
    trainer.in_flight = {
        number: Flight.from_state(_to_device(flight, trainer.accelerator.device))
        for number, flight in state.get("in_flight", {}).items()
    }
    # Optimiser and schedule come from the checkpoint; a learning rate changed since then is intended.
    if args.learning_rate != state["learning_rate"]:
        if not state["learning_rate"]:
            raise ValueError(
                f"{checkpoint} was trained with learning_rate 0, which cannot be scaled to {args.learning_rate:g}. "
                "Start a new run from the adapter in it."
            )
        trainer.scale_learning_rate(args.learning_rate / state["learning_rate"])
    if args.temperature_initial is not None:
        trainer.set_temperature(state["temperature"])
    if trainer.cost_dial is not None and state.get("cost_dial"):
        trainer.cost_dial.load_state_dict(state["cost_dial"])
    metrics = trainer._metrics["train"]
    metrics.clear()
    for name, values in state["metrics"].items():
        metrics[name].extend(values)
    for name, callback in trainer.stateful_callbacks().items():
        if name in state["callbacks"]:
            callback.load_state_dict(state["callbacks"][name])


def _to_device(value: Any, device: torch.device) -> Any:
    """A buffer of completions with all its tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _to_device(item, device) for key, item in value.items()}
    return [_to_device(item, device) for item in value] if isinstance(value, list) else value
