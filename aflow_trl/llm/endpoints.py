"""The endpoints an executor is reached at, and their API keys."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import urlsplit

from ..errors import RecipeError
from .config import SIMULATED, ExecutorConfig, as_mapping

# Requests to it are answered in this process; the SDK merely insists on a well-formed URL.
_SIMULATED_URL = "http://simulated/v1"
_LOOPBACK = ("localhost", "127.0.0.1", "::1", "0.0.0.0")


class Endpoint(NamedTuple):
    """Base URL and API key."""

    base_url: str
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
        variable = key_variable.strip() or config.executor_api_key_env
        pool.append(replace(config, executor_base_url=base_url, executor_api_key_env=variable, executor_pool=None))
    return [Endpoint(_base_url(member), api_key(member)) for member in pool]


def api_key(config: ExecutorConfig) -> str:
    """
    API key of the endpoint; a placeholder for the simulated executor, a server on this machine, or if none is sent.

    Raises:
        [`RecipeError`]: The environment variable of a real endpoint is empty, or holds what no header can carry.
    """
    if config.executor_base_url == SIMULATED:
        return "simulated"
    if config.executor_api_key_env is None:
        return "none"
    key = os.environ.get(config.executor_api_key_env, "").strip()
    if not key and urlsplit(config.executor_base_url or "").hostname in _LOOPBACK:
        return "none"
    if not key:
        raise RecipeError(
            f"the environment variable {config.executor_api_key_env} is empty, but the endpoint "
            f"{config.executor_base_url} needs an API key. Export it, name another variable with "
            "executor_api_key_env, or set executor_base_url: simulated."
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise RecipeError(
            f"the environment variable {config.executor_api_key_env} holds a space, a line break or another character "
            "that no API key has. Export the key alone."
        )
    return key


def extra_headers(config: ExecutorConfig) -> dict[str, str]:
    """
    Further headers of every request, with the values of environment variables.

    Raises:
        [`RecipeError`]: A variable is empty.
    """
    headers = {}
    for name, value in as_mapping(config.executor_extra_headers).items():
        headers[name] = os.environ.get(value[1:], "") if value.startswith("$") else value
        if not headers[name]:
            raise RecipeError(f"executor_extra_headers: {name} is {value}, which is empty. Export the variable.")
    return headers


def _base_url(config: ExecutorConfig) -> str:
    return _SIMULATED_URL if config.executor_base_url == SIMULATED else str(config.executor_base_url)
