"""The preflight of an endpoint: what it takes and gives, and whether replies keep to the operators' forms."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from dataclasses import asdict, replace
from pathlib import Path

from ..errors import FatalEndpointError, RejectedRequestError, UnavailableError
from ..llm import SIMULATED, EndpointProfile, LLMClient, probe
from ..storage import cache_root, write_json
from .base import OperatorCall, OperatorFailureError
from .registry import DEFAULT_OPERATORS
from .types import Candidate, Problem, State

logger = logging.getLogger(__name__)

KEPT_FOR_S = 3600.0
"""Time for which a profile holds."""
_ADDITION = Problem("What is 2 + 3?")
_FUNCTION = Problem("Write a function that returns the sum of two numbers.", "code", entry_point="add")
_SOLVED = State(_ADDITION, (Candidate("2 + 3 = 5. The answer is 5."),))
TRIALS: dict[str, State] = {
    "AnswerGenerate": State(_ADDITION),
    "CustomCodeGenerate": State(_FUNCTION),
    "Review": _SOLVED,
    "Revise": _SOLVED,
    "Format": _SOLVED,
    "ScEnsemble": State(_ADDITION, (Candidate("The answer is 5."), Candidate("The answer is 6."))),
}
"""One trial for each form of reply that an operator asks for."""


async def preflight(client: LLMClient, *, fresh: bool = False) -> EndpointProfile:
    """
    Find out how an endpoint serves a client's requests, and have the client follow it.

    A profile holds for an hour; within it, one tiny call shows that the endpoint answers.

    Args:
        client ([`~aflow_trl.llm.LLMClient`]):
            Client of the endpoint.
        fresh (`bool`, *optional*, defaults to `False`):
            Whether to make all calls, even if a profile from the last hour is known.

    Returns:
        [`~aflow_trl.llm.EndpointProfile`]: The profile.

    Raises:
        [`FatalEndpointError`]: The endpoint cannot serve the configuration. The message says why.
    """
    config, spending = client.config, client.spending
    if config.executor_base_url == SIMULATED:
        await client.ping()
        client.profile = EndpointProfile(config.executor_max_tokens_field, seed="honoured")
        return client.profile
    path = cache_root() / "endpoints" / f"{client.fingerprint()}.json"
    if not fresh and (profile := _stored(path)) is not None:
        client.follow(profile)
        try:
            await client.ping()
            _warn(client, profile)
            return profile
        except FatalEndpointError:  # it may have changed meanwhile, or its message is needed
            client.config, client.profile = config, None
    requests, usd = spending.requests, spending.usd
    profile = await probe(client)
    client.follow(profile)
    malformed = await _malformed(client)
    spent = None if usd is None or spending.usd is None else spending.usd - usd
    profile = replace(profile, malformed=malformed, requests=spending.requests - requests, usd=spent)
    client.follow(profile)
    _warn(client, profile)
    write_json(path, asdict(profile) | {"time": time.time()})
    for other in path.parent.glob("*.json"):
        with contextlib.suppress(OSError):  # another process may have removed it
            if time.time() - other.stat().st_mtime > KEPT_FOR_S:
                other.unlink()
    return profile


def _warn(client: LLMClient, profile: EndpointProfile) -> None:
    remarks = [*profile.renegotiated]
    if profile.seed == "no effect":
        remarks.append("all samples of a prompt are equal, so votes on them are worth nothing")
    if profile.malformed:
        remarks.append(f"malformed replies to {', '.join(profile.malformed)}")
    for remark in remarks:
        logger.warning("executor %s at %s: %s", client.config.executor_model, client.host, remark)


def _stored(path: Path) -> EndpointProfile | None:
    """Profile from the last hour; `None` if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if time.time() - content.pop("time") > KEPT_FOR_S:
            return None
        lists = {name: tuple(value) for name, value in content.items() if isinstance(value, list)}
        return EndpointProfile(**content | lists)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # none yet, or of another version
        return None


async def _malformed(client: LLMClient) -> tuple[str, ...]:
    async def is_malformed(name: str, state: State) -> bool:
        call = OperatorCall(client, seed=0)
        try:
            await DEFAULT_OPERATORS[name]().run(state, {}, call)
        except (OperatorFailureError, RejectedRequestError):
            return True
        except UnavailableError as error:
            raise client.fatal(f"the endpoint answers tiny requests, but not that of {name}: {error}") from None
        return call.parse_errors > 0

    results = await asyncio.gather(*(is_malformed(*trial) for trial in TRIALS.items()), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return tuple(name for name, bad in zip(TRIALS, results, strict=True) if bad)
