"""Classification of everything that goes wrong at an endpoint: a retry, a rejected request, a fatal error."""

from __future__ import annotations

import email.utils
import re
import socket
import ssl
import time
from collections.abc import Mapping

import openai

from ..errors import EndpointError, FatalEndpointError, UnavailableError
from ..text import model_text
from .types import Completion, Usage

MAX_ERROR_CHARS = 300
"""Part of an endpoint's error message that ours includes."""

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
_CONTENT_CODES = {
    "context_length_exceeded",
    "context_window_exceeded",
    "exceed_context_size_error",
    "string_above_max_length",
    "request_too_large",
    "content_policy_violation",
    "content_filter",
    "content_filtered",
    "data_inspection_failed",
    "moderation_blocked",
    "responsibleaipolicyviolation",
}
"""Codes that blame the content of a request: it is too long, or against a policy."""
_CONTENT_MESSAGE = re.compile(
    r"context (?:length|window|size)|(?:prompt|input|request|message)s? (?:is|are) too long|too many (?:input )?tokens"
    r"|(?:exceeds?|over|beyond|above) (?:the )?(?:model'?s? )?max\w* (?:\w+ ){0,3}(?:tokens?|length)"
    r"|reduce the length|maximum (?:input|prompt|sequence) length|token (?:count|limit) exceed|longer than the maximum"
    r"|content[ _](?:policy|filter|management)|safety (?:system|filter|settings)|flagged|moderation|prohibited content"
    r"|inappropriate content|responsible ai",
    re.IGNORECASE,
)
"""The same in words."""
_KEYS = re.compile(
    r"(?<=bearer )\S+|(?<=basic )\S+|\b(?:sk|hf|gsk|xai|pk|rk|api|key|token)[-_][\w-]{8,}|\bAIza[\w-]{20,}"
    r"|(?<=//)[^/\s@]+(?=@)",
    re.IGNORECASE,
)
"""API keys in the forms that providers give them, and credentials in an address."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TRANSIENT_STATUSES = {408, 409, 425, 429}
_FATAL_STATUSES = {405, 407}
"""A wrong address, and a proxy that asks for a password: no request will get through."""
_BLAME_STATUSES = {400, 403, 413, 414, 422, 451}
"""Statuses by which an endpoint that works otherwise refuses one request."""


class RetryLaterError(UnavailableError):
    """
    A failed attempt that may succeed later.

    Args:
        message (`str`):
            What happened, without any secret.
        retry_after_s (`float`, *optional*):
            Seconds the endpoint asked to wait.
        rate_limited (`bool`, *optional*, defaults to `False`):
            Whether the endpoint refused the request for its rate.
        max_attempts (`int`, *optional*):
            Maximum number of attempts. If `None`, only the deadline limits them.
        may_be_billed (`bool`, *optional*, defaults to `False`):
            Whether the endpoint may have done the work despite the failure.
        usage ([`Usage`], *optional*):
            Tokens that it reported nevertheless.
        unreachable (`bool`, *optional*, defaults to `False`):
            Whether there was no connection at all.
        fallback ([`Completion`], *optional*):
            Reply to go on with if the last attempt ends like this.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        rate_limited: bool = False,
        max_attempts: int | None = None,
        may_be_billed: bool = False,
        usage: Usage | None = None,
        unreachable: bool = False,
        fallback: Completion | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.rate_limited = rate_limited
        self.max_attempts = max_attempts
        self.may_be_billed = may_be_billed
        self.usage = usage
        self.unreachable = unreachable
        self.fallback = fallback


class ContestedError(EndpointError):
    """
    An HTTP error whose cause a control request has to tell: this request, or whatever all requests have in common.

    Args:
        message (`str`):
            What happened, without any secret.
        status (`int`):
            HTTP status.
        names_content (`bool`):
            Whether the error blames the content of the request: its length, or a policy.
        structured (`bool`):
            Whether the body is JSON, as an endpoint's own errors are, and not the page of a gateway before it.
    """

    def __init__(self, message: str, status: int, *, names_content: bool, structured: bool) -> None:
        super().__init__(message)
        self.status = status
        self.names_content = names_content
        self.structured = structured

    @property
    def blames_request(self) -> bool:
        """Whether an endpoint that works otherwise refuses a single request in this way."""
        return self.names_content or (self.status in _BLAME_STATUSES and (self.structured or self.status == 413))


def classify_exception(error: Exception) -> EndpointError:
    """Translate an exception of the SDK or its transport."""
    if isinstance(error, EndpointError):
        return error
    if isinstance(error, openai.APIStatusError):
        return classify_status(error.status_code, error.body, error.response.headers)
    cause = _innermost(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return FatalEndpointError(f"the certificate of the endpoint is not trusted ({cause.verify_message})")
    if isinstance(cause, ssl.SSLError):
        return RetryLaterError(f"no TLS connection ({cause.reason}); is it http://?", unreachable=True)
    if isinstance(cause, ConnectionRefusedError):
        return RetryLaterError("the connection was refused.", unreachable=True)
    if isinstance(cause, socket.gaierror):
        return RetryLaterError(f"the host name cannot be resolved ({cause.strerror}).", unreachable=True)
    if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, TimeoutError):
        # Without a connection, nothing was sent; a reset may come after the endpoint has done the work.
        connected = isinstance(cause, ConnectionError)
        return RetryLaterError(f"{type(cause).__name__}: {cause.strerror}", may_be_billed=connected)
    # Only the type: messages of the transport may contain the address.
    return RetryLaterError(f"{type(cause).__name__} while talking to the endpoint", may_be_billed=True)


def _innermost(error: BaseException) -> BaseException:
    """The exception that started the chain: the SDK calls everything a connection error."""
    seen = {id(error)}
    while True:
        # aiohttp keeps the error of the operating system as an attribute.
        inner = error.__cause__ or getattr(error, "os_error", None) or error.__context__
        if inner is None or id(inner) in seen:
            return error
        seen.add(id(inner))
        error = inner


def classify_status(status: int, body: object, headers: Mapping[str, str]) -> EndpointError:
    """Translate an HTTP error status, or an `error` object inside a 200."""
    details = error_object(body)
    codes = {str(details.get(key)).lower() for key in ("code", "type", "status") if details.get(key)}
    message = _message(details)
    text = f"HTTP {status}: {message or 'without a message'}"
    # First, because a fatal code can come with a status that otherwise means "retry".
    if codes & _FATAL_CODES or status in _FATAL_STATUSES:
        return FatalEndpointError(text)
    names_content = bool(codes & _CONTENT_CODES)
    if status in _TRANSIENT_STATUSES and not names_content:
        return RetryLaterError(text, retry_after_s=_retry_after(headers), rate_limited=status == 429)
    # In words only where the status blames the client: a server that fails may log anything.
    names_content |= 400 <= status < 500 and bool(_CONTENT_MESSAGE.search(message))
    if names_content or 400 <= status < 500:
        return ContestedError(text, status, names_content=names_content, structured=isinstance(body, dict | list))
    if headers.get("x-should-retry") == "false":
        return UnavailableError(text)
    # A redirect would send the API key to a host that the recipe does not name.
    if 300 <= status < 400:
        return UnavailableError(f"HTTP {status}: redirects are not followed")
    return RetryLaterError(text, retry_after_s=_retry_after(headers))


def without_keys(message: str) -> str:
    """A message of an endpoint without keys: proxies echo the request, and the message goes into traces."""
    return _KEYS.sub("***", model_text(message))


def error_object(body: object) -> Mapping[str, object]:
    """The error in a body, in the forms of OpenAI, Gemini (a list) and FastAPI (`detail`)."""
    if isinstance(body, list) and body:
        body = body[0]
    if isinstance(body, dict):
        inner = body.get("error", body)
        return inner if isinstance(inner, dict) else {"message": str(inner)}
    return {"message": str(body) if body else ""}


def _message(details: Mapping[str, object]) -> str:
    message = details.get("message") or details.get("detail") or details.get("error_description") or ""
    if isinstance(message, list):
        message = "; ".join(str(item.get("msg", item)) if isinstance(item, dict) else str(item) for item in message)
    # OpenRouter says what the provider behind it said.
    metadata = details.get("metadata")
    if isinstance(metadata, dict) and metadata.get("raw"):
        message = f"{message} ({metadata['raw']})"
    return without_keys(str(message))[:MAX_ERROR_CHARS]


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an endpoint asks to wait, in one of the headers in use; `None` if it asks for nothing."""
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    if value is not None:
        if (seconds := _number(value)) is not None:
            return seconds
        try:
            # By the clock of the endpoint, which may differ from ours.
            now = headers.get("date")
            started = email.utils.parsedate_to_datetime(now).timestamp() if now else time.time()
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - started)
        except (TypeError, ValueError):
            return None
    resets = [
        headers.get(f"x-ratelimit-reset-{kind}", "")
        for kind in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{kind}") == "0"
    ]
    waits = [sum(float(n) * _SECONDS[unit] for n, unit in _DURATION.findall(reset)) for reset in resets]
    return max(waits, default=0.0) or None


def _number(text: str | None) -> float | None:
    """A number of seconds or milliseconds that is not negative; `None` for anything else."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return max(0.0, value) if value == value and value != float("inf") else None
