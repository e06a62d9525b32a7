"""A few tiny calls that find out what an endpoint takes and gives, before anything is paid for."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..errors import EndpointError, FatalEndpointError, RunBudgetError
from .client import LLMClient
from .config import JSON_OBJECT, JSON_SCHEMA, TAGS, ExecutorConfig
from .profile import EndpointProfile
from .retry import ContestedError
from .types import Completion, Messages, Usage

FEATURE_TIMEOUT_S = 60.0
"""Time that a trial of a feature may take; one that fails or hangs is a feature that is not there."""
TRIAL_ATTEMPTS = 2
HIDDEN_TOKENS = 16
"""Tokens beyond one for each character of a reply from which on a model must have thought unseen."""
REFUSED = re.compile(
    r"not support|unsupported|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|extra inputs|extra fields"
    r"|deprecated|cannot both|not compatible|incompatible|only (?:the )?(?:default|\d[\d.]*)|fixed at",
    re.IGNORECASE,
)
"""Words of an endpoint that does not take a parameter at all, and not only not this value of it."""
SEED_MESSAGES: Messages = [
    {"role": "user", "content": "Invent a name of a town and a number of five digits. Reply with the two alone."}
]
SCHEMA_MESSAGES: Messages = [{"role": "user", "content": "Is 2 + 2 equal to 5? Give a reason and a verdict."}]
SCHEMA_FIELDS: dict[str, Any] = {
    "reason": {"type": "string"},
    "verdict": {"type": "string", "enum": ["affirmative", "negative"]},
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": SCHEMA_FIELDS,
    "required": list(SCHEMA_FIELDS),
    "additionalProperties": False,
}
"""A schema with words that a model would hardly choose by itself; the prompt does not mention JSON."""
CONTEXT_FIELDS = (
    "max_model_len",
    "context_length",
    "context_window",
    "max_context_length",
    "n_ctx",
    "max_input_tokens",
)
"""Names under which endpoints say how long a prompt with its reply may be."""


async def probe(client: LLMClient) -> EndpointProfile:
    """
    Find out which parameters an endpoint takes, where thinking goes, what it counts, whether it honours the seed and
    enforces a schema, and how long its context is. The client follows what was found about parameters.

    Args:
        client ([`LLMClient`]):
            Client of the endpoint.

    Returns:
        [`EndpointProfile`]: What was found, but for the forms of operators.

    Raises:
        [`FatalEndpointError`]: The endpoint cannot serve the configuration. The message says why.
    """
    changes: list[str] = []
    while True:
        try:
            reply = await client.ping()
            break
        except FatalEndpointError as error:
            refusal = error.__cause__
            change = _renegotiated(client.config, str(refusal)) if isinstance(refusal, ContestedError) else None
            if change is None:
                raise
            client.config = change[0]
            changes.append(change[1])
    config = client.config
    context_tokens = _context_tokens(await client.models(), config.executor_model)
    if context_tokens is not None and config.executor_max_tokens >= context_tokens:
        raise client.fatal(
            f"executor_max_tokens is {config.executor_max_tokens}, but prompt and reply together may have "
            f"{context_tokens} tokens. Lower it, to a half of that at most, or serve the model with a longer context"
        )
    seed, structured = await asyncio.gather(_seed(client), _structured(client))
    return EndpointProfile(
        config.executor_max_tokens_field,
        tuple(config.executor_omit or ()),
        tuple(changes),
        thinking=_thinking(reply),
        usage=_usage(reply.usage),
        seed=seed,
        context_tokens=context_tokens,
        structured=structured,
        latency_s=reply.wall_s,
    )


def _renegotiated(config: ExecutorConfig, refusal: str) -> tuple[ExecutorConfig, str] | None:
    """The configuration without what an endpoint refuses, and what was changed; `None` if it names nothing."""
    field = config.executor_max_tokens_field
    sent = config.parameters(config.executor_temperature, 0)
    if field == "max_tokens" and field in sent and re.search(r"\bmax_tokens\b", refusal):
        # Without it a reply would have no limit, so it is renamed and never left out.
        if "max_completion_tokens" not in refusal:
            return None
        renamed = replace(config, executor_max_tokens_field="max_completion_tokens")
        return renamed, "max_completion_tokens in place of max_tokens"
    if not REFUSED.search(refusal):
        return None
    for name, spelling in (("seed", "seed"), ("top_p", "top_?p"), ("temperature", "temperature")):
        if name in sent and re.search(rf"\b{spelling}\b", refusal, re.IGNORECASE):
            omitted = [*(config.executor_omit or ()), name]
            return replace(config, executor_omit=omitted), f"{name} is not sent"
    return None


async def _trial(client: LLMClient, messages: Messages, **options: Any) -> Completion | None:
    """A reply to a trial; `None` if the endpoint cannot do what is tried."""
    # Some servers answer what they do not know with a 500, which no patience helps.
    call = client.ask_uncontested(messages, max_attempts=TRIAL_ATTEMPTS, **options)
    try:
        return await asyncio.wait_for(call, FEATURE_TIMEOUT_S)
    except RunBudgetError:
        raise
    except (EndpointError, asyncio.TimeoutError):
        return None


async def _seed(client: LLMClient) -> str:
    config = client.config
    if "seed" not in config.parameters(config.executor_temperature, 0):
        return "not sent"
    replies = await asyncio.gather(*(_trial(client, SEED_MESSAGES, seed=seed) for seed in (1, 1, 2)))
    first, again, other = ("" if reply is None else reply.text for reply in replies)
    if not (first and again and other):  # such as after thinking that took all tokens
        return "unknown"
    if first != again:
        return "ignored"
    return "honoured" if first != other else "no effect"


async def _structured(client: LLMClient) -> str:
    """The first form of a schema that the endpoint enforces."""
    for form in (JSON_SCHEMA, JSON_OBJECT):
        config = replace(client.config, executor_structured=form)
        reply = await _trial(client, SCHEMA_MESSAGES, response_format=config.response_format(SCHEMA))
        if reply is not None and _is_of_schema(reply.text):
            return form
    return TAGS


def _is_of_schema(text: str) -> bool:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return False
    verdicts = SCHEMA_FIELDS["verdict"]["enum"]
    return isinstance(content, dict) and content.keys() == SCHEMA_FIELDS.keys() and content["verdict"] in verdicts


def _thinking(reply: Completion) -> str:
    if reply.thinks_in_text:
        return "text"
    if reply.thinking:
        return "field"
    # Far more tokens than a reply of this length can have.
    return "hidden" if reply.usage.completion_tokens > len(reply.text) + HIDDEN_TOKENS else "none"


def _usage(usage: Usage) -> str:
    if usage.estimated:
        return "missing"
    return "reasoning in the total only" if usage.hidden_tokens else "reported"


def _context_tokens(models: object, name: str) -> int | None:
    """Context of a model in the list that an endpoint gives, in one of the forms in use."""
    entries = models.get("data", models.get("models")) if isinstance(models, Mapping) else models
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, Mapping) or name not in (entry.get("id"), entry.get("name"), entry.get("root")):
            continue
        holders = [part for part in (entry, entry.get("meta"), entry.get("model_info")) if isinstance(part, Mapping)]
        for value in (holder.get(field) for holder in holders for field in CONTEXT_FIELDS):
            if isinstance(value, int) and value > 0:
                return value
    return None
