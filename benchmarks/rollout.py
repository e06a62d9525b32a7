"""
Rollout and reward of a batch over HTTP: 32 problems with 8 workflows each, at 50 and 200 ms a call, without a limit
and with 64 and 32 calls at once; beside each figure its bound. Then the same again from the disk cache, the CPU a call
takes over the loopback client, 2,000 workflows in flight, and how sharing sharpens differences inside a group.

    python benchmarks/rollout.py [PNG]
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import openai
from aiohttp import web
from rich.console import Console
from rich.table import Table

from aflow_trl.data import synthetic_rows
from aflow_trl.engine import Engine, RolloutRequest
from aflow_trl.llm import CallCache, ExecutorConfig, LLMClient
from aflow_trl.operators import Problem
from aflow_trl.rollouts import Rollouts, ScoredRollout
from aflow_trl.simulator import SimulatedApp, in_process
from aflow_trl.simulator.server import build_server

PROBLEMS, GROUP, SEED = 32, 8, 0
UNLIMITED = 4_096
MIX = {
    "Custom -> Programmer -> Review ? Revise : done": 35,
    "Custom -> Programmer -> Review -> Revise": 21,
    "Programmer": 14,
    "Custom -> Programmer": 7,
    "Custom -> Programmer -> Review": 6,
    "Programmer -> Review ? Revise : done": 4,
    "Custom": 3,
    "[Custom, Custom, Custom] -> ScEnsemble": 4,
    "[Custom, Custom, Custom] -> ScEnsemble -> Review": 3,
    "Custom -> (Review -> Revise) * 2": 3,
}
ROWS = list(itertools.islice(synthetic_rows(SEED, "test"), PROBLEMS))


def serve(latency_s: float, port_to: Connection) -> None:
    """The simulated executor in a process of its own."""

    async def main() -> None:
        runner = web.AppRunner(build_server(SimulatedApp(latency_s=latency_s)))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4_096)
        await site.start()
        port_to.send(site._server.sockets[0].getsockname()[1])
        await asyncio.Event().wait()

    asyncio.run(main())


class Server:
    """Context of a simulated executor over HTTP."""

    def __init__(self, latency_s: float) -> None:
        self.latency_s = latency_s

    def __enter__(self) -> str:
        here, there = multiprocessing.Pipe()
        self._process = multiprocessing.Process(target=serve, args=(self.latency_s, there), daemon=True)
        self._process.start()
        return f"http://127.0.0.1:{here.recv()}/v1"

    def __exit__(self, *details: object) -> None:
        self._process.terminate()
        self._process.join()


async def longest_gap(gaps: list[float]) -> None:
    """How long the event loop let others wait."""
    while True:
        started = time.monotonic()
        await asyncio.sleep(0.005)
        gaps.append(time.monotonic() - started - 0.005)


def batch() -> tuple[list[str], list[dict[str, Any]]]:
    """The workload: workflows and rows, side by side."""
    dice = random.Random(SEED)
    drawn = [(dice.choices(list(MIX), list(MIX.values()))[0], row.columns()) for row in ROWS for _ in range(GROUP)]
    return [f"<workflow>{text}</workflow>" for text, _ in drawn], [columns for _, columns in drawn]


def client_of(base_url: str, limit: int, **options: Any) -> LLMClient:
    """A client of the server."""
    config = ExecutorConfig(executor_base_url=base_url, executor_api_key_env="ROLLOUT_KEY", executor_concurrency=limit)
    return LLMClient(config, **options)


async def measure(base_url: str, limit: int, cache: CallCache | None = None, salt: str = "s") -> dict[str, float]:
    """Run and score the workload once."""
    client = client_of(base_url, limit, cache=cache)
    rollouts = Rollouts(Engine(client))
    texts, rows = batch()
    await rollouts.execute(texts[:8], rows[:8], salt="warm", phase="", step=0)  # connections, sandbox, scorers
    gaps: list[float] = []
    watcher = asyncio.ensure_future(longest_gap(gaps))
    started = time.monotonic()
    scored = await rollouts.execute(texts, rows, salt=salt, phase="", step=0)
    wall_s = time.monotonic() - started
    watcher.cancel()
    await client.aclose()
    assert all(one.correctness is not None for one in scored)
    return {"wall_s": wall_s, "gap_s": max(gaps), **counts(scored)}


def counts(scored: list[ScoredRollout]) -> dict[str, float]:
    """Calls made, calls without sharing, and the longest chain of calls in any rollout."""
    traces = [one.trace for one in scored]
    parallel = [
        sum(node.operator == "Custom" for node in t.nodes) - 1 if "[" in (t.workflow or "") else 0 for t in traces
    ]
    chains = [trace.model_calls - beside for trace, beside in zip(traces, parallel, strict=True)]
    return {
        "paid": sum(trace.paid_calls for trace in traces),
        "used": sum(trace.model_calls for trace in traces),
        "chain": max(chains),
    }


def cpu_of_calls(base_url: str, count: int = 1_500) -> tuple[float, float]:
    """CPU milliseconds a call: ours, and the bare SDK on the same transport."""
    messages = [{"role": "user", "content": "hello"}]

    async def ours() -> None:
        client = client_of(base_url, 64)
        await asyncio.gather(*(client.complete(messages, seed=n) for n in range(count)))
        await client.aclose()

    async def bare() -> None:
        client = openai.AsyncOpenAI(
            base_url=base_url, api_key="k", max_retries=0, http_client=openai.DefaultAioHttpClient()
        )
        gate = asyncio.Semaphore(64)

        async def call(number: int) -> None:
            async with gate:
                await client.chat.completions.create(
                    model="m", messages=messages, temperature=0.7, top_p=1.0, max_tokens=1024, seed=number
                )

        await asyncio.gather(*(call(n) for n in range(count)))
        await client.close()

    figures = []
    for work in (ours, bare):
        rounds = []
        for _ in range(3):
            before = time.process_time()
            asyncio.run(work())
            rounds.append((time.process_time() - before) / count * 1000)
        figures.append(statistics.median(rounds))
    return figures[0], figures[1]


async def in_flight(base_url: str, count: int) -> tuple[float, float, float]:
    """Wall seconds, MiB of growth and the longest gap with so many workflows in flight."""
    client = client_of(base_url, UNLIMITED)
    engine = Engine(client)
    await engine.run([RolloutRequest("Custom", Problem("warm"))])
    before, gaps = resident_mib(), []
    watcher = asyncio.ensure_future(longest_gap(gaps))
    started = time.monotonic()
    await engine.run([RolloutRequest("Custom -> Review", Problem(f"question {n}")) for n in range(count)])
    wall_s, grown = time.monotonic() - started, resident_mib() - before
    watcher.cancel()
    await client.aclose()
    return wall_s, grown, max(gaps)


def resident_mib() -> float:
    """Resident memory of this process."""
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


async def differences(shared: bool, steps: int = 12) -> float:
    """Variance of the reward difference of two workflows of one group, with shared or independent randomness."""
    client = LLMClient(ExecutorConfig(executor_base_url="simulated"), http_client=lambda: in_process(SimulatedApp()))
    rollouts, rows = Rollouts(Engine(client)), [row.columns() for row in ROWS]
    found: list[float] = []
    for step in range(steps):
        pair = []
        for index, text in enumerate(("Custom", "Custom -> Review ? Revise : done")):
            salt = f"{step}" if shared else f"{step} {index}"
            scored = await rollouts.execute([text] * len(rows), rows, salt=salt, phase="", step=step)
            pair.append([one.correctness or 0.0 for one in scored])
        found += [right - left for left, right in zip(*pair, strict=True)]
    await client.aclose()
    return statistics.variance(found)


class HeavyTail(SimulatedApp):
    """A simulated executor of which every twentieth call takes ten times as long."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._dice = random.Random(seed)

    async def respond(self, payload: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        await asyncio.sleep(2.0 if self._dice.random() < 0.05 else 0.2)
        return await super().respond(payload)


async def hedged(hedge_after_s: float | None, seed: int) -> tuple[float, int]:
    """Wall seconds and requests of the workload on an endpoint with a heavy tail."""
    app = HeavyTail(seed)
    config = ExecutorConfig(
        executor_base_url="simulated", executor_concurrency=UNLIMITED, executor_hedge_after_s=hedge_after_s
    )
    client = LLMClient(config, http_client=lambda: in_process(app))
    rollouts, (texts, rows) = Rollouts(Engine(client)), batch()
    started = time.monotonic()
    await rollouts.execute(texts, rows, salt="s", phase="", step=0)
    wall_s = time.monotonic() - started
    await client.aclose()
    return wall_s, client.spending.requests


def plot(rows: list[tuple[str, float, float]], path: Path) -> None:
    """Bars of wall time with their bounds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 3.6), layout="constrained")
    places = range(len(rows))
    axes.barh(places, [wall for _, wall, _ in rows], color="#4c78a8", label="measured")
    for place, (_, wall, bound) in zip(places, rows, strict=True):
        axes.plot(
            [bound, bound],
            [place - 0.4, place + 0.4],
            color="#e45756",
            linewidth=2.5,
            label="bound" if place == 0 else None,
        )
        axes.text(wall + 0.02, place, f"{wall:.2f} s", va="center", fontsize=9)
    axes.set_yticks(list(places), [name for name, _, _ in rows])
    axes.invert_yaxis()
    axes.set_xlabel("rollout and reward of 256 workflows on 32 problems, seconds")
    axes.set_xlim(0, max(wall for _, wall, _ in rows) * 1.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right")
    figure.savefig(path, dpi=150)


def main(png: Path) -> None:
    """Print every figure and draw the first table."""
    os.environ["ROLLOUT_KEY"] = "k"
    table, bars = Table(title="256 workflows on 32 problems over HTTP", title_justify="left"), []
    for heading in (
        "latency",
        "at once",
        "seconds",
        "bound",
        "ratio",
        "calls",
        "without sharing",
        "share",
        "longest gap",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for latency_s in (0.05, 0.2):
        with Server(latency_s) as base_url:
            for limit in (UNLIMITED, 64, 32):
                rounds = [asyncio.run(measure(base_url, limit)) for _ in range(3)]
                one = sorted(rounds, key=lambda row: row["wall_s"])[1]
                bound = max(one["chain"] * latency_s, one["paid"] * latency_s / limit)
                name = "no limit" if limit == UNLIMITED else str(limit)
                bars.append((f"{latency_s * 1000:.0f} ms, {name}", one["wall_s"], bound))
                cells = (
                    f"{latency_s * 1000:.0f} ms",
                    name,
                    f"{one['wall_s']:.2f}",
                    f"{bound:.2f}",
                    f"{one['wall_s'] / bound:.2f}",
                )
                shares = (
                    f"{one['paid']:.0f}",
                    f"{one['used']:.0f}",
                    f"{one['paid'] / one['used']:.3f}",
                    f"{one['gap_s']:.3f} s",
                )
                table.add_row(*cells, *shares)
    Console(width=110).print(table)
    plot(bars, png)
    with tempfile.TemporaryDirectory() as folder, Server(0.2) as base_url:
        for name in ("first run", "second run, from the disk cache"):
            cache = CallCache(Path(folder) / "calls.sqlite")
            one = asyncio.run(measure(base_url, UNLIMITED, cache))
            cache.close()
            print(f"{name}: {one['paid']:.0f} calls, {one['wall_s']:.2f} s")
    with Server(0.0) as base_url:
        ours, bare = cpu_of_calls(base_url)
        print(f"CPU a call over loopback: {ours:.2f} ms, bare SDK {bare:.2f} ms, ratio {ours / bare:.2f}")
    with Server(0.5) as base_url:
        for count in (500, 1_000, 2_000):
            wall_s, grown, gap_s = asyncio.run(in_flight(base_url, count))
            print(f"{count} workflows in flight: {wall_s:.1f} s, {grown:+.0f} MiB, longest gap {gap_s:.3f} s")
    for hedge_after_s in (None, 0.4):
        rounds = [asyncio.run(hedged(hedge_after_s, seed)) for seed in range(3)]
        wall_s, requests = (statistics.median(column) for column in zip(*rounds, strict=True))
        hedge = "no hedge" if hedge_after_s is None else f"hedge after {hedge_after_s} s"
        print(f"5 % of the calls ten times as slow, {hedge}: {wall_s:.2f} s, {requests:.0f} requests")
    shared, independent = asyncio.run(differences(True)), asyncio.run(differences(False))
    print(
        f"variance of reward differences in a group: {shared:.3f} shared, {independent:.3f} independent "
        f"({shared / independent:.2f})"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "rollout.png"))
