"""Configuration of the executor."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any
from urllib.parse import urlsplit

from ..errors import RecipeError
from .prices import list_price
from .types import Price, Usage

OPENAI_URL = "https://api.openai.com/v1"
AUTO, JSON_SCHEMA, JSON_OBJECT, TAGS = STRUCTURED = ("auto", "json_schema", "json_object", "tags")
"""Values of `executor_structured`."""
LIMITS = frozenset(
    f"executor_{name}"
    for name in (
        *("concurrency", "rpm", "tpm", "call_timeout_s", "hedge_after_s", "max_usd"),
        *("input_usd_per_mtok", "output_usd_per_mtok", "cached_usd_per_mtok"),
    )
)
"""Fields on which no reply depends."""
SIMULATED = "simulated"
"""Value of `executor_base_url` that selects the simulated executor."""


# Every field repeats the prefix: recipes and the command line merge these fields with those of other configs.
@dataclass
class ExecutorConfig:
    """
    Configuration of the executor: the frozen model that operators call, behind any OpenAI-compatible endpoint.

    Parameters:
        executor_base_url (`str`, *optional*):
            Base URL of the endpoint, such as `"http://localhost:8000/v1"`. `"simulated"` runs the simulated executor
            in this process. If `None`, `OPENAI_BASE_URL` of the environment, else OpenAI's.
        executor_model (`str`, *optional*, defaults to `"gpt-4o-mini"`):
            Model name sent with every call.
        executor_api_key_env (`str`, *optional*, defaults to `"OPENAI_API_KEY"`):
            Environment variable that holds the API key. The key itself never appears in a recipe. If `None`, no
            `Authorization` header is sent, as where the key goes into a header of `executor_extra_headers`.
        executor_temperature (`float`, *optional*, defaults to `0.7`):
            Sampling temperature of the executor.
        executor_top_p (`float`, *optional*, defaults to `1.0`):
            Nucleus sampling threshold of the executor.
        executor_max_tokens (`int`, *optional*, defaults to `1024`):
            Maximum number of tokens of a reply.
        executor_max_tokens_field (`str`, *optional*, defaults to `"max_tokens"`):
            Name under which it is sent; OpenAI's reasoning models take `"max_completion_tokens"`.
        executor_reasoning_effort (`str`, *optional*):
            Value of `reasoning_effort`, such as `"low"`. If `None`, it is not sent.
        executor_omit (`list[str]`, *optional*):
            Parameters that are not sent because the model refuses them: some of `temperature`, `top_p`, `seed` and
            the field of the maximum number of tokens.
        executor_extra_body (`dict[str, Any]`, *optional*):
            Further fields of every request, such as `{"enable_thinking": false}`.
        executor_extra_headers (`dict[str, str]`, *optional*):
            Further headers of every request. A value `"$NAME"` is that of an environment variable.
        executor_query (`dict[str, str]`, *optional*):
            Query of the address, such as `{"api-version": "2024-10-21"}` of Azure's classic path.
        executor_structured (`str`, *optional*, defaults to `"auto"`):
            How operators ask for replies of several fields: `"tags"` in the text, `"json_schema"` by OpenAI's
            `response_format`, `"json_object"` with the schema beside it (llama-cpp-python), or `"auto"`: whichever of
            the two the preflight finds enforced, else tags.
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
            Price of a million prompt tokens in USD. If `None`, the list price of the endpoint's host in
            `configs/prices.yaml`, else unknown.
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
    executor_api_key_env: str | None = field(
        default="OPENAI_API_KEY", metadata={"help": "Environment variable that holds the API key."}
    )
    executor_temperature: float = field(default=0.7, metadata={"help": "Sampling temperature of the executor."})
    executor_top_p: float = field(default=1.0, metadata={"help": "Nucleus sampling threshold of the executor."})
    executor_max_tokens: int = field(default=1024, metadata={"help": "Maximum number of tokens of a reply."})
    executor_max_tokens_field: str = field(
        default="max_tokens", metadata={"help": "Name under which executor_max_tokens is sent."}
    )
    executor_reasoning_effort: str | None = field(
        default=None, metadata={"help": "Value of reasoning_effort; not sent by default."}
    )
    executor_omit: list[str] | None = field(
        default=None, metadata={"help": "Parameters not to send: temperature, top_p, seed, max_tokens."}
    )
    executor_extra_body: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Further fields of every request, as JSON."}
    )
    executor_extra_headers: dict[str, str] | str | None = field(
        default=None, metadata={"help": "Further headers of every request, as JSON; $NAME reads the environment."}
    )
    executor_query: dict[str, str] | str | None = field(
        default=None, metadata={"help": "Query of the address, as JSON, such as Azure's api-version."}
    )
    executor_structured: str = field(
        default=AUTO,
        metadata={
            "help": "How replies of several fields are asked for.",
            "choices": STRUCTURED,
        },
    )
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
        for name in ("executor_extra_body", "executor_extra_headers", "executor_query"):
            setattr(self, name, _mapping(name, getattr(self, name)))
        # Resolved once: host, price and cache key have to agree on it.
        self.executor_base_url = self.executor_base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
        address = urlsplit(self.executor_base_url)
        if self.executor_base_url != SIMULATED and (address.scheme not in ("http", "https") or not address.hostname):
            raise ValueError(
                f"executor_base_url is {self.executor_base_url!r}, which is no address. Did you mean "
                f"http://{self.executor_base_url.partition('://')[2] or self.executor_base_url}?"
            )
        if self.executor_max_usd is not None and None in (self.price.input_usd, self.price.output_usd):
            raise ValueError(
                f"executor_max_usd is {self.executor_max_usd:g}, but the price of the executor is unknown, so the "
                "budget cannot be enforced. Set executor_input_usd_per_mtok and executor_output_usd_per_mtok as well."
            )
        if "@" in address.netloc or address.query:
            # Without the address, which holds the secret.
            raise ValueError(
                f"executor_base_url, host {address.hostname}, holds a user, a password or a query. An address is "
                "shown and recorded: export the key, and name its variable with executor_api_key_env."
            )
        unknown = set(self.executor_omit or ()) - {"temperature", "top_p", "seed", self.executor_max_tokens_field}
        if unknown:
            raise ValueError(
                f"executor_omit holds {sorted(unknown)[0]!r}. Use some of temperature, top_p, seed and "
                f"{self.executor_max_tokens_field}."
            )
        if self.executor_structured not in STRUCTURED:
            raise ValueError(f"executor_structured is {self.executor_structured!r}. Use {', '.join(STRUCTURED)}.")
        if self.executor_base_url == SIMULATED and self.executor_structured in (JSON_SCHEMA, JSON_OBJECT):
            raise ValueError(
                f"executor_structured is {self.executor_structured}, but the simulated executor writes tags."
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
        listed = list_price(urlsplit(self.executor_base_url or "").hostname or "", self.executor_model)
        return Price(
            _first_set(self.executor_input_usd_per_mtok, listed.input_usd),
            _first_set(self.executor_output_usd_per_mtok, listed.output_usd),
            _first_set(self.executor_cached_usd_per_mtok, listed.cached_usd),
        )

    def cost(self, usage: Usage) -> float | None:
        """USD of a call: by the configured price, else what the endpoint says, else by the list price."""
        if usage.cost_usd is not None and self.executor_input_usd_per_mtok is None:
            return usage.cost_usd
        return self.price.cost(usage)

    def parameters(self, temperature: float, seed: int) -> dict[str, Any]:
        """Fields of a request beside model and messages."""
        fields: dict[str, Any] = {
            "temperature": temperature,
            "top_p": self.executor_top_p,
            "seed": seed,
            self.executor_max_tokens_field: self.executor_max_tokens,
        }
        if self.executor_reasoning_effort is not None:
            fields["reasoning_effort"] = self.executor_reasoning_effort
        for name in self.executor_omit or ():
            fields.pop(name, None)
        return fields | as_mapping(self.executor_extra_body)

    def response_format(self, schema: dict[str, Any]) -> dict[str, Any] | None:
        """Field that asks for JSON of a schema; `None` if replies are to hold tags."""
        if self.executor_structured == JSON_SCHEMA:
            return {"type": JSON_SCHEMA, "json_schema": {"name": "reply", "strict": True, "schema": schema}}
        if self.executor_structured == JSON_OBJECT:
            return {"type": JSON_OBJECT, "schema": schema}
        return None


def as_mapping(value: dict[str, Any] | str | None) -> dict[str, Any]:
    """Value of a field that holds a mapping, once the configuration has been checked."""
    return value if isinstance(value, dict) else {}


def _mapping(name: str, value: object) -> object:
    """A mapping that a flag gives as JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(f"{name} is {value!r}, which is not JSON. Give a mapping of names to values.") from None
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r}. Give a mapping of names to values.")
    return value


def _first_set(configured: float | None, listed: float | None) -> float | None:
    # Not `or`: a configured price of 0 is a price.
    return listed if configured is None else configured


def further_executors(models: Mapping[str, Any], executor: ExecutorConfig) -> dict[str, ExecutorConfig]:
    """
    Further executors: of operators that have a separate one, and those that workflows call by name.

    Args:
        models (`dict[str, Any]`):
            By operator, or by a name of the user's, the fields that differ from the main executor.
        executor ([`~aflow_trl.llm.ExecutorConfig`]):
            Main executor.

    Raises:
        [`RecipeError`]: A field is unknown, or a value is wrong.
    """
    names = {item.name for item in fields(ExecutorConfig)}
    configs = {}
    for name, changes in models.items():
        if not isinstance(changes, dict) or (unknown := sorted(set(changes) - names)):
            wrong = repr(unknown[0]) if isinstance(changes, dict) else f"a {type(changes).__name__}"
            raise RecipeError(
                f"models, {name}: {wrong} is no field of an executor. Use some of {', '.join(sorted(names))}."
            )
        if "executor_model" in changes:
            # The price of one model says nothing about another.
            prices = ("executor_input_usd_per_mtok", "executor_output_usd_per_mtok", "executor_cached_usd_per_mtok")
            changes = dict.fromkeys(prices) | changes
        try:
            configs[name] = replace(executor, **changes)
        except ValueError as error:
            raise RecipeError(f"models, {name}: {error}") from None
    return configs
