"""Client of the executor: a shell over `openai.AsyncOpenAI` with limits, retries, a disk cache and accounting."""

from .cache import CacheStats, CallCache, is_cache
from .client import LLMClient, Spending
from .config import SIMULATED, ExecutorConfig, further_executors
from .endpoints import api_key
from .limiter import Priority
from .preflight import probe
from .profile import EndpointProfile
from .types import Completion, Messages, Price, Usage

__all__ = [
    "SIMULATED",
    "CacheStats",
    "CallCache",
    "Completion",
    "EndpointProfile",
    "ExecutorConfig",
    "LLMClient",
    "Messages",
    "Price",
    "Priority",
    "Spending",
    "Usage",
    "api_key",
    "further_executors",
    "is_cache",
    "probe",
]
