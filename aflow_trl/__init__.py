"""Train a language model to compose agentic workflows: a TRL extension with WA-GRPO."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .trainer import WorkflowGRPOConfig, WorkflowGRPOTrainer

__version__ = "0.1.0"
__all__ = ["WorkflowGRPOConfig", "WorkflowGRPOTrainer", "__version__"]


def __getattr__(name: str) -> Any:
    # TRL takes seconds to import; the language, the engine and the CLI do not need it.
    if name in ("WorkflowGRPOConfig", "WorkflowGRPOTrainer"):
        from . import trainer

        return getattr(trainer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
