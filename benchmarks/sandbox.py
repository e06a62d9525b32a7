"""
Verdicts a second: a trivial solution with three assertions in the sandbox with every layer on, warm, against
`subprocess.run([python, "-I", "-c", ...])` without any, one and eight at a time. Then a thousand runs: growth of
memory and of open files.
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
VERDICTS, ROUNDS = 150, 3


async def sandbox(at_once: int) -> tuple[float, float]:
    """Verdicts a second, and the median latency in seconds."""
    gate, latencies = asyncio.Semaphore(at_once), []

    async def one() -> None:
        async with gate:
            started = time.perf_counter()
            verdict = await run_tests(SOLUTION, TESTS)
            latencies.append(time.perf_counter() - started)
            assert verdict.passed == verdict.total == len(TESTS)

    started = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(VERDICTS)))
    return VERDICTS / (time.perf_counter() - started), statistics.median(latencies)


def bare(at_once: int) -> float:
    """Runs a second of a bare interpreter on solution and tests together."""
    command = [sys.executable, "-I", "-c", "\n".join([SOLUTION, *TESTS])]
    with ThreadPoolExecutor(at_once) as pool:
        started = time.perf_counter()
        list(pool.map(lambda _: subprocess.run(command, check=True), range(VERDICTS)))
        return VERDICTS / (time.perf_counter() - started)


def resident_mib(pid: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def open_files(pid: int) -> int:
    """File descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def growth() -> None:
    """A thousand runs, and what they leave."""
    server = (await fork_server())._process.pid
    await asyncio.gather(*(run("print(1)") for _ in range(100)))
    before = [(resident_mib(pid), open_files(pid)) for pid in (os.getpid(), server)]
    for _ in range(10):
        await asyncio.gather(*(run("print(1)") for _ in range(100)))
    after = [(resident_mib(pid), open_files(pid)) for pid in (os.getpid(), server)]
    for name, (mib, fds), (mib_after, fds_after) in zip(("trainer", "server"), before, after, strict=True):
        print(f"sandbox, 1,000 runs, {name}: {mib_after - mib:+.1f} MiB, {fds_after - fds:+d} open files")


async def main() -> None:
    """Print a line for each measurement."""
    print(f"sandbox: {(await fork_server()).layers}")
    await run_tests(SOLUTION, TESTS)
    for at_once in (1, 8):
        rounds = [(*await sandbox(at_once), bare(at_once)) for _ in range(ROUNDS)]
        ratios = [rate / plain for rate, _, plain in rounds]
        rate, latency_s, plain = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(
            f"sandbox, {at_once} at once: {rate:.0f} verdicts a second, median latency {latency_s * 1000:.1f} ms; "
            f"bare interpreter {plain:.0f} a second; ratio {statistics.median(ratios):.1f}"
        )
    await growth()


if __name__ == "__main__":
    asyncio.run(main())
