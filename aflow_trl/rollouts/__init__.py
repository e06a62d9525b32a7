"""Execution and scoring of completions: the service that reward functions share, batches, traces, the ledger."""

from .batch import (
    DOMAIN_COLUMN,
    PROGRESS_COLUMN,
    RolloutBatch,
    RolloutRow,
    from_columns,
    rollout_row,
    to_columns,
)
from .ledger import Account, Ledger
from .metrics import batch_metrics, entropy, execution_metrics, workflow_metrics
from .service import EVAL, PROBE, TRAIN, Rollouts, RowColumns, completion_text, in_phase
from .summaries import Accuracy, accuracy, valid_share, workflow_counts
from .traces import REWARDS_FILE, RecordedRollout, read_traces, run_files, trace_name
from .types import ScoredRollout, read_rollout

__all__ = [
    "DOMAIN_COLUMN",
    "EVAL",
    "PROBE",
    "PROGRESS_COLUMN",
    "REWARDS_FILE",
    "TRAIN",
    "Account",
    "Accuracy",
    "Ledger",
    "RecordedRollout",
    "RolloutBatch",
    "RolloutRow",
    "Rollouts",
    "RowColumns",
    "ScoredRollout",
    "accuracy",
    "batch_metrics",
    "completion_text",
    "entropy",
    "execution_metrics",
    "from_columns",
    "in_phase",
    "read_rollout",
    "read_traces",
    "rollout_row",
    "run_files",
    "to_columns",
    "trace_name",
    "valid_share",
    "workflow_counts",
    "workflow_metrics",
]
