"""Client of the executor: a shell over `openai.AsyncOpenAI`. Imports errors only."""

from .client import SIMULATED, LLMClient, api_key
from .types import Completion, ExecutorConfig, Messages, Price, Usage

__all__ = ["SIMULATED", "Completion", "ExecutorConfig", "LLMClient", "Messages", "Price", "Usage", "api_key"]
