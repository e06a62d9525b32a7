"""Recipes: schema, loading, checks, cost estimate."""

from .arguments import (
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
    RunArguments,
    WorkflowArguments,
)
from .checks import check_recipe
from .estimate import Phase, estimate
from .loader import load_recipe
from .memory import Memory, estimate_memory
from .recipe import ADDRESS, Recipe, operator_executors

__all__ = [
    "ADDRESS",
    "COMPOSE",
    "IMPROVE",
    "OFF",
    "REASON",
    "REWARDS",
    "TASKS",
    "TINY_POLICY",
    "ComposeArguments",
    "ImproveArguments",
    "Memory",
    "Phase",
    "ReasonArguments",
    "Recipe",
    "RunArguments",
    "WorkflowArguments",
    "check_recipe",
    "estimate",
    "estimate_memory",
    "load_recipe",
    "operator_executors",
]
