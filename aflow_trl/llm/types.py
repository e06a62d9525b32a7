"""Data types of the executor's client."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

Messages: TypeAlias = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens one call was billed for, as its own reply says."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    """Whether the reply carried no usage and the numbers are a guess from the text's length."""

    @property
    def total(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Completion:
    """A reply that a workflow can go on with."""

    text: str
    finish_reason: str
    usage: Usage
    attempts: int = 1
    """HTTP requests made, failed ones included."""
    wall_s: float = 0.0
    cached: bool = False
    """Whether it was paid for at another time."""

    @property
    def truncated(self) -> bool:
        """Whether the text was cut at the most tokens of a reply."""
        return self.finish_reason == "length"

    @property
    def refused(self) -> bool:
        """Whether the model or a filter gave no text."""
        return not self.text.strip() or self.finish_reason == "content_filter"


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens; `None` means unknown, which is never the same as free."""

    input_usd: float | None
    output_usd: float | None

    def cost(self, usage: Usage) -> float | None:
        """USD of one call, `None` if a price is unknown."""
        if self.input_usd is None or self.output_usd is None:
            return None
        return (usage.prompt_tokens * self.input_usd + usage.completion_tokens * self.output_usd) / 1e6


@dataclass
class ExecutorConfig:
    """
    The frozen model that operators call, behind any OpenAI-compatible endpoint.

    Parameters:
        executor_base_url (`str`, *optional*):
            Base URL of the endpoint, such as `"http://localhost:8000/v1"`. `"simulated"` runs the simulated executor
            in this process. If `None`, the default of the `openai` package.
        executor_model (`str`, *optional*, defaults to `"gpt-4o-mini"`):
            Model name sent with every call.
        executor_api_key_env (`str`, *optional*, defaults to `"OPENAI_API_KEY"`):
            Environment variable that holds the key. The key itself never stands in a recipe.
        executor_temperature (`float`, *optional*, defaults to `0.7`):
            Sampling temperature of the executor.
        executor_top_p (`float`, *optional*, defaults to `1.0`):
            Nucleus sampling of the executor.
        executor_max_tokens (`int`, *optional*, defaults to `1024`):
            Most tokens of a reply.
        executor_concurrency (`int`, *optional*, defaults to `64`):
            Most calls in flight at once.
        executor_call_timeout_s (`float`, *optional*, defaults to `120.0`):
            Deadline of a call over all its retries, in seconds.
        executor_input_usd_per_mtok (`float`, *optional*):
            Price of a million prompt tokens in USD. If `None`, costs are unknown.
        executor_output_usd_per_mtok (`float`, *optional*):
            Price of a million completion tokens in USD. If `None`, costs are unknown.
        executor_max_usd (`float`, *optional*):
            USD after which no further call is sent and the run stops with a checkpoint; calls in flight still end.
            Needs both prices.
    """

    executor_base_url: str | None = field(
        default=None,
        metadata={"help": "Base URL of the OpenAI-compatible endpoint; 'simulated' runs the simulated executor."},
    )
    executor_model: str = field(default="gpt-4o-mini", metadata={"help": "Model name sent with every call."})
    executor_api_key_env: str = field(
        default="OPENAI_API_KEY", metadata={"help": "Environment variable that holds the key."}
    )
    executor_temperature: float = field(default=0.7, metadata={"help": "Sampling temperature of the executor."})
    executor_top_p: float = field(default=1.0, metadata={"help": "Nucleus sampling of the executor."})
    executor_max_tokens: int = field(default=1024, metadata={"help": "Most tokens of a reply."})
    executor_concurrency: int = field(default=64, metadata={"help": "Most calls in flight at once."})
    executor_call_timeout_s: float = field(
        default=120.0, metadata={"help": "Deadline of a call over all its retries, in seconds."}
    )
    executor_input_usd_per_mtok: float | None = field(
        default=None, metadata={"help": "USD for a million prompt tokens. Unknown if not given."}
    )
    executor_output_usd_per_mtok: float | None = field(
        default=None, metadata={"help": "USD for a million completion tokens. Unknown if not given."}
    )
    executor_max_usd: float | None = field(
        default=None, metadata={"help": "USD after which the run stops with a checkpoint. Needs both prices."}
    )

    def __post_init__(self) -> None:
        if self.executor_max_usd is not None and None in (self.price.input_usd, self.price.output_usd):
            raise ValueError(
                f"executor_max_usd is {self.executor_max_usd:g}, but the price of the executor is unknown, so it "
                "could not be kept. Give executor_input_usd_per_mtok and executor_output_usd_per_mtok as well."
            )
        for name in ("executor_max_tokens", "executor_concurrency", "executor_call_timeout_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        if self.executor_temperature < 0:
            raise ValueError(f"executor_temperature must be 0 or more, got {self.executor_temperature}.")

    @property
    def price(self) -> Price:
        """Price of the executor's tokens."""
        return Price(self.executor_input_usd_per_mtok, self.executor_output_usd_per_mtok)
