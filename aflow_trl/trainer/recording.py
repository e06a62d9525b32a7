"""Files from which a training can be replayed: rewards and advantages of every step, and the settings behind them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..rollouts import REWARDS_FILE, Rollouts, run_files
from ..storage import TraceFile, set_aside, trace_parts, write_json
from .advantages import AdvantageConfig

if TYPE_CHECKING:
    from .workflow_grpo_trainer import WorkflowGRPOTrainer

REPLAY_SETTINGS_FILE = "replay_settings.json"


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """Everything that decides rewards and advantages of recorded rollouts."""

    reward_funcs: list[str]
    reward_weights: list[float]
    advantage_estimator: str
    advantage: AdvantageConfig
    gate_secondary: bool = True
    quantize_correctness: bool = False
    operators: list[str] | None = None
    """Operators that a workflow may name; `None` for all."""
    operator_modules: list[str] = field(default_factory=list)
    """Modules that define operators of the user."""
    models: list[str] = field(default_factory=list)
    """Models that a workflow may name."""
    cost_targets: tuple[str, dict[str, float]] | None = None
    """Cost of a rollout that is held at a target (`model_calls` or `usd`), and the target of each budget."""

    def write(self, output_dir: Path) -> None:
        """Write the settings into the output folder of a run."""
        write_json(output_dir / REPLAY_SETTINGS_FILE, asdict(self))

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ReplaySettings:
        """The settings that [`ReplaySettings.write`] wrote."""
        return cls(**fields | {"advantage": AdvantageConfig(**fields["advantage"])})


def replay_settings(trainer: WorkflowGRPOTrainer, rollouts: Rollouts) -> ReplaySettings:
    """Settings from which rewards and advantages of a trainer's rollouts can be computed again."""
    operators = rollouts.engine.operators
    modules = {cls.__module__ for cls in operators.values()}
    return ReplaySettings(
        list(trainer.reward_func_names),
        trainer.reward_weights.tolist(),
        trainer.args.advantage_estimator,
        trainer.advantage_config,
        rollouts.gate_secondary,
        rollouts.quantize_correctness,
        list(operators),
        sorted(module for module in modules if not module.startswith("aflow_trl.")),
        list(operators.models),
        trainer.args.cost_targets,
    )


def begin_recording(trainer: WorkflowGRPOTrainer, rollouts: Rollouts, *, resumed: bool, names_traces: bool) -> None:
    """
    Keep an earlier run's files apart from this one's, and write the settings that a replay needs.

    Args:
        trainer ([`WorkflowGRPOTrainer`]):
            Trainer that is about to train.
        rollouts ([`~aflow_trl.rollouts.Rollouts`]):
            Its rollouts.
        resumed (`bool`):
            Whether the run continues from a checkpoint.
        names_traces (`bool`):
            Whether the trainer has named the file of the traces, and not the user.
    """
    output_dir = Path(trainer.args.output_dir)
    if trainer.accelerator.is_main_process:
        if not resumed:
            # What was recorded before the training, such as an evaluation of the untrained policy, belongs to the
            # run; and the traces are the user's business if the user has named their file.
            move_traces = names_traces and not rollouts.has_recorded
            set_aside(output_dir, run_files(output_dir) if move_traces else trace_parts(output_dir / REWARDS_FILE))
        replay_settings(trainer, rollouts).write(output_dir)
    trainer.accelerator.wait_for_everyone()


def record_step(
    output_dir: Path, step: int, rewards: Tensor, advantages: Tensor, prices: Mapping[str, float] | None = None
) -> None:
    """
    Append rewards and advantages of a training step.

    Args:
        output_dir (`Path`):
            Output folder of the run.
        step (`int`):
            Optimiser step.
        rewards (`torch.Tensor` of shape `(B*G, R)`):
            Rewards of all processes; NaN where unscored.
        advantages (`torch.Tensor` of shape `(B*G,)`):
            Advantages of all processes.
        prices (`Mapping[str, float]`, *optional*):
            Price of the target cost of each budget that the batch was charged at.
    """
    row: dict[str, Any] = {
        "step": step,
        "rewards": [[None if math.isnan(value) else value for value in values] for values in rewards.tolist()],
        "advantages": advantages.tolist(),
    }
    if prices is not None:
        row["prices"] = dict(prices)
    TraceFile(output_dir / REWARDS_FILE).append([row])


def to_tensor(rows: list[list[float | None]]) -> Tensor:
    """Recorded values as a tensor, NaN where unscored."""
    return torch.tensor([[float("nan") if value is None else value for value in row] for row in rows])
