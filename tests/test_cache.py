"""A call that has been paid for is not paid for again: by another step, run or process, or after a kill."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from aflow_trl.engine import Engine, RolloutRequest
from aflow_trl.errors import RejectedRequestError
from aflow_trl.llm import CallCache, Completion, Usage
from aflow_trl.llm.cache import _STORE, _checksum, _serialize, _Write
from aflow_trl.operators import Problem
from conftest import ScriptedEndpoint, chat_response
from fault_server import FaultServer, chat, error, late, reply

MESSAGES = [{"role": "user", "content": "hello"}]
GOOD = Completion("42", "stop", Usage(10, 5))


async def fill(cache: CallCache, keys: list[str], text: str = "x" * 100) -> None:
    await asyncio.gather(*(cache.put(key, Completion(text, "stop", Usage(1, 1))) for key in keys))


async def test_second_call_is_not_sent(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    replies = []
    for _ in range(2):  # two runs: two clients, two caches on one file
        client = endpoint.client()
        client.cache = CallCache(tmp_path / "c.sqlite")
        replies.append(await client.complete(MESSAGES, seed=1))
    assert len(endpoint.payloads) == 1
    assert [completion.cached for completion in replies] == [False, True]
    assert replies[0].text == replies[1].text and replies[0].usage == replies[1].usage
    assert client.spending.usd == 0.0


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"temperature": 0.1},
        {"executor_model": "other"},
        {"executor_max_tokens": 7},
        {"executor_top_p": 0.5},
        {"content": "other"},
    ],
)
async def test_everything_a_reply_depends_on_is_in_the_key(
    change: dict[str, Any], endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    cache = CallCache(tmp_path / "c.sqlite")
    base = {"seed": 1, "temperature": 0.7}
    for options in (base, base | change):
        client = endpoint.client(**{name: value for name, value in options.items() if name.startswith("executor")})
        client.cache = cache
        messages = [{"role": "user", "content": options.get("content", "hello")}]
        await client.complete(messages, seed=options["seed"], temperature=options["temperature"])
    assert len(endpoint.payloads) == 2


async def test_greedy_calls_are_shared_across_steps(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    client = endpoint.client(executor_temperature=0.0)
    client.cache = CallCache(tmp_path / "c.sqlite")
    engine = Engine(client)
    for step in range(3):
        await engine.run([RolloutRequest("Custom -> Custom", Problem("q"))], salt=f"step {step}")
    assert len(endpoint.payloads) == 2


@pytest.mark.parametrize(
    "answer",
    [
        lambda: chat_response("half", finish_reason="length"),
        lambda: chat_response("", finish_reason="content_filter"),
        lambda: chat_response("so", finish_reason="content_filter"),
        lambda: chat_response(""),
    ],
)
async def test_truncated_or_refused_reply_is_never_stored(
    answer: Callable[[], web.Response], endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    endpoint.script = lambda prompt, number: answer()
    client = endpoint.client()
    client.cache = CallCache(tmp_path / "c.sqlite")
    for _ in range(2):
        await client.complete(MESSAGES, seed=1)
    assert len(endpoint.payloads) >= 2 and client.cache.stats().replies == 0


async def test_rejected_request_is_never_stored(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    async with FaultServer(lambda number: error(413) if number == 1 else reply(chat())) as server:
        client = endpoint.client(executor_base_url=server.base_url)
        client.cache = CallCache(tmp_path / "c.sqlite")
        with pytest.raises(RejectedRequestError):
            await client.complete(MESSAGES, seed=1)
        assert (await client.complete(MESSAGES, seed=1)).text == "42"


async def test_ping_bypasses_the_cache(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    client = endpoint.client()
    client.cache = CallCache(tmp_path / "c.sqlite")
    for _ in range(2):
        await client.ping()
    assert len(endpoint.payloads) == 2


async def test_cached_rollout_is_equal_but_free(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    client = endpoint.client()
    client.cache = CallCache(tmp_path / "c.sqlite")
    (first,), (second,) = [
        await Engine(client).run([RolloutRequest("[Custom, Custom] -> ScEnsemble -> Revise", Problem("q"))], salt="s")
        for _ in range(2)
    ]
    assert (first.answer, first.model_calls, first.tokens, first.usd) == (
        second.answer,
        second.model_calls,
        second.tokens,
        second.usd,
    )
    assert first.paid_calls == first.model_calls and second.paid_calls == 0
    assert second.paid_usd == 0.0 and first.paid_usd > 0


# -- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        "reply = SUBSTR(reply, 1, 20)",
        "reply = ''",
        "checksum = 'x'",
        "reply = REPLACE(reply, '42', '43')",
        "reply = X'FF00'",
    ],
)
async def test_damaged_reply_is_a_miss(damage: str, tmp_path: Path) -> None:
    cache = CallCache(tmp_path / "c.sqlite")
    await cache.put("key", GOOD)
    with sqlite3.connect(cache.path) as connection:
        connection.execute(f"UPDATE replies SET {damage}")
    assert cache.get("key") is None
    await cache.put("key", GOOD)
    assert cache.get("key").text == "42"


async def test_verify_deletes_damaged_replies(tmp_path: Path) -> None:
    cache = CallCache(tmp_path / "c.sqlite")
    await fill(cache, [f"k{n}" for n in range(10)])
    with sqlite3.connect(cache.path) as connection:
        connection.execute("UPDATE replies SET checksum = 'x' WHERE key IN ('k1', 'k2')")
    assert (cache.verify(), cache.stats().replies, cache.verify()) == (2, 8, 0)


@pytest.mark.parametrize("content", [b"this is no database", b"", b"SQLite format 3\0" + b"\xff" * 5000])
async def test_file_that_is_not_a_cache_is_set_aside(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    path.write_bytes(content)
    cache = CallCache(path)
    await cache.put("key", GOOD)
    assert cache.get("key").text == "42"
    set_aside = list(tmp_path.glob("c.damaged-*"))
    assert [file.read_bytes() for file in set_aside] == ([content] if content else [])


# -- size ------------------------------------------------------------------------------------------------------------


async def test_pruning_evicts_the_least_recently_used_first(tmp_path: Path) -> None:
    cache = CallCache(tmp_path / "c.sqlite")
    await fill(cache, [f"k{n}" for n in range(100)])
    size = cache.stats().bytes
    with sqlite3.connect(cache.path) as connection:
        connection.execute("UPDATE replies SET used = CAST(SUBSTR(key, 2) AS REAL)")
    evicted = cache.prune(size // 2)
    assert cache.stats().bytes <= size // 2 and 49 <= evicted <= 52
    assert cache.get("k0") is None and cache.get("k99") is not None


async def test_reading_counts_as_use(tmp_path: Path) -> None:
    cache = CallCache(tmp_path / "c.sqlite")
    await fill(cache, ["old", "new"])
    with sqlite3.connect(cache.path) as connection:
        connection.execute("UPDATE replies SET used = CASE key WHEN 'old' THEN 1 ELSE 2 END")
    cache.get("old")
    cache.close()
    cache.prune(cache.stats().bytes - 1)
    assert cache.get("old") is not None and cache.get("new") is None


async def test_writes_respect_the_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aflow_trl.llm.cache.PRUNE_EVERY", 10)
    cache = CallCache(tmp_path / "c.sqlite", max_bytes=5_000)
    for start in range(0, 200, 10):
        await fill(cache, [f"k{n}" for n in range(start, start + 10)])
    assert cache.stats().bytes < 8_000 and cache.get("k199") is not None


# -- the writer thread -----------------------------------------------------------------------------------------------


def test_close_right_after_the_first_put_does_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer still has to open the file when `close` waits for it."""

    def open_slowly(self: CallCache) -> None:
        time.sleep(0.2)  # delays the writer until `close` waits
        opened(self)

    opened = CallCache._open_or_set_aside
    monkeypatch.setattr(CallCache, "_open_or_set_aside", open_slowly)
    cache = CallCache(tmp_path / "c.sqlite")
    row = ("key", _serialize(GOOD), _checksum(_serialize(GOOD)), time.time())
    cache._enqueue(_Write(_STORE, row, None))
    closer = threading.Thread(target=cache.close, daemon=True)
    closer.start()
    closer.join(timeout=5)
    assert not closer.is_alive()
    assert CallCache(cache.path).get("key") is not None


async def test_cache_can_be_used_again_after_close(tmp_path: Path) -> None:
    cache = CallCache(tmp_path / "c.sqlite")
    for key in ("first", "second"):
        await cache.put(key, GOOD)
        cache.close()
    assert cache.stats().replies == 2


async def test_put_returns_even_if_the_file_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    await asyncio.wait_for(CallCache(tmp_path / "file" / "c.sqlite").put("key", GOOD), timeout=5)


# -- processes -------------------------------------------------------------------------------------------------------


def write_many(path: Path, name: str) -> None:
    cache = CallCache(path)
    asyncio.run(fill(cache, [f"{name} {n}" for n in range(300)]))
    assert all(cache.get(f"{name} {n}") is not None for n in range(300))


def test_many_processes_write_one_cache(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write_many, args=(path, str(n))) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert CallCache(path).stats().replies == 900


PROGRAM = """
import asyncio, sys
from aflow_trl.engine import Engine, RolloutRequest
from aflow_trl.llm import CallCache, ExecutorConfig, LLMClient
from aflow_trl.operators import Problem

async def main(url, path):
    client = LLMClient(ExecutorConfig(executor_base_url=url, executor_api_key_env="KEY", executor_concurrency=4), cache=CallCache(path))
    requests = [RolloutRequest("Custom -> Custom -> Custom", Problem(f"question {n}")) for n in range(40)]
    traces = await Engine(client).run(requests, salt="s")
    print(sum(trace.paid_calls for trace in traces), [trace.answer for trace in traces])

asyncio.run(main(*sys.argv[1:]))
"""


async def test_killed_run_pays_for_no_reply_twice(tmp_path: Path) -> None:
    """Killed at several moments; a reply that was stored is never requested again."""
    answered: list[bytes] = []
    async with FaultServer(lambda number: late(reply(chat(f"answer {number}")), 0.02)) as server:
        read = server._read

        async def remember(reader):
            body = await read(reader)
            if body:
                answered.append(body)
            return body

        server._read = remember
        command = [sys.executable, "-c", PROGRAM, server.base_url, str(tmp_path / "c.sqlite")]
        for _ in range(3):
            process = await asyncio.create_subprocess_exec(
                *command, env={**os.environ, "KEY": "k"}, stderr=subprocess.DEVNULL
            )
            target = len(answered) + 25
            while len(answered) < target:
                await asyncio.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            await process.wait()
        process = await asyncio.create_subprocess_exec(
            *command, env={**os.environ, "KEY": "k"}, stdout=subprocess.PIPE
        )
        output, _ = await process.communicate()
    assert process.returncode == 0
    # Only what was not yet on disk at a kill is sent again: at most 4 calls in flight, and 4 replies being written.
    assert len(set(answered)) == 120 and len(answered) <= 120 + 3 * 8
    again = await asyncio.create_subprocess_exec(*command, env={**os.environ, "KEY": "k"}, stdout=subprocess.PIPE)
    repeated, _ = await again.communicate()
    assert repeated.decode().split(" ", 1)[0] == "0" and repeated.split(b" ", 1)[1] == output.split(b" ", 1)[1]


def test_cache_command(tmp_path: Path) -> None:
    cache = CallCache(tmp_path / "c.sqlite")
    asyncio.run(fill(cache, [f"k{n}" for n in range(10)]))
    with sqlite3.connect(cache.path) as connection:
        connection.execute("UPDATE replies SET checksum = 'x' WHERE key = 'k1'")

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "aflow_trl.cli", "cache", *arguments], capture_output=True, text=True
        )

    assert "10 replies" in command("stats", str(cache.path)).stdout
    assert "1" in command("verify", str(cache.path)).stdout.split()
    assert cache.stats().replies == 9
    assert "9" in command("prune", str(cache.path), "--max-mb", "0").stdout.split()
    assert cache.stats().replies == 0
    missing = command("stats", str(tmp_path / "no.sqlite"))
    assert missing.returncode == 2 and "no.sqlite" in missing.stderr


async def test_reply_with_other_fields_is_a_miss(tmp_path: Path) -> None:
    cache = CallCache(tmp_path / "c.sqlite")
    await cache.put("key", GOOD)
    reply = '{"text": "42"}'
    with sqlite3.connect(cache.path) as connection:
        connection.execute("UPDATE replies SET reply = ?, checksum = ?", (reply, _checksum(reply)))
    assert cache.get("key") is None


# -- leases ----------------------------------------------------------------------------------------------------------

TWO_PROCESSES = """
import asyncio, sys
from pathlib import Path
from aflow_trl.llm import CallCache, ExecutorConfig, LLMClient

async def main(base_url, path, calls):
    client = LLMClient(ExecutorConfig(executor_base_url=base_url), cache=CallCache(Path(path)))
    messages = [[{"role": "user", "content": f"question {n}"}] for n in range(int(calls))]
    replies = await asyncio.gather(*(client.complete(message, seed=0) for message in messages))
    await client.aclose()
    print(client.spending.requests, sum(reply.cached for reply in replies), len(replies))

asyncio.run(main(*sys.argv[1:]))
"""


async def start(base_url: str, path: Path, calls: int) -> asyncio.subprocess.Process:
    arguments = [sys.executable, "-c", TWO_PROCESSES, base_url, str(path), str(calls)]
    return await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)


def slowly(seconds: float) -> Any:
    async def answer(prompt: str) -> str:
        await asyncio.sleep(seconds)
        return f"reply to {prompt}"

    return lambda prompt, number: answer(prompt)


async def test_two_processes_pay_once_for_what_both_ask(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.script = slowly(0.5)
    processes = [await start(endpoint.base_url, tmp_path / "c.sqlite", 20) for _ in range(2)]
    outputs = [(await process.communicate())[0].split() for process in processes]
    assert len(endpoint.payloads) == 20 == sum(int(requests) for requests, _, _ in outputs)
    assert sum(int(cached) for _, cached, _ in outputs) == 20


async def test_lease_of_a_killed_process_is_taken_over(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.script = lambda prompt, number: silence() if number == 1 else "42"
    path = tmp_path / "c.sqlite"

    async def silence() -> str:
        await asyncio.sleep(60)
        return ""

    process = await start(endpoint.base_url, path, 1)
    while not endpoint.payloads:
        await asyncio.sleep(0.05)
    process.kill()
    await process.wait()
    client = endpoint.client()
    client.cache = CallCache(path)
    message = [{"role": "user", "content": "question 0"}]
    begin = time.monotonic()
    assert (await client.complete(message, seed=0)).text == "42"
    assert time.monotonic() - begin < 5


async def test_equal_calls_at_once_are_made_once(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.script = slowly(0.1)
    client = endpoint.client()
    client.cache = CallCache(tmp_path / "c.sqlite")
    message = [{"role": "user", "content": "x"}]
    replies = await asyncio.gather(*(client.complete(message, seed=0) for _ in range(8)))
    assert len(endpoint.payloads) == 1 and len({reply.text for reply in replies}) == 1


async def test_reply_that_is_not_stored_makes_nobody_wait_in_turn(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    async def cut() -> Any:
        await asyncio.sleep(0.3)
        return chat_response("4", finish_reason="length")

    endpoint.script = lambda prompt, number: cut()
    client = endpoint.client()
    client.cache = CallCache(tmp_path / "c.sqlite")
    begin = time.monotonic()
    await asyncio.gather(*(client.complete([{"role": "user", "content": "x"}], seed=0) for _ in range(6)))
    assert len(endpoint.payloads) == 6 and time.monotonic() - begin < 1.5


async def test_failed_call_releases_its_lease(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    cache = CallCache(tmp_path / "c.sqlite")
    with pytest.raises(RuntimeError):
        async with cache.lease("key", 60) as stored:
            assert stored is None
            raise RuntimeError
    async with cache.lease("key", 60) as stored:
        assert stored is None
    cache.close()
    assert sqlite3.connect(cache.path).execute("SELECT COUNT(*) FROM leases").fetchone() == (0,)
