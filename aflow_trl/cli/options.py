"""Flags that several commands share, and the objects they describe."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from ..errors import RecipeError
from ..llm import SIMULATED, CallCache, EndpointProfile, ExecutorConfig, LLMClient
from ..operators import preflight
from ..simulator import simulated_client

# argparse has no public name for the type.
Commands = argparse._SubParsersAction
ANY_MACHINE = ("--use_cpu", "true", "--bf16", "false", "--fp16", "false")
"""Overrides with which any recipe loads on a machine that will not train it, such as one without a GPU."""


def add_executor_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that describe the executor."""
    parser.add_argument("--base-url", default=SIMULATED, help="OpenAI-compatible endpoint (default: simulated)")
    parser.add_argument("--executor", default="gpt-4o-mini", help="model behind the endpoint (default: gpt-4o-mini)")
    parser.add_argument("--api-key-env", default="OPENAI_API_KEY", help="environment variable that holds the API key")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other key of the executor, as in a recipe, such as executor_max_tokens=4096 or "
        "executor_omit='[seed]'; may be repeated",
    )
    parser.add_argument(
        "--operator-module", action="append", default=[], help="module that defines further operators; may be repeated"
    )


def add_policy_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that select a checkpoint and a prompt of a policy."""
    parser.add_argument(
        "--checkpoint", type=int, metavar="STEP", help="checkpoint of a run (default: its final model)"
    )
    parser.add_argument(
        "--policy-prompt", default=None, help="prompt of the policy (default: the one it was trained with)"
    )


def executor_config(
    options: argparse.Namespace, *, base_url: str | None = None, model: str | None = None
) -> ExecutorConfig:
    """The executor that the flags of [`add_executor_flags`] describe, or another endpoint or model."""
    base_url = base_url or options.base_url
    given: dict[str, Any] = {
        "executor_base_url": base_url,
        "executor_model": model or options.executor,
        "executor_api_key_env": options.api_key_env,
    }
    if base_url == SIMULATED:  # free; the price of another endpoint is looked up or unknown
        given |= {"executor_input_usd_per_mtok": 0.0, "executor_output_usd_per_mtok": 0.0}
    try:
        return ExecutorConfig(**given | _executor_settings(options.set))
    except (TypeError, ValueError) as error:
        raise RecipeError(str(error)) from None


def executor_client(
    options: argparse.Namespace,
    *,
    base_url: str | None = None,
    model: str | None = None,
    cache: CallCache | None = None,
) -> LLMClient:
    """
    Client of the executor of [`executor_config`], after its preflight.

    Raises:
        [`FatalEndpointError`]: The endpoint cannot be used.
    """
    config = executor_config(options, base_url=base_url, model=model)
    if config.executor_base_url == SIMULATED:
        return simulated_client(config, cache=cache)
    client = LLMClient(config, cache=cache)

    async def prepare() -> EndpointProfile:
        try:
            return await preflight(client)
        finally:
            await client.aclose()

    print(f"executor {config.executor_model} at {client.host}: {asyncio.run(prepare())}", file=sys.stderr)
    return client


def _executor_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Keys of the executor and their values, read as in a recipe."""
    names = {item.name for item in fields(ExecutorConfig)}
    settings = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in names:
            raise RecipeError(f"--set {text}: give KEY=VALUE, where the key is one of {', '.join(sorted(names))}.")
        settings[name] = yaml.safe_load(value)
    return settings


def reply_cache(base_url: str, folder: Path) -> CallCache | None:
    """Cache of replies in an output folder; none for the simulated executor, which is free."""
    return None if base_url == SIMULATED else CallCache(folder / "calls.sqlite")
