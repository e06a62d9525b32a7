"""
An endpoint that misbehaves in every way observed in practice: HTTP/1.1 written by hand over real sockets.

A fault is a coroutine `(writer) -> None` that answers one request, or fails to. HTTP libraries would refuse to send most
of these responses, so only the standard library is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any

Fault = Callable[[asyncio.StreamWriter], Awaitable[None]]


def chat(text: Any = "42", *, finish_reason: str = "stop", usage: bool = True, **message: Any) -> bytes:
    """Body of a chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text} | message, "finish_reason": finish_reason}
    body: dict[str, Any] = {"id": "x", "object": "chat.completion", "choices": [choice]}
    if usage:
        body["usage"] = {"prompt_tokens": 10, "completion_tokens": 5}
    return json.dumps(body).encode()


def head(status: int, length: int | None, kind: str = "application/json", **headers: str) -> bytes:
    """Status line and headers."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}"]
    lines += [f"Content-Length: {length}"] if length is not None else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def reply(body: bytes | str, status: int = 200, kind: str = "application/json", **headers: str) -> Fault:
    """A complete response."""
    data = body.encode() if isinstance(body, str) else body

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(head(status, len(data), kind, **headers) + data)
        await writer.drain()

    return answer


def error(status: int, message: str = "no", headers: dict[str, str] | None = None, **fields: Any) -> Fault:
    """An error object of the usual form."""
    return reply(json.dumps({"error": {"message": message} | fields}), status, **(headers or {}))


def cut(data: bytes, *, reset: bool) -> Fault:
    """Send `data`, then close the connection, either orderly or with a reset."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if reset:
            sock = writer.get_extra_info("socket")
            # With a linger time of zero, closing the socket sends a reset.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    return answer


def drip(data: bytes, gap_s: float = 0.4) -> Fault:
    """Send one byte at a time, endlessly."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            for byte in data * 100:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(gap_s)

    return answer


async def silence(writer: asyncio.StreamWriter) -> None:
    """Accept the request and never answer."""
    await asyncio.sleep(60)


async def flood(writer: asyncio.StreamWriter) -> None:
    """Send a body that never ends."""
    with contextlib.suppress(ConnectionError):
        writer.write(head(200, None, Transfer_Encoding="chunked"))
        for _ in range(10_000):
            writer.write(b"100000\r\n" + b" " * 0x100000 + b"\r\n")
            await writer.drain()


def late(fault: Fault, delay_s: float) -> Fault:
    """Answer after a delay."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(delay_s)
        await fault(writer)

    return answer


GOOD = reply(chat())
BODY = chat()
HTML = "<html><body>Bad gateway</body></html>"

EVENTS = (
    b"".join(
        b"data: " + json.dumps(chunk).encode() + b"\n\n"
        for chunk in (
            {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
            {"choices": [{"delta": {"reasoning": "41?"}}]},
            {"choices": [{"delta": {"content": "4"}}]},
            {"choices": [{"delta": {"content": "2"}, "finish_reason": "stop"}]},
            {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5}},
        )
    )
    + b"data: [DONE]\n\n"
)

RETRIED: dict[str, Fault] = {
    "429": error(429),
    "429, Retry-After in seconds": error(429, headers={"Retry_After": "0.05"}),
    "429, Retry-After as a date": error(429, headers={"Retry_After": formatdate(time.time(), usegmt=True)}),
    "429, Retry-After garbage": error(429, headers={"Retry_After": "soon"}),
    "429, Retry-After negative": error(429, headers={"Retry_After": "-5"}),
    "429, Retry-After NaN": error(429, headers={"Retry_After": "nan"}),
    "429, text body": reply("slow down", 429, "text/plain"),
    "408": error(408),
    "409": error(409),
    "500": error(500),
    "502 HTML": reply(HTML, 502, "text/html"),
    "503 empty": reply("", 503),
    "503, Retry-After": error(503, headers={"Retry_After": "0.05"}),
    "504 text": reply("upstream timed out", 504, "text/plain"),
    "529": error(529, "overloaded"),
    "reset before headers": cut(b"", reset=True),
    "closed before headers": cut(b"", reset=False),
    "reset in the headers": cut(b"HTTP/1.1 200 OK\r\nContent-", reset=True),
    "reset in the body": cut(head(200, len(BODY)) + BODY[:20], reset=True),
    "body shorter than its length": cut(head(200, len(BODY) + 100) + BODY, reset=False),
    "cut chunked body": cut(head(200, None, Transfer_Encoding="chunked") + b"40\r\n" + BODY[:30], reset=False),
    "bad status line": cut(b"HELLO WORLD\r\n\r\n", reset=False),
    "bad chunk length": cut(head(200, None, Transfer_Encoding="chunked") + b"zz\r\nhello\r\n", reset=False),
    "bad gzip": reply(b"this is not gzip", Content_Encoding="gzip"),
    "cut gzip": reply(gzip.compress(BODY)[:25], Content_Encoding="gzip"),
    "200 empty body": reply(""),
    "200 cut JSON": reply(BODY[:40]),
    "200 null": reply("null"),
    "200 list": reply("[]"),
    "200 number": reply("42"),
    "200 HTML": reply(HTML, kind="text/html"),
    "200 invalid UTF-8": reply(b"\xff\xfe\xfd"),
    "200 with a 429 inside": reply('{"error": {"code": 429, "message": "rate"}}'),
    "200 with a 503 inside": reply('{"error": {"code": 503, "message": "busy"}}'),
    "200 with an error text": reply('{"error": "something broke"}'),
    "choices empty": reply('{"choices": []}'),
    "choices null": reply('{"choices": null}'),
    "choices missing": reply('{"object": "chat.completion"}'),
    "choices of text": reply('{"choices": ["42"]}'),
    "message null": reply('{"choices": [{"message": null}]}'),
    "message missing": reply('{"choices": [{"finish_reason": "stop"}]}'),
    "content null": reply(chat(None)),
    "error inside the choice": reply(BODY.replace(b'"index": 0', b'"error": {"code": 502, "message": "upstream"}')),
    "finish_reason error": reply(chat("4", finish_reason="error")),
    "a stream that is cut": reply(EVENTS[: EVENTS.index(b'"stop"') - 60], kind="text/event-stream"),
    "error in a stream": reply(b'data: {"error": {"code": 503, "message": "busy"}}\n\n', kind="text/event-stream"),
}
"""Transient faults: retried, and `unavailable` if they persist."""

NOT_RETRIED: dict[str, Fault] = {
    "no bytes": silence,
    "one byte every 0.4 s, headers": drip(b"HTTP/1.1 200 OK\r\n"),
    "one byte every 0.4 s, body": drip(head(200, 10_000)),
    "endless body": flood,
    "redirect to itself": reply("", 307, Location="/v1/chat/completions"),
    "redirect to another host": reply("", 302, Location="http://127.0.0.1:9/v1/chat/completions"),
    "500, x-should-retry false": error(500, headers={"x_should_retry": "false"}),
}
"""Faults that are not retried: `unavailable`, immediately or at the deadline."""

FATAL: dict[str, Fault] = {
    "401": error(401, "Incorrect API key", code="invalid_api_key"),
    "401 HTML": reply(HTML, 401, "text/html"),
    "402": error(402),
    "403": error(403),
    "404 model": error(404, "no such model", code="model_not_found"),
    "404 HTML": reply(HTML, 404, "text/html"),
    "429 insufficient_quota": error(429, "You exceeded your quota", type="insufficient_quota"),
    "429 quota as a code": error(429, code="insufficient_quota"),
    "429 billing limit": error(429, code="billing_hard_limit_reached"),
    "200 with a quota error inside": reply('{"error": {"code": "insufficient_quota", "message": "pay"}}'),
    "200 with a 401 inside": reply('{"error": {"code": 401, "message": "who are you"}}'),
    "405": error(405),
    "407": error(407),
}
"""Faults that stop the run, if a control request meets them too."""

CONTESTED: dict[str, tuple[Fault, float | None]] = {
    "400 context length": (error(400, code="context_length_exceeded"), 0.0),
    "400 context length in words": (error(400, "This model's maximum context length is 4096 tokens."), 0.0),
    "400 llama.cpp": (
        error(400, "the request exceeds the available context size", type="exceed_context_size_error"),
        0.0,
    ),
    "400 prompt too long": (error(400, "prompt is too long: 250000 tokens > 200000 maximum"), 0.0),
    "400 content policy": (error(400, code="content_policy_violation"), 0.0),
    "400 content management": (error(400, "triggering Azure OpenAI's content management policy"), 0.0),
    "400 Gemini's list": (
        reply('[{"error": {"code": 400, "message": "Request contains an invalid argument."}}]', 400),
        0.0,
    ),
    "403 moderation": (error(403, "Your input was flagged", code=403), 0.0),
    "413": (error(413), 0.0),
    "422": (error(422), 0.0),
    "422 FastAPI": (reply('{"detail": [{"loc": ["body"], "msg": "too long"}]}', 422), 0.0),
    "500 with a context length": (error(500, code="context_length_exceeded"), 0.0),
    "200 with a context length inside": (reply('{"error": {"code": "context_length_exceeded", "message": "m"}}'), 0.0),
    # The error page of a gateway says nothing about the request.
    "401 of one request": (error(401), None),
    "403 HTML": (reply(HTML, 403, "text/html"), None),
    "404 HTML of an ingress": (reply(HTML, 404, "text/html"), None),
}
"""Faults of one request while control requests are answered, and the reward; all stop the run if those fail too."""

SCORED: dict[str, tuple[Fault, float]] = {
    "empty text, length": (reply(chat("", finish_reason="length")), 0.0),
    "null, length": (reply(chat(None, finish_reason="length")), 0.0),
    "null, content filter": (reply(chat(None, finish_reason="content_filter")), 0.0),
    "thinking in the text": (reply(chat("<think>It is 41. No.</think>The answer is 42.")), 1.0),
    "thinking without its first tag": (reply(chat("It is 41. No.\n</think>\n\n42")), 1.0),
    "thinking that is cut": (reply(chat("<think>It is 42, but")), 0.0),
    "thinking in a field": (reply(chat("42", reasoning_content="41?")), 1.0),
    "a stream of events": (reply(EVENTS, kind="text/event-stream"), 1.0),
    "comments before the JSON": (reply(b": PROCESSING\n\n: PROCESSING\n\n" + BODY), 1.0),
    "refusal": (reply(chat(None, refusal="I cannot help with that")), 0.0),
    "tool calls only": (reply(chat(None, tool_calls=[{"id": "1"}])), 0.0),
    "content filter": (reply(chat("", finish_reason="content_filter")), 0.0),
    "truncated, wrong": (reply(chat("The answer is 4", finish_reason="length")), 0.0),
    "truncated, right nonetheless": (reply(chat("\\boxed{42} because", finish_reason="length")), 1.0),
    "list of parts": (reply(chat([{"type": "text", "text": "4"}, {"type": "text", "text": "2"}])), 1.0),
    "lone surrogate and NUL": (reply(chat("\ud800\0 \\boxed{42}")), 1.0),
    "usage missing": (reply(chat(usage=False)), 1.0),
    "usage null": (reply(BODY.replace(b'"usage": {', b'"usage": null, "x": {')), 1.0),
    "usage nonsense": (reply(BODY.replace(b'"prompt_tokens": 10', b'"prompt_tokens": "many"')), 1.0),
    "usage negative": (reply(BODY.replace(b'"prompt_tokens": 10', b'"prompt_tokens": -7')), 1.0),
    "gzip": (reply(gzip.compress(BODY), Content_Encoding="gzip"), 1.0),
    "slow but complete": (late(GOOD, 0.3), 1.0),
    "wrong": (reply(chat("41")), 0.0),
}
"""Replies with which a workflow continues, and the score of its answer."""


class FaultServer:
    """
    Answers the n-th request with `script(n)`, counting from 1. Use as an async context manager.

    `control` answers the client's control requests, which are counted apart; by default, `script` answers them too.
    """

    def __init__(self, script: Callable[[int], Fault], control: Fault | None = None) -> None:
        self.script, self.control = script, control
        self.requests = self.controls = 0
        self.base_url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> FaultServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *details: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            while not writer.is_closing() and (body := await self._read(reader)) is not None:
                if b"Reply with the word ready." in body and self.control is not None:
                    self.controls += 1
                    await self.control(writer)
                    continue
                self.requests += 1
                await self.script(self.requests)(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> bytes | None:
        try:
            headers = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        for line in headers.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                return await reader.readexactly(int(line.split(b":")[1]))
        return b""
