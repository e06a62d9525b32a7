"""Every snippet of docs/executors.md against an imitation of its provider: preflight, reward, bill, wrong key and model."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from aflow_trl.engine import Engine
from aflow_trl.errors import FatalEndpointError
from aflow_trl.llm import EndpointProfile, ExecutorConfig, LLMClient
from aflow_trl.operators import preflight
from aflow_trl.recipes import load_recipe
from aflow_trl.rewards import workflow_rewards
from aflow_trl.rollouts import Rollouts
from providers import ANSWER_TOKENS, KEY, PROMPT_TOKENS, PROVIDERS, THINKING_TOKENS, serving

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "executors.md").read_text(encoding="utf-8")
SNIPPETS: dict[str, dict[str, Any]] = {
    name: yaml.safe_load(text) for name, text in re.findall(r"### ([^\n]+)\n\n```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
}
VARIABLES = {"OPENAI_API_KEY", *re.findall(r"\b[A-Z]+_(?:OPENAI_)?API_KEY\b", DOCUMENT)}
PRICES = {"executor_input_usd_per_mtok": 1.0, "executor_output_usd_per_mtok": 2.0}
# Thinking, usage, seed, structured, context.
PROFILES: dict[str, tuple[str, str, str, str, int | None]] = {
    "OpenAI": ("none", "reported", "honoured", "json_schema", None),
    "OpenAI, reasoning": ("hidden", "reported", "honoured", "json_schema", None),
    "Azure": ("none", "reported", "honoured", "json_schema", None),
    "OpenRouter": ("field", "reported", "honoured", "json_schema", 40960),
    "Gemini": ("hidden", "reasoning in the total only", "not sent", "json_schema", None),
    "Mistral": ("none", "reported", "not sent", "json_schema", 131072),
    "DeepSeek": ("field", "reported", "ignored", "tags", None),
    "DashScope": ("none", "reported", "honoured", "json_schema", None),
    "Groq": ("field", "reported", "honoured", "json_schema", 131072),
    "Together": ("none", "reported", "honoured", "json_object", 32768),
    "LiteLLM": ("none", "reported", "honoured", "json_schema", None),
    "vLLM": ("text", "reported", "honoured", "json_schema", 16384),
    "SGLang": ("none", "reported", "ignored", "json_schema", 16384),
    "llama.cpp": ("text", "reported", "honoured", "json_schema", None),
    "Ollama": ("field", "reported", "honoured", "json_schema", None),
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AFLOW_TRL_CACHE", str(tmp_path))
    monkeypatch.setattr("aflow_trl.llm.client.FIRST_BACKOFF_S", 0.02)
    for variable in VARIABLES:
        monkeypatch.setenv(variable, KEY)


def config_of(name: str, address: str) -> ExecutorConfig:
    """The snippet, with the address of the imitation in place of the provider's host."""
    snippet = SNIPPETS[name] | PRICES
    path = urlsplit(snippet.get("executor_base_url", "https://api.openai.com/v1")).path
    return ExecutorConfig(**snippet | {"executor_base_url": address + path, "executor_call_timeout_s": 5.0})


def test_every_provider_has_a_snippet_and_an_imitation() -> None:
    assert SNIPPETS.keys() == PROVIDERS.keys() == PROFILES.keys() and len(SNIPPETS) >= 14


@pytest.mark.parametrize("name", SNIPPETS)
def test_snippet_is_part_of_a_recipe(name: str, tmp_path: Path) -> None:
    quickstart = yaml.safe_load((ROOT / "recipes" / "quickstart.yaml").read_text(encoding="utf-8"))
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(quickstart | {"executor_base_url": None} | SNIPPETS[name]))
    assert load_recipe([str(path)]).executor.executor_model == PROVIDERS[name]().model


@pytest.mark.parametrize("name", SNIPPETS)
async def test_preflight_finds_what_the_table_says(name: str) -> None:
    provider = PROVIDERS[name]()
    async with serving(provider) as address:
        client = LLMClient(config_of(name, address))
        profile = await preflight(client)
        await client.aclose()
    found = (profile.thinking, profile.usage, profile.seed, profile.structured, profile.context_tokens)
    assert found == PROFILES[name] and profile.renegotiated == () and profile.malformed == ()


@pytest.mark.parametrize("name", SNIPPETS)
async def test_reward_and_bill(name: str) -> None:
    provider = PROVIDERS[name]()
    async with serving(provider) as address:
        client = LLMClient(config_of(name, address))
        rollouts = Rollouts(Engine(client))
        columns = {"question": ["6 * 7?"], "answer": [["42"]], "domain": ["math"]}
        text = ["<workflow>AnswerGenerate</workflow>"]
        assert await workflow_rewards(rollouts)[0](text, text, **columns) == [1.0]
        await client.aclose()
    thought = 0 if provider.thinking == "none" else THINKING_TOKENS
    assert client.spending.usd == pytest.approx((PROMPT_TOKENS + 2 * (ANSWER_TOKENS + thought)) / 1e6)
    assert (client.spending.requests, len(provider.payloads)) == (1, 1)


@pytest.mark.parametrize("name", SNIPPETS)
@pytest.mark.parametrize("wrong", ["key", "model"])
async def test_wrong_key_or_model_stops_the_start(name: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(PROVIDERS[name]()) as address:
        config = config_of(name, address)
        if wrong == "model":
            config = replace(config, executor_model="no-such-model")
        for variable in VARIABLES if wrong == "key" else ():
            monkeypatch.setenv(variable, "sk-wrong-key-0123456789")
        client = LLMClient(
            config if wrong == "model" else replace(config, executor_extra_headers=wrong_header(config))
        )
        with pytest.raises(FatalEndpointError) as caught:
            await preflight(client)
        await client.aclose()
    assert "HTTP 40" in str(caught.value) and client.config.executor_model in str(caught.value)
    assert client.spending.requests == 1


def wrong_header(config: ExecutorConfig) -> dict[str, str] | None:
    headers = config.executor_extra_headers
    return dict.fromkeys(headers, "sk-wrong-key") if isinstance(headers, dict) else None


RENEGOTIATED: dict[str, tuple[str, ...]] = {
    "OpenAI, reasoning": (
        "max_completion_tokens in place of max_tokens",
        "temperature is not sent",
        "top_p is not sent",
    ),
    "Gemini": ("seed is not sent",),
    "Mistral": ("seed is not sent",),
}


@pytest.mark.parametrize("name", RENEGOTIATED)
async def test_refused_parameters_are_renegotiated(name: str) -> None:
    provider = PROVIDERS[name]()
    async with serving(provider) as address:
        config = replace(config_of(name, address), executor_omit=None, executor_max_tokens_field="max_tokens")
        client = LLMClient(config)
        profile = await preflight(client)
        sent = len(provider.payloads)
        await client.complete([{"role": "user", "content": "x"}], seed=3)
        # Another process, or a later run: one tiny call, and the profile of the first.
        later = LLMClient(config)
        assert await preflight(later) == profile
        await later.complete([{"role": "user", "content": "x"}], seed=3)
        await client.aclose()
        await later.aclose()
    assert profile.renegotiated == RENEGOTIATED[name] and len(provider.payloads) == sent + 3
    assert not provider.payloads[-1].keys() & provider.refuses.keys()
    assert any("max" in field for field in provider.payloads[-1])


async def test_refusal_that_names_no_parameter_stops_the_start() -> None:
    provider = PROVIDERS["DashScope"]()
    async with serving(provider) as address:
        client = LLMClient(replace(config_of("DashScope", address), executor_extra_body=None))
        with pytest.raises(FatalEndpointError, match="enable_thinking must be set to false"):
            await preflight(client)
        await client.aclose()


async def test_limit_beyond_the_context_stops_the_start() -> None:
    async with serving(PROVIDERS["vLLM"]()) as address:
        client = LLMClient(replace(config_of("vLLM", address), executor_max_tokens=20_000))
        with pytest.raises(FatalEndpointError, match=r"executor_max_tokens is 20000.*16384 tokens"):
            await preflight(client)
        await client.aclose()


async def test_seed_of_a_model_that_thinks_itself_out_is_unknown() -> None:
    provider = PROVIDERS["OpenAI"]()
    answer = provider.text
    provider.text = lambda payload: (
        "<think>and so on" if "town" in payload["messages"][-1]["content"] else answer(payload)
    )  # type: ignore[method-assign]
    async with serving(provider) as address:
        client = LLMClient(config_of("OpenAI", address))
        assert (await preflight(client)).seed == "unknown"
        await client.aclose()


def test_the_simulated_executor_writes_no_json() -> None:
    with pytest.raises(ValueError, match="writes tags"):
        ExecutorConfig(executor_base_url="simulated", executor_structured="json_schema")


async def test_profile_decides_how_operators_ask() -> None:
    provider = PROVIDERS["Together"]()
    async with serving(provider) as address:
        client = LLMClient(config_of("Together", address))
        assert isinstance(await preflight(client), EndpointProfile)
        asked = [payload["response_format"]["type"] for payload in provider.payloads if "response_format" in payload]
        await client.aclose()
    # The two trials of a schema, then the operators.
    assert asked[:2] == ["json_schema", "json_object"] and set(asked[2:]) == {"json_object"}


async def test_changed_key_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = PROVIDERS["OpenAI"]()
    async with serving(provider) as address:
        client = LLMClient(config_of("OpenAI", address))
        await preflight(client)
        await client.aclose()
        monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-key-0123456789")
        other = LLMClient(config_of("OpenAI", address))
        assert other.fingerprint() != client.fingerprint()
        with pytest.raises(FatalEndpointError, match="Incorrect API key"):
            await preflight(other)
        await other.aclose()
