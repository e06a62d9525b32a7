"""recipes"""

from .estimate import estimate
from .schema import TINY_POLICY, Recipe, load_recipe, operator_executors, report_and_exit

__all__ = ["TINY_POLICY", "Recipe", "estimate", "load_recipe", "operator_executors", "report_and_exit"]
