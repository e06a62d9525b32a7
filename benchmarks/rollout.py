"""
Execution and scoring of a batch over HTTP: 32 problems with 8 workflows each.

Measures the wall time at 50 and 200 ms per call, without a limit and with 64 and 32 concurrent calls, each beside its
lower bound. Then a repetition from the disk cache, the CPU time per call over loopback, up to 2,000 workflows in
flight, hedging against slow calls, and how much shared calls reduce the variance of reward differences in a group.

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
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import openai
from aiohttp import web
from rich.console import Console
from rich.table import Table

from aflow_trl.data import synthetic_rows
from aflow_trl.engine import Engine, RolloutRequest
from aflow_trl.llm import SIMULATED, CallCache, ExecutorConfig, LLMClient
from aflow_trl.operators import Problem
from aflow_trl.rollouts import Rollouts, RowColumns, ScoredRollout
from aflow_trl.runs import new_figure, save_figure
from aflow_trl.simulator import SimulatedApp, build_server, in_process, simulated_client

PROBLEMS, GROUP, SEED = 32, 8, 0
UNLIMITED = 4_096
"""Maximum number of concurrent calls that no workload here reaches."""
ROUNDS = 3
"""Repetitions of a measurement, of which the median is reported."""
LATENCIES_S = (0.05, 0.2)
CONCURRENCY = (UNLIMITED, 64, 32)
POLL_S = 0.005
"""Seconds between two turns of the watcher of the event loop."""
KEY_NAME = "ROLLOUT_KEY"
"""Environment variable of the API key; the server accepts any."""
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
"""Workflows of the workload and their weights, as a policy in training writes them."""
ROWS = list(itertools.islice(synthetic_rows(SEED, "test"), PROBLEMS))


@dataclass(frozen=True, slots=True)
class Measurement:
    """One execution of the workload."""

    wall_s: float
    gap_s: float
    """Longest time that the event loop kept other tasks waiting."""
    paid_calls: int
    """Model calls made."""
    used_calls: int
    """Model calls that would have been made without sharing."""
    chain_calls: int
    """Maximum number of model calls in sequence in one rollout."""

    def bound_s(self, latency_s: float, limit: int) -> float:
        """Lower bound of the wall time: by the longest chain, or by the number of concurrent calls."""
        return max(self.chain_calls * latency_s, self.paid_calls * latency_s / limit)


def serve(latency_s: float, port_to: Connection) -> None:
    """Serve the simulated executor over HTTP; the entry point of a process."""

    async def work() -> None:
        runner = web.AppRunner(build_server(SimulatedApp(latency_s=latency_s)))
        await runner.setup()
        # The default backlog of 128 would refuse connections when all calls arrive at once.
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4_096)
        await site.start()
        port_to.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(work())


class Server:
    """Context in which a separate process serves the simulated executor; gives its base URL."""

    def __init__(self, latency_s: float) -> None:
        self.latency_s = latency_s

    def __enter__(self) -> str:
        receiver, sender = multiprocessing.Pipe()
        self._process = multiprocessing.Process(target=serve, args=(self.latency_s, sender), daemon=True)
        self._process.start()
        return f"http://127.0.0.1:{receiver.recv()}/v1"

    def __exit__(self, *details: object) -> None:
        self._process.terminate()
        self._process.join()


async def watch_loop(gaps: list[float]) -> None:
    """Append how late each turn of this task came, in seconds, until cancelled."""
    while True:
        started = time.monotonic()
        await asyncio.sleep(POLL_S)
        gaps.append(time.monotonic() - started - POLL_S)


def workload() -> tuple[list[str], list[RowColumns]]:
    """Completions and their rows: workflows drawn from [`MIX`], `GROUP` for each problem."""
    rng = random.Random(SEED)
    pairs = [(rng.choices(list(MIX), list(MIX.values()))[0], row.columns()) for row in ROWS for _ in range(GROUP)]
    return [f"<workflow>{text}</workflow>" for text, _ in pairs], [columns for _, columns in pairs]


def http_client(base_url: str, limit: int, cache: CallCache | None = None) -> LLMClient:
    """A client of the server, with a maximum number of concurrent calls."""
    config = ExecutorConfig(executor_base_url=base_url, executor_api_key_env=KEY_NAME, executor_concurrency=limit)
    return LLMClient(config, cache=cache)


async def measure(base_url: str, limit: int, cache: CallCache | None = None) -> Measurement:
    """Execute and score the workload once."""
    client = http_client(base_url, limit, cache)
    rollouts = Rollouts(Engine(client))
    texts, rows = workload()
    # Opens connections, starts the sandbox and loads the scorers.
    await rollouts.execute(texts[:8], rows[:8], salt="warm-up", phase="", step=0)
    gaps: list[float] = []
    watcher = asyncio.ensure_future(watch_loop(gaps))
    started = time.monotonic()
    batch = await rollouts.execute(texts, rows, salt="measured", phase="", step=0)
    wall_s = time.monotonic() - started
    watcher.cancel()
    await client.aclose()
    assert all(rollout.correctness is not None for rollout in batch)
    return Measurement(
        wall_s,
        max(gaps),
        paid_calls=sum(rollout.trace.paid_calls for rollout in batch),
        used_calls=sum(rollout.trace.model_calls for rollout in batch),
        chain_calls=max(map(calls_in_sequence, batch)),
    )


def calls_in_sequence(rollout: ScoredRollout) -> int:
    """Number of model calls of a rollout that wait for one another."""
    trace = rollout.trace
    # The brackets of MIX hold nothing but Custom, so all of their calls but one run beside another.
    concurrent = sum(node.operator == "Custom" for node in trace.nodes) - 1 if "[" in (trace.workflow or "") else 0
    return trace.model_calls - concurrent


def cpu_per_call(base_url: str, count: int = 1_500) -> tuple[float, float]:
    """CPU milliseconds per call: of `LLMClient`, and of the bare SDK on the same transport."""
    messages = [{"role": "user", "content": "hello"}]

    async def with_client() -> None:
        client = http_client(base_url, 64)
        await asyncio.gather(*(client.complete(messages, seed=seed) for seed in range(count)))
        await client.aclose()

    async def with_sdk() -> None:
        client = openai.AsyncOpenAI(
            base_url=base_url, api_key="k", max_retries=0, http_client=openai.DefaultAioHttpClient()
        )
        gate = asyncio.Semaphore(64)

        async def call(seed: int) -> None:
            async with gate:
                await client.chat.completions.create(
                    model="m",
                    messages=[{"role": "user", "content": "hello"}],
                    temperature=0.7,
                    top_p=1.0,
                    max_tokens=1024,
                    seed=seed,
                )

        await asyncio.gather(*(call(seed) for seed in range(count)))
        await client.close()

    medians = []
    for work in (with_client, with_sdk):
        rounds = []
        for _ in range(ROUNDS):
            before = time.process_time()
            asyncio.run(work())
            rounds.append((time.process_time() - before) / count * 1000)
        medians.append(statistics.median(rounds))
    return medians[0], medians[1]


async def in_flight(base_url: str, count: int) -> tuple[float, float, float]:
    """Wall seconds, growth of memory in MiB and longest gap of the event loop with `count` workflows in flight."""
    client = http_client(base_url, UNLIMITED)
    engine = Engine(client)
    await engine.run([RolloutRequest("Custom", Problem("warm-up"))])
    gaps: list[float] = []
    before_mib = resident_mib()
    watcher = asyncio.ensure_future(watch_loop(gaps))
    started = time.monotonic()
    await engine.run([RolloutRequest("Custom -> Review", Problem(f"question {index}")) for index in range(count)])
    wall_s, growth_mib = time.monotonic() - started, resident_mib() - before_mib
    watcher.cancel()
    await client.aclose()
    return wall_s, growth_mib, max(gaps)


def resident_mib() -> float:
    """Resident memory of this process, in MiB."""
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


async def variance_of_differences(*, shared: bool, steps: int = 12) -> float:
    """Variance of the reward difference of two workflows of a group, with shared or independent randomness."""
    client = simulated_client()
    rollouts, rows = Rollouts(Engine(client)), [row.columns() for row in ROWS]
    differences: list[float] = []
    for step in range(steps):
        rewards = []
        for index, text in enumerate(("Custom", "Custom -> Review ? Revise : done")):
            salt = f"{step}" if shared else f"{step} {index}"
            batch = await rollouts.execute([text] * len(rows), rows, salt=salt, phase="", step=step)
            rewards.append([rollout.correctness or 0.0 for rollout in batch])
        differences += [long - short for short, long in zip(*rewards, strict=True)]
    await client.aclose()
    return statistics.variance(differences)


class HeavyTail(SimulatedApp):
    """A simulated executor one in twenty of whose calls takes ten times as long."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._rng = random.Random(seed)

    async def respond(self, payload: object) -> tuple[int, dict[str, object]]:
        """Reply after 0.2 or 2 seconds."""
        await asyncio.sleep(2.0 if self._rng.random() < 0.05 else 0.2)
        return await super().respond(payload)


async def with_heavy_tail(hedge_after_s: float | None, seed: int) -> tuple[float, int]:
    """Wall seconds and requests of the workload on an endpoint with a heavy tail."""
    app = HeavyTail(seed)
    config = ExecutorConfig(
        executor_base_url=SIMULATED, executor_concurrency=UNLIMITED, executor_hedge_after_s=hedge_after_s
    )
    client = LLMClient(config, http_client=lambda: in_process(app))
    rollouts, (texts, rows) = Rollouts(Engine(client)), workload()
    started = time.monotonic()
    await rollouts.execute(texts, rows, salt="measured", phase="", step=0)
    wall_s = time.monotonic() - started
    await client.aclose()
    return wall_s, client.spending.requests


def plot(bars: Sequence[tuple[str, float, float]], path: Path) -> None:
    """Bars of wall time with their lower bounds, from tuples of label, seconds and bound."""
    figure, axes = new_figure(figsize=(7.5, 3.6))
    positions = range(len(bars))
    axes.barh(positions, [wall_s for _, wall_s, _ in bars], color="#4c78a8", label="measured")
    for position, (_, wall_s, bound_s) in zip(positions, bars, strict=True):
        # A label on the first line only, or the legend would list every one.
        label = "lower bound" if position == 0 else None
        ends = [position - 0.4, position + 0.4]
        axes.plot([bound_s, bound_s], ends, color="#e45756", linewidth=2.5, label=label)
        axes.text(wall_s + 0.02, position, f"{wall_s:.2f} s", va="center", fontsize=9)
    axes.set_yticks(list(positions), [label for label, *_ in bars])
    axes.invert_yaxis()
    axes.set_xlabel("execution and scoring of 256 workflows on 32 problems, seconds")
    axes.set_xlim(0, max(wall_s for _, wall_s, _ in bars) * 1.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right")
    save_figure(figure, path)


def report_wall_time(png: Path) -> None:
    """Table and plot of the wall time by latency and concurrency."""
    table = Table(title="256 workflows on 32 problems over HTTP", title_justify="left")
    headings = ("latency", "concurrency", "seconds", "bound", "ratio", "calls", "unshared", "share", "longest gap")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    bars = []
    for latency_s in LATENCIES_S:
        with Server(latency_s) as base_url:
            for limit in CONCURRENCY:
                rounds = [asyncio.run(measure(base_url, limit)) for _ in range(ROUNDS)]
                median = sorted(rounds, key=lambda measurement: measurement.wall_s)[ROUNDS // 2]
                bound_s = median.bound_s(latency_s, limit)
                latency, name = f"{latency_s * 1000:.0f} ms", "no limit" if limit == UNLIMITED else str(limit)
                bars.append((f"{latency}, {name}", median.wall_s, bound_s))
                table.add_row(
                    latency,
                    name,
                    f"{median.wall_s:.2f}",
                    f"{bound_s:.2f}",
                    f"{median.wall_s / bound_s:.2f}",
                    str(median.paid_calls),
                    str(median.used_calls),
                    f"{median.paid_calls / median.used_calls:.3f}",
                    f"{median.gap_s:.3f} s",
                )
    Console(width=110).print(table)
    plot(bars, png)


def report_cache() -> None:
    """Wall time of the workload without and with its replies on disk."""
    with tempfile.TemporaryDirectory() as folder, Server(0.2) as base_url:
        for label in ("first run", "second run, from the disk cache"):
            cache = CallCache(Path(folder) / "calls.sqlite")
            measurement = asyncio.run(measure(base_url, UNLIMITED, cache))
            cache.close()
            print(f"{label}: {measurement.paid_calls} calls, {measurement.wall_s:.2f} s")


def report_load() -> None:
    """CPU time of a call, and many workflows in flight."""
    with Server(0.0) as base_url:
        client_ms, sdk_ms = cpu_per_call(base_url)
        print(
            f"CPU per call over loopback: {client_ms:.2f} ms, bare SDK {sdk_ms:.2f} ms, ratio {client_ms / sdk_ms:.2f}"
        )
    with Server(0.5) as base_url:
        for count in (500, 1_000, 2_000):
            wall_s, growth_mib, gap_s = asyncio.run(in_flight(base_url, count))
            print(f"{count} workflows in flight: {wall_s:.1f} s, {growth_mib:+.0f} MiB, longest gap {gap_s:.3f} s")


def report_hedging() -> None:
    """Wall time on an endpoint with a heavy tail, without and with hedged requests."""
    for hedge_after_s in (None, 0.4):
        rounds = [asyncio.run(with_heavy_tail(hedge_after_s, seed)) for seed in range(ROUNDS)]
        wall_s, requests = (statistics.median(column) for column in zip(*rounds, strict=True))
        hedge = "no hedge" if hedge_after_s is None else f"hedge after {hedge_after_s} s"
        print(f"5 % of the calls ten times as slow, {hedge}: {wall_s:.2f} s, {requests:.0f} requests")


def report_sharing() -> None:
    """Variance of reward differences with shared and with independent randomness of the executor."""
    shared, independent = (asyncio.run(variance_of_differences(shared=shared)) for shared in (True, False))
    print(
        f"variance of reward differences in a group: {shared:.3f} shared, {independent:.3f} independent "
        f"({shared / independent:.2f})"
    )


def main(png: Path) -> None:
    """Print all measurements."""
    os.environ[KEY_NAME] = "k"
    report_wall_time(png)
    report_cache()
    report_load()
    report_hedging()
    report_sharing()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "rollout.png"))
