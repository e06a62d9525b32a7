"""Configuration of the executor."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from .prices import list_price
from .types import Price

OPENAI_URL = "https://api.openai.com/v1"


# Every field repeats the prefix: recipes and the command line merge these fields with those of other configs.
@dataclass
class ExecutorConfig:
    """
    Configuration of the executor: the frozen model that operators call, behind any OpenAI-compatible endpoint.

    Parameters:
        executor_base_url (`str`, *optional*):
            Base URL of the endpoint, such as `"http://localhost:8000/v1"`. `"simulated"` runs the simulated executor
            in this process. If `None`, the default of the `openai` package.
        executor_model (`str`, *optional*, defaults to `"gpt-4o-mini"`):
            Model name sent with every call.
        executor_api_key_env (`str`, *optional*, defaults to `"OPENAI_API_KEY"`):
            Environment variable that holds the API key. The key itself never appears in a recipe.
        executor_temperature (`float`, *optional*, defaults to `0.7`):
            Sampling temperature of the executor.
        executor_top_p (`float`, *optional*, defaults to `1.0`):
            Nucleus sampling threshold of the executor.
        executor_max_tokens (`int`, *optional*, defaults to `1024`):
            Maximum number of tokens of a reply.
        executor_concurrency (`int`, *optional*, defaults to `64`):
            Maximum number of calls in flight to an endpoint.
        executor_rpm (`int`, *optional*):
            Maximum number of requests to an endpoint in any minute. If `None`, there is no limit.
        executor_tpm (`int`, *optional*):
            Maximum number of tokens of an endpoint in any minute. A call reserves its prompt and
            `executor_max_tokens`; its reply replaces the reservation by the tokens used. If `None`, there is no limit.
        executor_pool (`list[str]`, *optional*):
            Further endpoints or keys of the same model, each `"BASE_URL"` or `"BASE_URL KEY_VARIABLE"`. The limits
            above apply to each of them.
        executor_call_timeout_s (`float`, *optional*, defaults to `120.0`):
            Deadline of a call including all its retries, in seconds.
        executor_hedge_after_s (`float`, *optional*):
            Seconds after which a call without a reply is sent a second time if a slot is free; the first good reply
            wins. It pays off where a few calls take many times as long as the rest; the 95th percentile of the
            latency is a good value. If `None`, calls are never hedged.
        executor_input_usd_per_mtok (`float`, *optional*):
            Price of a million prompt tokens in USD. If `None`, the price in `configs/prices.yaml` for a model of the
            OpenAI API, else unknown.
        executor_output_usd_per_mtok (`float`, *optional*):
            Price of a million completion tokens in USD, with the same default.
        executor_cached_usd_per_mtok (`float`, *optional*):
            Price of a million prompt tokens from the endpoint's prompt cache in USD, with the same default. If
            unknown, cached prompt tokens cost as much as other prompt tokens.
        executor_max_usd (`float`, *optional*):
            Budget of the run in USD. Once it is spent, no further call is sent and the run stops with a checkpoint;
            calls in flight complete. Requires both prices. If `None`, there is no limit.

    Raises:
        `ValueError`: A value is out of range, or `executor_max_usd` is set and a price is unknown.
    """

    executor_base_url: str | None = field(
        default=None,
        metadata={"help": "Base URL of the OpenAI-compatible endpoint; 'simulated' runs the simulated executor."},
    )
    executor_model: str = field(default="gpt-4o-mini", metadata={"help": "Model name sent with every call."})
    executor_api_key_env: str = field(
        default="OPENAI_API_KEY", metadata={"help": "Environment variable that holds the API key."}
    )
    executor_temperature: float = field(default=0.7, metadata={"help": "Sampling temperature of the executor."})
    executor_top_p: float = field(default=1.0, metadata={"help": "Nucleus sampling threshold of the executor."})
    executor_max_tokens: int = field(default=1024, metadata={"help": "Maximum number of tokens of a reply."})
    executor_concurrency: int = field(
        default=64, metadata={"help": "Maximum number of calls in flight to an endpoint."}
    )
    executor_rpm: int | None = field(
        default=None, metadata={"help": "Maximum number of requests a minute to an endpoint."}
    )
    executor_tpm: int | None = field(
        default=None, metadata={"help": "Maximum number of tokens a minute of an endpoint."}
    )
    executor_pool: list[str] | None = field(
        default=None, metadata={"help": "Further endpoints of the same model: BASE_URL, or BASE_URL KEY_VARIABLE."}
    )
    executor_call_timeout_s: float = field(
        default=120.0, metadata={"help": "Deadline of a call including all its retries, in seconds."}
    )
    executor_hedge_after_s: float | None = field(
        default=None, metadata={"help": "Seconds after which a call without a reply is sent a second time."}
    )
    executor_input_usd_per_mtok: float | None = field(
        default=None, metadata={"help": "USD per million prompt tokens. Defaults to the list price, else unknown."}
    )
    executor_output_usd_per_mtok: float | None = field(
        default=None, metadata={"help": "USD per million completion tokens. Defaults to the list price, else unknown."}
    )
    executor_cached_usd_per_mtok: float | None = field(
        default=None, metadata={"help": "USD per million prompt tokens from the endpoint's prompt cache."}
    )
    executor_max_usd: float | None = field(
        default=None, metadata={"help": "USD after which the run stops with a checkpoint. Requires both prices."}
    )

    def __post_init__(self) -> None:
        if self.executor_max_usd is not None and None in (self.price.input_usd, self.price.output_usd):
            raise ValueError(
                f"executor_max_usd is {self.executor_max_usd:g}, but the price of the executor is unknown, so the "
                "budget cannot be enforced. Set executor_input_usd_per_mtok and executor_output_usd_per_mtok as well."
            )
        if "@" in (address := urlsplit(self.executor_base_url or OPENAI_URL)).netloc or address.query:
            # Without the address, which holds the secret.
            raise ValueError(
                f"executor_base_url, host {address.hostname}, holds a user, a password or a query. An address is "
                "shown and recorded: export the key, and name its variable with executor_api_key_env."
            )
        for name in ("executor_max_tokens", "executor_concurrency", "executor_call_timeout_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        for name in ("executor_rpm", "executor_tpm", "executor_hedge_after_s"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}. Omit it for no limit.")
        if self.executor_temperature < 0:
            raise ValueError(f"executor_temperature must be 0 or more, got {self.executor_temperature}.")

    @functools.cached_property
    def price(self) -> Price:
        """Price of the executor's tokens: the configured one, else the list price."""
        # Another endpoint may serve a model of the same name at a price of its choice.
        listed = list_price(self.executor_model) if self._is_openai else Price(None, None)
        return Price(
            _first_set(self.executor_input_usd_per_mtok, listed.input_usd),
            _first_set(self.executor_output_usd_per_mtok, listed.output_usd),
            _first_set(self.executor_cached_usd_per_mtok, listed.cached_usd),
        )

    @property
    def _is_openai(self) -> bool:
        return urlsplit(self.executor_base_url or OPENAI_URL).hostname == urlsplit(OPENAI_URL).hostname


def _first_set(configured: float | None, listed: float | None) -> float | None:
    # Not `or`: a configured price of 0 is a price.
    return listed if configured is None else configured
