"""The simulated executor as an OpenAI-compatible application, served in process or over HTTP."""

from __future__ import annotations

import asyncio
import json
import math
import random

import httpx2

from ..llm import SIMULATED, CallCache, ExecutorConfig, LLMClient, Spending
from .executor import Skill, reply

CHARS_PER_TOKEN = 4
"""Rough ratio for English text, from which the usage of a reply is computed."""
MODEL_NAME = "simulated-executor"


class SimulatedApp:
    """
    Answers chat completion requests.

    Args:
        latency_s (`float`, *optional*, defaults to `0.0`):
            Delay of every reply in seconds.
        skill ([`Skill`], *optional*):
            Skill table. Defaults to `configs/simulated_executor.yaml`.
    """

    def __init__(self, *, latency_s: float = 0.0, skill: Skill | None = None) -> None:
        self.latency_s = latency_s
        self.calls = 0
        self._skill = skill

    async def respond(self, payload: object) -> tuple[int, dict[str, object]]:
        """
        Answer a request.

        Args:
            payload (`object`):
                Parsed JSON body of the request.

        Returns:
            `tuple[int, dict[str, object]]`: HTTP status and JSON body.
        """
        self.calls += 1
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        request = payload if isinstance(payload, dict) else {}
        messages = request.get("messages")
        if not isinstance(messages, list) or not messages:
            return 400, {"error": {"message": "messages is required", "type": "invalid_request_error"}}
        contents = [str(message.get("content", "")) for message in messages]
        seed = request.get("seed")
        # Without a seed every reply is a new sample, as from a real endpoint.
        model = str(request.get("model", MODEL_NAME))
        text = reply(contents[-1], random.getrandbits(31) if seed is None else int(seed), self._skill, model)
        usage = {
            "prompt_tokens": math.ceil(sum(map(len, contents)) / CHARS_PER_TOKEN),
            "completion_tokens": math.ceil(len(text) / CHARS_PER_TOKEN),
        }
        return 200, {
            "id": f"sim-{self.calls}",
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"},
            ],
            "usage": usage | {"total_tokens": sum(usage.values())},
        }


def in_process(app: SimulatedApp) -> httpx2.AsyncClient:
    """An HTTP client whose requests the application answers in this process, without a network."""

    async def handle(request: httpx2.Request) -> httpx2.Response:
        status, body = await app.respond(json.loads(request.content))
        return httpx2.Response(status, json=body)

    return httpx2.AsyncClient(transport=httpx2.MockTransport(handle))


def simulated_client(
    config: ExecutorConfig | None = None,
    *,
    app: SimulatedApp | None = None,
    cache: CallCache | None = None,
    spending: Spending | None = None,
) -> LLMClient:
    """
    Client of the simulated executor in this process. It needs neither a key nor a network.

    Args:
        config ([`~aflow_trl.llm.ExecutorConfig`], *optional*):
            Settings of the client. Defaults to those of the simulated executor.
        app ([`SimulatedApp`], *optional*):
            Executor, which several clients may share. Defaults to a new one.
        cache ([`~aflow_trl.llm.CallCache`], *optional*):
            Cache of replies on disk.
        spending ([`~aflow_trl.llm.Spending`], *optional*):
            Ledger that the client adds its costs to.

    Returns:
        [`~aflow_trl.llm.LLMClient`]: A client for an [`~aflow_trl.engine.Engine`].
    """
    served = app or SimulatedApp()
    settings = config or ExecutorConfig(executor_base_url=SIMULATED)
    return LLMClient(settings, lambda: in_process(served), cache, spending)
