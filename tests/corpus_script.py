"""
Runs the corpus as the current user with the current interpreter, and prints the result of each program as JSON.

    python corpus_script.py VICTIM HOME LANDLOCK TMPFS

LANDLOCK is the version of its ABI to use at most, 0 to act as if there were none; TMPFS is 1 to mount scratch folders
where the machine allows it, 0 to act as if it did not.

Uses the standard library and `aflow_trl.sandbox` only.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import corpus
from aflow_trl.sandbox import fork_server, run
from aflow_trl.sandbox.client import ForkServer, _state, choose_layers

SHORT_S, LONG_S = 0.6, 10.0
CAP_BYTES = 8 << 20
MAX_GAP_S = 0.1
SECRET = "planted-secret-value"


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


async def record_gaps(gaps: list[float]) -> None:
    while True:
        started = time.monotonic()
        await asyncio.sleep(0.005)
        gaps.append(time.monotonic() - started - 0.005)


async def check(program: corpus.Program, server: ForkServer, placeholders: dict) -> dict:
    """Run a program, then measure everything it may have left behind."""
    text = corpus.fill(program.text, **placeholders)
    timeout_s = SHORT_S if program.allowed <= {corpus.TIMEOUT, corpus.KILLED} else LONG_S
    server_pid = server._process.pid
    fds, threads, gaps = open_fds(), threading.active_count(), []
    watcher = asyncio.ensure_future(record_gaps(gaps))
    await asyncio.sleep(0)
    started = time.monotonic()
    result = await run(text, timeout_s=timeout_s, memory_mb=program.memory_mb)
    wall_s = time.monotonic() - started
    watcher.cancel()
    # As the server sees it: nobody else sees what it mounts.
    scratch = Path(f"/proc/{server_pid}/root{server._scratch}")
    after = await run("import json, os, re; print(os.listdir('.'))")
    return {
        "id": program.id,
        "status": result.status.value,
        "stdout": result.stdout[:2000],
        "stderr": result.stderr[-500:],
        "wall_over_s": wall_s - timeout_s,
        "bytes": max(len(result.stdout), len(result.stderr)),
        "leaked": SECRET in result.stdout + result.stderr,
        "processes_left": len(children_of(server._process.pid)),
        "scratch_left": [str(f) for d in scratch.iterdir() for f in d.iterdir()],
        "fds_changed": sorted(open_fds() ^ fds),
        "threads_changed": threading.active_count() - threads,
        "longest_gap_s": max(gaps, default=0.0),
        "server_changed": (await fork_server())._process.pid != server_pid,
        "next_run": f"{after.status.value} {after.stdout}{after.stderr}",
    }


async def main(victim: str, home: str, landlock: int, tmpfs: bool) -> None:
    def choose(offer):
        return choose_layers(
            replace(offer, landlock=min(landlock, offer.landlock), tmpfs=tmpfs and offer.tmpfs and landlock > 0)
        )

    placeholders = {"victim": victim, "home": home, "trainer": os.getpid()}
    server = _state().server = await ForkServer.start(choose)
    await run("pass")
    rows = [p for p in corpus.PROGRAMS if not p.needs or importlib.util.find_spec(p.needs)]
    print(json.dumps({"layers": asdict(server.layers), "tier": server.layers.tier.value}))
    for program in rows:
        row = await check(program, server, placeholders)
        if row["longest_gap_s"] > MAX_GAP_S:  # a busy machine stalls at random; a blocking call of ours does so again
            again = await check(program, server, placeholders)
            row["longest_gap_s"] = min(row["longest_gap_s"], again["longest_gap_s"])
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    os.environ["HF_TOKEN"] = SECRET
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "1"))
