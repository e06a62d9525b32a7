"""Reading a reply: the answer, the thinking before it, and the bill."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

from .retry import RetryLaterError, classify_status, error_object
from .types import Completion, Messages, Usage

MAX_BODY_BYTES = 8 << 20
"""Largest body of a reply; a body without end must not fill the memory."""
CHARS_PER_TOKEN = 4
"""Rough length of a token, used only where a reply reports no usage."""
NO_CONTENT_ATTEMPTS = 2
"""Attempts if the reply is well-formed but has no content: usually the model's doing, so patience does not help."""
_OPENED = re.compile(r"<think(?:ing)?>|\[THINK\]|◁think▷", re.IGNORECASE)
_CLOSED = re.compile(r"</think(?:ing)?>|\[/THINK\]|◁/think▷", re.IGNORECASE)


def read_completion(content: bytes, messages: Messages, headers: Mapping[str, str]) -> Completion:
    """
    Parse the body of a 200.

    Args:
        content (`bytes`):
            The body.
        messages (`list[dict[str, str]]`):
            Messages of the request, from which usage is estimated if the body reports none.
        headers (`Mapping[str, str]`):
            Headers of the reply; a proxy may report the cost in one.

    Returns:
        [`Completion`]: The reply.

    Raises:
        [`EndpointError`]: The body is not a usable chat completion.
    """
    try:
        body = _body(content)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RetryLaterError("the reply is not JSON", may_be_billed=True) from None
    if not isinstance(body, dict):
        raise RetryLaterError(f"the reply is a JSON {type(body).__name__}, not an object", may_be_billed=True)
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    # Some proxies wrap the upstream's error in a 200, some inside the choice.
    for holder in (body, choice):
        if holder.get("error"):
            status = str(error_object(holder).get("status") or error_object(holder).get("code"))
            raise classify_status(int(status) if status.isdigit() else 500, holder, {})
    message = choice.get("message")
    finish_reason = str(choice.get("finish_reason") or "stop")
    content_text = _text(message.get("content")) if isinstance(message, dict) else ""
    usage = _usage(body.get("usage"), messages, content_text or "", headers)
    if not isinstance(message, dict) or finish_reason == "error":
        reason = "the reply has no message" if finish_reason != "error" else "the endpoint broke off its reply"
        attempts = NO_CONTENT_ATTEMPTS if finish_reason != "error" else None
        raise RetryLaterError(reason, max_attempts=attempts, may_be_billed=True, usage=usage)
    answer, thinking, is_open = split_thinking(content_text or "")
    in_text = bool(thinking) or answer != (content_text or "")
    separate = message.get("reasoning_content") or message.get("reasoning") or ""
    thinking = "\n".join(filter(None, [separate if isinstance(separate, str) else "", thinking]))
    if is_open and not answer:  # cut in the middle of its thinking, whatever the endpoint calls that
        finish_reason = "length"
    completion = Completion(answer, finish_reason, usage, thinking=thinking, thinks_in_text=in_text)
    # A refusal, a tool call and a cut are the model's answer; nothing at all is a broken reply.
    if answer.strip() or finish_reason != "stop" or message.get("refusal") or message.get("tool_calls"):
        return completion
    raise RetryLaterError(
        "the reply is empty" if content_text is not None else "the content of the reply is null",
        max_attempts=NO_CONTENT_ATTEMPTS,
        may_be_billed=True,
        usage=usage,
        # An empty text may be what the model has to say; null is no text.
        fallback=completion if content_text is not None else None,
    )


def _body(content: bytes) -> object:
    """JSON of a body. Gateways that always stream send events, and some put comments before the JSON."""
    text = content.decode("utf-8")
    if text.lstrip()[:1] in ("{", "[", "") or not re.match(r"\s*(?::|data:|event:|id:|retry:)", text):
        return json.loads(text)
    lines = text.splitlines()
    events = [line[5:].strip() for line in lines if line.startswith("data:")]
    if not events:
        return json.loads("\n".join(line for line in lines if not line.startswith(":")))
    merged: dict[str, object] = {}
    texts: dict[str, list[str]] = {"content": [], "reasoning_content": [], "reasoning": []}
    finish_reason = None
    for event in events:
        if event == "[DONE]":
            continue
        chunk = json.loads(event)
        if chunk.get("error"):
            return chunk
        if chunk.get("usage"):
            merged["usage"] = chunk["usage"]
        for choice in chunk.get("choices") or ():
            if choice.get("message"):  # a whole reply as a single event
                return chunk
            delta = choice.get("delta") or {}
            for name, parts in texts.items():
                if isinstance(delta.get(name), str):
                    parts.append(delta[name])
            finish_reason = choice.get("finish_reason") or finish_reason
    if finish_reason is None:
        raise ValueError("the stream was cut")
    message = {key: "".join(parts) for key, parts in texts.items()}
    return merged | {"choices": [{"message": message, "finish_reason": finish_reason}]}


def _text(content: object) -> str | None:
    """Text of a message; `None` if it has no content."""
    if content is None:
        return None
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    # Lone surrogates cannot be encoded, and SQLite and subprocess arguments cannot hold NUL.
    return str(content).encode("utf-8", errors="replace").decode("utf-8").replace("\0", "")


def split_thinking(text: str) -> tuple[str, str, bool]:
    """
    Separate the thinking of a reasoning model, which some servers leave in the text, from its answer.

    Returns:
        `tuple[str, str, bool]`: The answer, the thinking, and whether the thinking was cut before it ended.
    """
    closings = list(_CLOSED.finditer(text))
    opening = _OPENED.search(text)
    if not closings and opening is None:
        return text, "", False
    # Templates may hold the opening tag, so that the reply begins in the middle of the thinking.
    if closings and (opening is None or opening.start() > closings[0].start() or not text[: opening.start()].strip()):
        closing = closings[-1]
        thinking, text = _OPENED.sub("", text[: closing.start()]), text[closing.end() :]
        rest = _OPENED.search(text)
        if rest is None:
            return text.strip(), thinking.strip(), False
        return text[: rest.start()].strip(), f"{thinking}{text[rest.end() :]}".strip(), True
    assert opening is not None
    if not closings:
        return text[: opening.start()].strip(), text[opening.end() :].strip(), True
    closing = closings[-1]
    answer, thinking = f"{text[: opening.start()]}{text[closing.end() :]}", text[opening.end() : closing.start()]
    return answer.strip(), thinking.strip(), False


def _usage(usage: object, messages: Messages, text: str, headers: Mapping[str, str]) -> Usage:
    cost = _count(headers.get("x-litellm-response-cost"))
    if isinstance(usage, dict):
        prompt, completion = (_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
        if prompt is not None and completion is not None:
            # Some count the reasoning in the total only, but bill it.
            hidden = max(0.0, (_count(usage.get("total_tokens")) or 0) - prompt - completion)
            completion += hidden
            details = usage.get("prompt_tokens_details")
            cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
            # DeepSeek's field, and Moonshot's.
            cached = cached or _count(usage.get("prompt_cache_hit_tokens")) or _count(usage.get("cached_tokens")) or 0
            cost = _count(usage.get("cost")) if cost is None else cost
            # Zeros are a count that nobody made.
            if prompt or completion or not text:
                return Usage(
                    round(prompt),
                    round(completion),
                    round(min(prompt, cached)),
                    hidden_tokens=round(hidden),
                    cost_usd=cost,
                )
    return estimate_usage(messages, text, cost)


def _count(value: object) -> float | None:
    """A number that is finite and not negative; `None` for anything else."""
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else -1.0
    except ValueError:
        return None
    return number if number >= 0 and math.isfinite(number) else None


def estimate_usage(messages: Messages, text: str, cost_usd: float | None = None) -> Usage:
    """Estimate the tokens of a call from the length of its prompt and reply, rounded up."""
    prompt_chars = sum(len(message["content"]) for message in messages)
    return Usage(
        -(-prompt_chars // CHARS_PER_TOKEN), -(-len(text) // CHARS_PER_TOKEN), estimated=True, cost_usd=cost_usd
    )
