"""Classification of everything an endpoint can return: a usable reply, a retry, a rejected request, a fatal error."""

from __future__ import annotations

import email.utils
import json
import re
import time
from collections.abc import Mapping

import openai

from ..errors import EndpointError, FatalEndpointError, RejectedRequestError, UnavailableError
from ..text import model_text
from .types import Completion, Messages, Usage

MAX_BODY_BYTES = 8 << 20
"""Largest body of a reply; a body without end must not fill the memory."""
MAX_ERROR_CHARS = 200
"""Part of an endpoint's error message that ours includes."""
CHARS_PER_TOKEN = 4
"""Rough length of a token, used only where a reply reports no usage."""
NO_CONTENT_ATTEMPTS = 2
"""Attempts if the reply is well-formed but has no content: usually the model's doing, so patience does not help."""

# OpenAI reports an exhausted quota as a 429, which only the code tells apart from a rate limit.
_FATAL_CODES = {
    "insufficient_quota",
    "billing_hard_limit_reached",
    "billing_not_active",
    "account_deactivated",
    "access_terminated",
    "invalid_api_key",
    "model_not_found",
}
_KEYS = re.compile(
    r"(?<=bearer )\S+|(?<=basic )\S+|\b(?:sk|hf|gsk|xai|pk|rk|api|key|token)[-_][\w-]{8,}|\bAIza[\w-]{20,}",
    re.IGNORECASE,
)
"""API keys in the forms that providers give them."""
_FATAL_STATUSES = {401, 402, 403, 404}
_REJECTED_STATUSES = {400, 413, 422}


class RetryLaterError(UnavailableError):
    """
    A failed attempt that may succeed later.

    Args:
        message (`str`):
            What happened, without any secret.
        retry_after_s (`float`, *optional*):
            Seconds the endpoint asked to wait.
        rate_limited (`bool`, *optional*, defaults to `False`):
            Whether all other calls to the endpoint should wait as well.
        max_attempts (`int`, *optional*):
            Maximum number of attempts. If `None`, only the deadline limits them.
        may_be_billed (`bool`, *optional*, defaults to `False`):
            Whether the endpoint may have done the work despite the failure.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        rate_limited: bool = False,
        max_attempts: int | None = None,
        may_be_billed: bool = False,
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.rate_limited = rate_limited
        self.max_attempts = max_attempts
        self.may_be_billed = may_be_billed


def classify_exception(error: Exception) -> EndpointError:
    """Translate an exception of the SDK or its transport."""
    if isinstance(error, EndpointError):
        return error
    if isinstance(error, openai.APIStatusError):
        return classify_status(error.status_code, error.body, error.response.headers)
    # Only the type: messages of the transport may contain the URL, and a URL may contain credentials.
    return RetryLaterError(f"{type(error).__name__} while talking to the endpoint", may_be_billed=True)


def classify_status(status: int, body: object, headers: Mapping[str, str]) -> EndpointError:
    """Translate an HTTP error status, or an `error` object inside a 200."""
    details = _error_object(body)
    codes = {str(details.get(key)) for key in ("code", "type") if details.get(key)}
    text = f"HTTP {status}: {_without_keys(str(details.get('message', '')))[:MAX_ERROR_CHARS]}"
    # First, because a fatal code can come with a status that otherwise means "retry".
    if codes & _FATAL_CODES or status in _FATAL_STATUSES:
        return FatalEndpointError(text)
    if status == 429:
        return RetryLaterError(text, retry_after_s=_retry_after(headers), rate_limited=True)
    if status in _REJECTED_STATUSES:
        return RejectedRequestError(text)
    if headers.get("x-should-retry") == "false":
        return UnavailableError(text)
    # A redirect would send the API key to a host that the recipe does not name.
    if 300 <= status < 400:
        return UnavailableError(f"HTTP {status}: redirects are not followed")
    return RetryLaterError(text, retry_after_s=_retry_after(headers))


def _without_keys(message: str) -> str:
    """The message of an endpoint without keys: proxies echo the request, and the message goes into traces."""
    return _KEYS.sub("***", model_text(message))


def read_completion(content: bytes, messages: Messages) -> Completion:
    """
    Parse the body of a 200.

    Args:
        content (`bytes`):
            The body.
        messages (`list[dict[str, str]]`):
            Messages of the request, from which usage is estimated if the body reports none.

    Returns:
        [`Completion`]: The reply.

    Raises:
        [`EndpointError`]: The body is not a usable chat completion.
    """
    try:
        body = json.loads(content)
    except ValueError:
        raise RetryLaterError("the reply is not JSON", may_be_billed=True) from None
    if not isinstance(body, dict):
        raise RetryLaterError(f"the reply is a JSON {type(body).__name__}, not an object", may_be_billed=True)
    # Some proxies wrap the upstream's error in a 200.
    if body.get("error"):
        status = str(_error_object(body).get("status") or _error_object(body).get("code"))
        raise classify_status(int(status) if status.isdigit() else 500, body, {})
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    if not isinstance(message, dict):
        raise RetryLaterError("the reply has no message", max_attempts=NO_CONTENT_ATTEMPTS, may_be_billed=True)
    finish_reason = str(choice.get("finish_reason") or "stop")
    text = _text(message)
    return Completion(text, finish_reason, _usage(body.get("usage"), messages, text))


def _text(message: Mapping[str, object]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if content is None:
        # A refusal or a tool call is the model's answer; null content without either is a broken reply.
        if not message.get("refusal") and not message.get("tool_calls"):
            raise RetryLaterError(
                "the content of the reply is null", max_attempts=NO_CONTENT_ATTEMPTS, may_be_billed=True
            )
        content = ""
    # Lone surrogates cannot be encoded, and SQLite and subprocess arguments cannot hold NUL.
    return str(content).encode("utf-8", errors="replace").decode("utf-8").replace("\0", "")


def _usage(usage: object, messages: Messages, text: str) -> Usage:
    if isinstance(usage, dict):
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if isinstance(prompt, int) and isinstance(completion, int) and min(prompt, completion) >= 0:
            details = usage.get("prompt_tokens_details")
            cached = details.get("cached_tokens") if isinstance(details, dict) else 0
            return Usage(prompt, completion, min(prompt, max(0, cached)) if isinstance(cached, int) else 0)
    return estimate_usage(messages, text)


def estimate_usage(messages: Messages, text: str) -> Usage:
    """Estimate the tokens of a call from the length of its prompt and reply, rounded up."""
    prompt_chars = sum(len(message["content"]) for message in messages)
    return Usage(-(-prompt_chars // CHARS_PER_TOKEN), -(-len(text) // CHARS_PER_TOKEN), estimated=True)


def _error_object(body: object) -> Mapping[str, object]:
    if isinstance(body, dict):
        inner = body.get("error", body)
        return inner if isinstance(inner, dict) else {"message": str(inner)}
    return {"message": str(body) if body else ""}


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a `Retry-After` header, which holds either seconds or a date; `None` if it holds neither."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
