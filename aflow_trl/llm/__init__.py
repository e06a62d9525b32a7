"""Client of the executor: a shell over `openai.AsyncOpenAI`. Imports errors only."""

from .cache import CacheStats, CallCache
from .client import SIMULATED, LLMClient, Spending, api_key
from .limiter import Priority
from .types import Completion, ExecutorConfig, Messages, Price, Usage

__all__ = [
    "SIMULATED",
    "CacheStats",
    "CallCache",
    "Completion",
    "ExecutorConfig",
    "LLMClient",
    "Messages",
    "Price",
    "Priority",
    "Spending",
    "Usage",
    "api_key",
]
