"""Recipes: schema, loading, checks, cost estimate."""

from .checks import check_recipe
from .estimate import Phase, estimate
from .loader import load_recipe
from .schema import (
    COMPOSE,
    IMPROVE,
    OFF,
    REASON,
    REWARDS,
    TASKS,
    TINY_POLICY,
    ComposeArguments,
    ImproveArguments,
    ReasonArguments,
    Recipe,
    RunArguments,
    WorkflowArguments,
    operator_executors,
)

__all__ = [
    "COMPOSE",
    "IMPROVE",
    "OFF",
    "REASON",
    "REWARDS",
    "TASKS",
    "TINY_POLICY",
    "ComposeArguments",
    "ImproveArguments",
    "Phase",
    "ReasonArguments",
    "Recipe",
    "RunArguments",
    "WorkflowArguments",
    "check_recipe",
    "estimate",
    "load_recipe",
    "operator_executors",
]
