"""The simulated executor behind the OpenAI chat protocol: one application, in process or over HTTP."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import httpx2

from ..llm import SIMULATED, CallCache, ExecutorConfig, LLMClient, Spending
from .executor import Skill, reply

CHARS_PER_TOKEN = 4
MODEL_NAME = "simulated-executor"


class SimulatedApp:
    """
    Answers chat completion requests.

    Args:
        latency_s (`float`, *optional*, defaults to `0.0`):
            Seconds every reply takes.
        skill (`Mapping`, *optional*):
            Skill table. Defaults to `configs/simulated_executor.yaml`.
    """

    def __init__(self, *, latency_s: float = 0.0, skill: Skill | None = None) -> None:
        self.latency_s = latency_s
        self.calls = 0
        self._skill = skill

    async def respond(self, payload: Any) -> tuple[int, dict[str, Any]]:
        """HTTP status and body for a request body."""
        self.calls += 1
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        messages = payload.get("messages") if isinstance(payload, dict) else None
        if not isinstance(messages, list) or not messages:
            return 400, {"error": {"message": "messages is required", "type": "invalid_request_error"}}
        prompt = str(messages[-1].get("content", ""))
        seed = payload.get("seed")
        text = reply(prompt, random.getrandbits(31) if seed is None else int(seed), self._skill)
        usage = {
            "prompt_tokens": -(-sum(len(str(m.get("content", ""))) for m in messages) // CHARS_PER_TOKEN),
            "completion_tokens": -(-len(text) // CHARS_PER_TOKEN),
        }
        return 200, {
            "id": f"sim-{self.calls}",
            "object": "chat.completion",
            "created": 0,
            "model": MODEL_NAME,
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"},
            ],
            "usage": usage | {"total_tokens": sum(usage.values())},
        }


def in_process(app: SimulatedApp) -> httpx2.AsyncClient:
    """An HTTP client whose requests never leave the process: the application answers them."""

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
    A client of the simulated executor in this process: no key, no network.

    Args:
        config ([`~aflow_trl.llm.ExecutorConfig`], *optional*):
            Settings of the client.
        app ([`SimulatedApp`], *optional*):
            The executor, which several clients may share.
        cache ([`~aflow_trl.llm.CallCache`], *optional*):
            Replies on disk.
        spending ([`~aflow_trl.llm.Spending`], *optional*):
            What was spent so far.

    Returns:
        [`~aflow_trl.llm.LLMClient`]: To give to an [`~aflow_trl.engine.Engine`].
    """
    served = app or SimulatedApp()
    settings = config or ExecutorConfig(executor_base_url=SIMULATED)
    return LLMClient(settings, lambda: in_process(served), cache, spending)
