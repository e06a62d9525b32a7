"""A scripted executor behind a real local HTTP server, and a random tiny model for trainer tests."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from hypothesis import settings

from aflow_trl.engine import Engine
from aflow_trl.llm import ExecutorConfig, LLMClient

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Before torch is loaded: threads that wait actively for each other take ten times as long where workers share cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Read when trackio is imported.
os.environ["TRACKIO_DIR"] = tempfile.mkdtemp(prefix="trackio-")
KEY_NAME = "AFLOW_TEST_KEY"
os.environ[KEY_NAME] = "sk-planted-secret-0123456789"

Script = Callable[[str, int], Any]


# Time says nothing about a property: a busy machine may take a second for an example.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: several workers end at about the same time."""
    slow_tests = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow_tests[item.path])


class ScriptedEndpoint:
    """Answers chat completions by a script `(prompt, call number) -> text or aiohttp response`, and keeps the calls."""

    def __init__(self) -> None:
        self.script: Script = lambda prompt, number: f"reply {number}"
        self.payloads: list[dict[str, Any]] = []
        self.base_url = ""
        self.clients: list[LLMClient] = []

    @property
    def prompts(self) -> list[str]:
        return [payload["messages"][-1]["content"] for payload in self.payloads]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        payload = json.loads(await request.read())
        self.payloads.append(payload)
        answer = self.script(payload["messages"][-1]["content"], len(self.payloads))
        if hasattr(answer, "__await__"):
            answer = await answer
        return answer if isinstance(answer, web.StreamResponse) else chat_response(answer)

    def client(self, **overrides: Any) -> LLMClient:
        options = {
            "executor_base_url": self.base_url,
            "executor_api_key_env": KEY_NAME,
            "executor_call_timeout_s": 10.0,
            "executor_input_usd_per_mtok": 1.0,
            "executor_output_usd_per_mtok": 2.0,
        }
        self.clients.append(LLMClient(ExecutorConfig(**(options | overrides))))
        return self.clients[-1]

    def engine(self, **options: Any) -> Engine:
        return Engine(self.client(), **options)

    def engine_of_short_calls(self) -> Engine:
        """An engine that gives a failing endpoint up soon."""
        return Engine(self.client(executor_call_timeout_s=0.3))


def chat_response(text: Any, *, finish_reason: str = "stop", **extra: Any) -> web.Response:
    """A well-formed chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    return web.json_response({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage} | extra)


@pytest_asyncio.fixture
async def endpoint() -> AsyncIterator[ScriptedEndpoint]:
    scripted = ScriptedEndpoint()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", scripted.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    scripted.base_url = f"http://127.0.0.1:{port}/v1"
    yield scripted
    for client in scripted.clients:
        await client.aclose()
    await runner.cleanup()


def operator_script(**replies: str | list[str]) -> Script:
    """Script that recognises the asking operator by its prompt; a list is used up one reply a call."""
    from aflow_trl.simulator import recognize

    queues = {name: list(value) if isinstance(value, list) else value for name, value in replies.items()}

    def script(prompt: str, number: int) -> str:
        name, _ = recognize(prompt)
        reply = queues[name]
        return reply.pop(0) if isinstance(reply, list) else reply

    return script


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random 2-layer model with a tokenizer and a chat template; nothing is trained."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny-model"), hidden_size=32)


def save_tiny_model(folder: Path, hidden_size: int) -> Path:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from aflow_trl.policies.tiny import build_tokenizer

    tokenizer = build_tokenizer(["<workflow>Custom -> Review ? Revise : done</workflow> What is 6 * 7?"])
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
