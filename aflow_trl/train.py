"""
Train a policy: compose workflows, improve a given one, or plain reasoning, as `task` of the recipe says.

    accelerate launch -m aflow_trl.train RECIPE [--key value ...]

In Python the module is a function: `aflow_trl.train("quickstart.yaml", max_steps=20)`.
"""

import json
import sys
from types import ModuleType
from typing import Any

from .cli.train import EXIT_STOPPED, main
from .recipes import load_recipe
from .tasks import run

__all__ = ["EXIT_STOPPED", "main", "train"]


def train(recipe: str, **overrides: Any) -> dict[str, Any] | None:
    """
    Run a recipe from start to end, in a script or a notebook.

    Args:
        recipe (`str`):
            Path of a recipe, or the name of one that ships with the package.
        **overrides:
            Keys of the recipe with other values.

    Returns:
        `dict[str, Any]`, *optional*: The summary, as written to `summary.json`; `None` if a finished run was resumed.

    Raises:
        [`AflowError`]: A user error, or a run that had to be stopped; see `errors.py`.
    """
    values = {
        name: value if isinstance(value, str) else json.dumps(value, default=str) for name, value in overrides.items()
    }
    return run(load_recipe([recipe, *(part for name, text in values.items() for part in (f"--{name}", text))]))


class _CallableModule(ModuleType):
    """The command and the function have one name."""

    def __call__(self, recipe: str, **overrides: Any) -> dict[str, Any] | None:
        return train(recipe, **overrides)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    main()
