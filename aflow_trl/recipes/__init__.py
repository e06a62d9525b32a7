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
from .estimate import Phase, estimate, estimate_execution
from .loader import load_recipe
from .memory import Memory, estimate_memory
from .recipe import ADDRESS, Recipe
from .wall_time import StepTime, trainer_seconds

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
    "StepTime",
    "WorkflowArguments",
    "check_recipe",
    "estimate",
    "estimate_execution",
    "estimate_memory",
    "load_recipe",
    "trainer_seconds",
]
