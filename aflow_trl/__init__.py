"""Train a language model to compose agentic workflows: a TRL extension with WA-GRPO."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import train
    from .api import evaluate, run
    from .trainer import WorkflowGRPOConfig, WorkflowGRPOTrainer

__version__ = "0.1.0"
__all__ = ["WorkflowGRPOConfig", "WorkflowGRPOTrainer", "__version__", "evaluate", "run", "train"]
_ROOMS = {
    "WorkflowGRPOConfig": "trainer",
    "WorkflowGRPOTrainer": "trainer",
    "evaluate": "api",
    "run": "api",
}


def __getattr__(name: str) -> Any:
    # TRL takes seconds to import; the language, the engine and the CLI do not need it.
    if name == "train":
        return importlib.import_module(".train", __name__)
    if name in _ROOMS:
        return getattr(importlib.import_module(f".{_ROOMS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
