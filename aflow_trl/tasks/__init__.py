"""What a run can train: composing workflows, improving a given one, plain reasoning. Wiring only."""

from .compose import run_compose
from .improve import run_improve
from .reason import run_reason
from .warm_start import run_warm_start

RUN = {"compose": run_compose, "improve": run_improve, "reason": run_reason}
"""By `task` of a recipe: runs it from start to end and returns its summary."""

__all__ = ["RUN", "run_compose", "run_improve", "run_reason", "run_warm_start"]
