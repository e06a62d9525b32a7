"""Recipes: schema, loading, checks, cost estimate."""

from .arguments import (
    COMPOSE,
    HELD_OUT_SHARE,
    IMPROVE,
    OFF,
    REASON,
    REWARDS,
    SAMPLED,
    SAMPLED_HELD_OUT_SHARE,
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
    "HELD_OUT_SHARE",
    "IMPROVE",
    "OFF",
    "REASON",
    "REWARDS",
    "SAMPLED",
    "SAMPLED_HELD_OUT_SHARE",
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
