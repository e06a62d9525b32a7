"""The endpoints an executor is reached at, and their API keys."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import NamedTuple

from ..errors import RecipeError
from .config import ExecutorConfig

SIMULATED = "simulated"
"""Value of `executor_base_url` that selects the simulated executor."""
# Requests to it are answered in this process; the SDK merely insists on a well-formed URL.
_SIMULATED_URL = "http://simulated/v1"


class Endpoint(NamedTuple):
    """Base URL (`None` for the default of the `openai` package) and API key."""

    base_url: str | None
    api_key: str


def endpoints(config: ExecutorConfig) -> list[Endpoint]:
    """
    Endpoints of the pool, that of `executor_base_url` first.

    Raises:
        [`RecipeError`]: The API key of a real endpoint is not in the environment.
    """
    pool = [config]
    for entry in config.executor_pool or []:
        base_url, _, key_variable = entry.strip().partition(" ")
        key_variable = key_variable.strip() or config.executor_api_key_env
        pool.append(replace(config, executor_base_url=base_url, executor_api_key_env=key_variable, executor_pool=None))
    return [Endpoint(_base_url(member), api_key(member)) for member in pool]


def api_key(config: ExecutorConfig) -> str:
    """
    API key of the endpoint; a placeholder for the simulated executor.

    Raises:
        [`RecipeError`]: The environment variable of a real endpoint is empty.
    """
    if config.executor_base_url == SIMULATED:
        return "simulated"
    key = os.environ.get(config.executor_api_key_env, "")
    if not key:
        raise RecipeError(
            f"the environment variable {config.executor_api_key_env} is empty, but the endpoint "
            f"{config.executor_base_url or 'of OpenAI'} needs an API key. Export it, name another variable with "
            "executor_api_key_env, or set executor_base_url: simulated."
        )
    return key


def _base_url(config: ExecutorConfig) -> str | None:
    return _SIMULATED_URL if config.executor_base_url == SIMULATED else config.executor_base_url
