"""Flags that several commands share, and the objects they describe."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..llm import SIMULATED, CallCache, ExecutorConfig, LLMClient
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


def executor_client(base_url: str, model: str, api_key_env: str, *, cache: CallCache | None = None) -> LLMClient:
    """Client of the executor that the flags of [`add_executor_flags`] describe."""
    simulated = base_url == SIMULATED
    config = ExecutorConfig(
        executor_base_url=base_url,
        executor_model=model,
        executor_api_key_env=api_key_env,
        # The simulated executor is free; the price of another endpoint is looked up or unknown.
        executor_input_usd_per_mtok=0.0 if simulated else None,
        executor_output_usd_per_mtok=0.0 if simulated else None,
    )
    return simulated_client(config, cache=cache) if simulated else LLMClient(config, cache=cache)


def reply_cache(base_url: str, folder: Path) -> CallCache | None:
    """Cache of replies in an output folder; none for the simulated executor, which is free."""
    return None if base_url == SIMULATED else CallCache(folder / "calls.sqlite")
