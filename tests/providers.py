"""
Imitations of providers, after their public documentation: addresses, keys, the parameters they refuse and in which
words, where thinking goes, and what they count.

The model behind all of them answers "42" to everything but the forms that a schema or tags ask for.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from conftest import KEY_NAME

KEY = "sk-planted-secret-0123456789"
PROMPT_TOKENS, ANSWER_TOKENS, THINKING_TOKENS = 20, 6, 200


def openai_error(status: int, message: str, **fields: Any) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "invalid_request_error"} | fields}, status=status)


def unsupported(name: str, instead: str = "") -> web.Response:
    remedy = f" Use '{instead}' instead." if instead else ""
    message = f"Unsupported parameter: '{name}' is not supported with this model.{remedy}"
    return openai_error(400, message, param=name, code="unsupported_parameter")


def only_default(name: str) -> web.Response:
    message = f"Unsupported value: '{name}' does not support this value with this model. Only the default (1) value is supported."
    return openai_error(400, message, param=name, code="unsupported_value")


def google_error(status: int, message: str, reason: str = "INVALID_ARGUMENT") -> web.Response:
    return web.json_response([{"error": {"code": status, "message": message, "status": reason}}], status=status)


def mistral_error(name: str) -> web.Response:
    detail = [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}]
    return web.json_response(
        {"object": "error", "message": {"detail": detail}, "type": "invalid_request_error"}, status=422
    )


Refusal = Callable[[], web.Response]


@dataclass
class Provider:
    """What one provider documents."""

    path: str = "/v1"
    model: str = "some-model"
    header: str = "Authorization"
    query: dict[str, str] = field(default_factory=dict)
    refuses: dict[str, Refusal] = field(default_factory=dict)
    """Answer to a request that holds a parameter, in the order in which they are noticed."""
    needs: dict[str, Any] = field(default_factory=dict)
    """Fields without which a request is refused."""
    wrong_key: Refusal = lambda: openai_error(401, "Incorrect API key provided", code="invalid_api_key")
    wrong_model: Refusal = lambda: openai_error(404, "The model does not exist", code="model_not_found")
    structured: str = "json_schema"
    thinking: str = "none"
    seeded: bool = True
    context: dict[str, int] = field(default_factory=dict)
    """Fields of the model in the list of models."""
    usage: Callable[[int], dict[str, Any]] = lambda thought: {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": ANSWER_TOKENS + thought,
        "total_tokens": PROMPT_TOKENS + ANSWER_TOKENS + thought,
    }
    before: bytes = b""
    """What precedes the JSON of a reply."""
    payloads: list[dict[str, Any]] = field(default_factory=list)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        payload = json.loads(await request.read())
        self.payloads.append(payload)
        if request.headers.get(self.header, "").removeprefix("Bearer ") != KEY:
            return self.wrong_key()
        if any(request.query.get(name) != value for name, value in self.query.items()):
            return web.json_response({"error": {"code": "404", "message": "Resource not found"}}, status=404)
        if payload["model"] != self.model:
            return self.wrong_model()
        for name, value in self.needs.items():
            if payload.get(name) != value:
                return openai_error(
                    400, f"parameter.{name} must be set to {json.dumps(value)}", code="invalid_parameter_error"
                )
        for name, refusal in self.refuses.items():
            if name in payload:
                return refusal()
        body = json.dumps(self.reply(payload)).encode()
        return web.Response(body=self.before + body, content_type="application/json")

    def reply(self, payload: dict[str, Any]) -> dict[str, Any]:
        text, thought = self.text(payload), 0 if self.thinking == "none" else THINKING_TOKENS
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if self.thinking in ("reasoning_content", "reasoning"):
            message[self.thinking] = "Is it 41? No."
        elif self.thinking == "text":
            message["content"] = f"<think>Is it 41? No.</think>\n\n{text}"
        elif self.thinking == "closing tag":
            message["content"] = f"Is it 41? No.\n</think>\n\n{text}"
        return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": self.usage(thought)}

    def text(self, payload: dict[str, Any]) -> str:
        prompt, form = payload["messages"][-1]["content"], payload.get("response_format") or {}
        schema = form.get("schema") if self.structured == "json_object" else form.get("json_schema", {}).get("schema")
        if form.get("type") == self.structured and schema:
            fields = schema["properties"]
            return json.dumps({name: field.get("enum", ["42"])[0] for name, field in fields.items()})
        if "town" in prompt:
            return (
                f"Springfield {random.Random(payload['seed'] if self.seeded and 'seed' in payload else None).random()}"
            )
        if "<verdict>" in prompt:
            return "<feedback>fine</feedback><verdict>correct</verdict>"
        if "<choice>" in prompt:
            return "<choice>A</choice>"
        if "must define" in prompt:
            return "```python\ndef add(a, b):\n    return a + b\n```"
        return "<thought>6 * 7</thought><answer>42</answer><solution>The answer is 42</solution>"

    async def models(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"object": "list", "data": [{"id": self.model, "object": "model"} | self.context]})


def reasoning_apart(thought: int) -> dict[str, Any]:
    """Completion tokens without the reasoning, which only the total counts."""
    total = PROMPT_TOKENS + ANSWER_TOKENS + thought
    return {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": ANSWER_TOKENS, "total_tokens": total}


def with_cost(thought: int) -> dict[str, Any]:
    return {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": ANSWER_TOKENS + thought, "cost": 0.000123}


def with_cache(thought: int) -> dict[str, Any]:
    counts = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": ANSWER_TOKENS + thought}
    return counts | {"prompt_cache_hit_tokens": 16, "prompt_cache_miss_tokens": 4}


PROVIDERS: dict[str, Callable[[], Provider]] = {
    "OpenAI": lambda: Provider(model="gpt-4.1-mini"),
    "OpenAI, reasoning": lambda: Provider(
        model="gpt-5-mini",
        thinking="hidden",
        refuses={
            "max_tokens": lambda: unsupported("max_tokens", "max_completion_tokens"),
            "temperature": lambda: only_default("temperature"),
            "top_p": lambda: unsupported("top_p"),
        },
    ),
    "Azure": lambda: Provider(
        path="/openai/deployments/my-deployment",
        model="my-deployment",
        header="api-key",
        query={"api-version": "2024-10-21"},
        wrong_key=lambda: web.json_response(
            {"error": {"code": "401", "message": "Access denied due to invalid subscription key."}}, status=401
        ),
    ),
    "OpenRouter": lambda: Provider(
        path="/api/v1",
        model="qwen/qwen3-8b",
        thinking="reasoning",
        usage=with_cost,
        before=b": OPENROUTER PROCESSING\n\n",
        context={"context_length": 40960},
    ),
    "Gemini": lambda: Provider(
        path="/v1beta/openai",
        model="gemini-2.5-flash",
        thinking="hidden",
        usage=reasoning_apart,
        refuses={
            "seed": lambda: google_error(400, 'Invalid JSON payload received. Unknown name "seed": Cannot find field.')
        },
        wrong_key=lambda: google_error(400, "API key not valid. Please pass a valid API key."),
    ),
    "Mistral": lambda: Provider(
        model="mistral-small-latest",
        refuses={"seed": lambda: mistral_error("seed")},
        wrong_model=lambda: web.json_response(
            {"object": "error", "message": "Invalid model: no-such-model", "type": "invalid_model", "code": "1500"},
            status=400,
        ),
        context={"max_context_length": 131072},
    ),
    "DeepSeek": lambda: Provider(
        model="deepseek-flash",
        thinking="reasoning_content",
        structured="none",
        seeded=False,
        usage=with_cache,
        refuses={
            "response_format": lambda: openai_error(400, "This response_format type is unavailable now"),
        },
    ),
    "DashScope": lambda: Provider(path="/compatible-mode/v1", model="qwen3-8b", needs={"enable_thinking": False}),
    "Groq": lambda: Provider(
        path="/openai/v1", model="openai/gpt-oss-20b", thinking="reasoning", context={"context_window": 131072}
    ),
    "Together": lambda: Provider(model="Qwen/Qwen3.5-9B", structured="json_object", context={"context_length": 32768}),
    "LiteLLM": lambda: Provider(model="gpt-4.1-mini"),
    "vLLM": lambda: Provider(model="Qwen/Qwen3-8B", thinking="closing tag", context={"max_model_len": 16384}),
    "SGLang": lambda: Provider(model="Qwen/Qwen3-8B", seeded=False, context={"max_model_len": 16384}),
    "llama.cpp": lambda: Provider(model="local", thinking="text"),
    "Ollama": lambda: Provider(model="qwen3:8b", thinking="reasoning"),
}
"""By the name of their section in docs/executors.md."""


@asynccontextmanager
async def serving(provider: Provider) -> AsyncIterator[str]:
    """Serve an imitation; yields its address without the path."""
    app = web.Application()
    app.router.add_post(f"{provider.path}/chat/completions", provider.chat)
    app.router.add_get(f"{provider.path}/models", provider.models)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    finally:
        await runner.cleanup()


__all__ = ["KEY", "KEY_NAME", "PROVIDERS", "Provider", "serving"]
