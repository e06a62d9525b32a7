"""
Throughput of the sandbox: verdicts per second on a trivial solution with three assertions, warm and with every layer
on, against a bare `subprocess.run([python, "-I", "-c", ...])`, with one and with eight at a time.

Then the growth of memory and open files over a thousand runs.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aflow_trl.sandbox import fork_server, run, run_tests

SOLUTION = "def double(x):\n    return 2 * x"
TESTS = ["assert double(1) == 2", "assert double(2) == 4", "assert double(3) == 6"]
VERDICTS = 150
"""Number of verdicts in a round."""
ROUNDS = 3
BATCH, BATCHES = 100, 10
"""Runs at once, and how often, when growth is measured."""


async def sandbox_rate(concurrency: int) -> tuple[float, float]:
    """Verdicts per second, and the median latency in seconds."""
    gate = asyncio.Semaphore(concurrency)
    latencies: list[float] = []

    async def test() -> None:
        async with gate:
            started = time.perf_counter()
            verdict = await run_tests(SOLUTION, TESTS)
            latencies.append(time.perf_counter() - started)
            assert verdict.passed == verdict.total == len(TESTS)

    started = time.perf_counter()
    await asyncio.gather(*(test() for _ in range(VERDICTS)))
    return VERDICTS / (time.perf_counter() - started), statistics.median(latencies)


def bare_rate(concurrency: int) -> float:
    """Runs per second of a bare interpreter on solution and tests together."""
    command = [sys.executable, "-I", "-c", "\n".join([SOLUTION, *TESTS])]
    with ThreadPoolExecutor(concurrency) as pool:
        started = time.perf_counter()
        list(pool.map(lambda _: subprocess.run(command, check=True), range(VERDICTS)))
        return VERDICTS / (time.perf_counter() - started)


def resident_mib(pid: int) -> float:
    """Resident memory of a process, in MiB."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def open_files(pid: int) -> int:
    """Number of open file descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def print_growth() -> None:
    """Print the growth of memory and open files of this process and the fork server over many runs."""
    server = (await fork_server())._process.pid
    processes = {"trainer": os.getpid(), "server": server}
    # The first batch fills pools and caches, which is no leak.
    await asyncio.gather(*(run("print(1)") for _ in range(BATCH)))
    before = {name: (resident_mib(pid), open_files(pid)) for name, pid in processes.items()}
    for _ in range(BATCHES):
        await asyncio.gather(*(run("print(1)") for _ in range(BATCH)))
    for name, pid in processes.items():
        mib, files = before[name]
        growth = f"{resident_mib(pid) - mib:+.1f} MiB, {open_files(pid) - files:+d} open files"
        print(f"sandbox, {BATCH * BATCHES:,} runs, {name}: {growth}")


async def main() -> None:
    """Print a line for each measurement."""
    print(f"sandbox: {(await fork_server()).layers}")
    await run_tests(SOLUTION, TESTS)
    for concurrency in (1, 8):
        # Both sides in turn, so that they meet the same noise.
        rounds = [(*await sandbox_rate(concurrency), bare_rate(concurrency)) for _ in range(ROUNDS)]
        ratio = statistics.median(rate / bare for rate, _, bare in rounds)
        rate, latency_s, bare = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(
            f"sandbox, {concurrency} at a time: {rate:.0f} verdicts per second, median latency "
            f"{latency_s * 1000:.1f} ms; bare interpreter {bare:.0f} per second; ratio {ratio:.1f}"
        )
    await print_growth()


if __name__ == "__main__":
    asyncio.run(main())
