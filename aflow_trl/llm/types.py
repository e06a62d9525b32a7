"""Data types of the executor's client."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import urlsplit

from ..assets import read_config

Messages: TypeAlias = list[dict[str, str]]
OPENAI_URL = "https://api.openai.com/v1"
_DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens one call was billed for, as its own reply says."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens that the endpoint had in its own cache, and bills for less."""
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
    cached_usd: float | None = None
    """Prompt tokens from the endpoint's cache; `None` means as any other."""

    def cost(self, usage: Usage) -> float | None:
        """USD of one call, `None` if a price is unknown."""
        if self.input_usd is None or self.output_usd is None:
            return None
        cached_usd = self.input_usd if self.cached_usd is None else self.cached_usd
        fresh = usage.prompt_tokens - usage.cached_tokens
        prompt = fresh * self.input_usd + usage.cached_tokens * cached_usd
        return (prompt + usage.completion_tokens * self.output_usd) / 1e6


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
            Most calls in flight at once to an endpoint.
        executor_rpm (`int`, *optional*):
            Most requests in any minute to an endpoint.
        executor_tpm (`int`, *optional*):
            Most tokens in any minute to an endpoint. A call reserves its prompt and `executor_max_tokens`, and is
            settled by its reply.
        executor_pool (`list[str]`, *optional*):
            Further endpoints or keys of the same model, each `"BASE_URL"` or `"BASE_URL KEY_VARIABLE"`. The limits
            above hold for each of them.
        executor_call_timeout_s (`float`, *optional*, defaults to `120.0`):
            Deadline of a call over all its retries, in seconds.
        executor_hedge_after_s (`float`, *optional*):
            Seconds after which a call that has no reply is sent a second time, where a place is free, and the first
            good reply is taken. Pays where a few calls take many times as long as most; about the 95 % quantile of the
            latency is a good value. If `None`, never.
        executor_input_usd_per_mtok (`float`, *optional*):
            Price of a million prompt tokens in USD. If `None`, that of `configs/prices.yaml` for a model of the OpenAI
            API, else unknown.
        executor_output_usd_per_mtok (`float`, *optional*):
            Price of a million completion tokens in USD, likewise.
        executor_cached_usd_per_mtok (`float`, *optional*):
            Price of a million prompt tokens from the endpoint's own cache in USD, likewise; if that is unknown, as any
            other prompt token.
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
    executor_rpm: int | None = field(default=None, metadata={"help": "Most requests a minute to an endpoint."})
    executor_tpm: int | None = field(default=None, metadata={"help": "Most tokens a minute to an endpoint."})
    executor_pool: list[str] | None = field(
        default=None, metadata={"help": "Further endpoints of the same model: BASE_URL, or BASE_URL KEY_VARIABLE."}
    )
    executor_call_timeout_s: float = field(
        default=120.0, metadata={"help": "Deadline of a call over all its retries, in seconds."}
    )
    executor_hedge_after_s: float | None = field(
        default=None, metadata={"help": "Seconds after which a call without a reply is sent a second time."}
    )
    executor_input_usd_per_mtok: float | None = field(
        default=None, metadata={"help": "USD for a million prompt tokens. Unknown if not given."}
    )
    executor_output_usd_per_mtok: float | None = field(
        default=None, metadata={"help": "USD for a million completion tokens. Unknown if not given."}
    )
    executor_cached_usd_per_mtok: float | None = field(
        default=None, metadata={"help": "USD for a million prompt tokens from the endpoint's cache."}
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
        for name in ("executor_rpm", "executor_tpm", "executor_hedge_after_s"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}. Leave it out for none.")
        if self.executor_temperature < 0:
            raise ValueError(f"executor_temperature must be 0 or more, got {self.executor_temperature}.")

    @functools.cached_property
    def price(self) -> Price:
        """Price of the executor's tokens: the one given, else the list price."""
        listed = list_price(self.executor_model) if self._is_openai else Price(None, None)
        return Price(
            _first(self.executor_input_usd_per_mtok, listed.input_usd),
            _first(self.executor_output_usd_per_mtok, listed.output_usd),
            _first(self.executor_cached_usd_per_mtok, listed.cached_usd),
        )

    @property
    def _is_openai(self) -> bool:
        return urlsplit(self.executor_base_url or OPENAI_URL).hostname == urlsplit(OPENAI_URL).hostname


def list_price(model: str) -> Price:
    """Price of a model of the OpenAI API by `configs/prices.yaml`; a date at the end of its name does not count."""
    prices = _list_prices()
    entry = prices.get(model) or prices.get(_DATE.sub("", model)) or {}
    return Price(entry.get("input"), entry.get("output"), entry.get("cached"))


@functools.cache
def _list_prices() -> dict[str, dict[str, float]]:
    prices: dict[str, dict[str, float]] = read_config("prices.yaml")
    return prices


def _first(given: float | None, listed: float | None) -> float | None:
    return listed if given is None else given
