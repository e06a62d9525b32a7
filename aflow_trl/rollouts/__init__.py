"""rollouts"""

from .ledger import Account, Ledger
from .metrics import METRIC_COLUMNS, TASKS, batch_columns, batch_metrics, entropy, workflow_metrics
from .service import Rollouts, completion_text
from .summaries import Accuracy, accuracy, valid_share, workflow_counts
from .types import ScoredRollout, read_rollout

__all__ = [
    "METRIC_COLUMNS",
    "TASKS",
    "Account",
    "Accuracy",
    "Ledger",
    "Rollouts",
    "ScoredRollout",
    "accuracy",
    "batch_columns",
    "batch_metrics",
    "completion_text",
    "entropy",
    "read_rollout",
    "valid_share",
    "workflow_counts",
    "workflow_metrics",
]
