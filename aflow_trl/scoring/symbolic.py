"""Symbolic comparison of LaTeX in worker processes, which can be killed: sympy may run for hours on a short input."""

from __future__ import annotations

import atexit
import json
import queue
import select
import subprocess
import sys

from ..errors import ScorerError

START_TIMEOUT_S = 60.0
"""Limit for starting a worker, which imports sympy and math-verify."""
COMPARE_TIMEOUT_S = 15.0
"""Limit for a comparison: the worker's limits for parsing both sides and comparing them, added up."""
WORKERS = 2


class _Worker:
    """A worker process; see [`~aflow_trl.scoring.math_worker`]."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "aflow_trl.scoring.math_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        atexit.register(self.kill)
        self._read(START_TIMEOUT_S)

    def request(self, gold: str, prediction: str, tolerance: float) -> dict[str, object]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([gold, prediction, tolerance]).encode() + b"\n")
        except OSError as error:
            raise ScorerError(f"the math worker died: {error}") from error
        return self._read(COMPARE_TIMEOUT_S)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self, timeout_s: float) -> dict[str, object]:
        stdout = self._process.stdout
        assert stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([stdout], [], [], timeout_s)
            chunk = stdout.read(65536) if ready else b""
            if not chunk:
                raise ScorerError(f"the math worker did not answer within {timeout_s:g} s")
            line += chunk
        reply: dict[str, object] = json.loads(line)
        return reply


# Last in, first out, so that a lightly loaded process starts one worker only. `None` is a worker not yet started.
_POOL: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
for _ in range(WORKERS):
    _POOL.put(None)


def symbolically_equal(gold: str, prediction: str, tolerance: float = 0.0) -> bool:
    """
    Decide with math-verify whether two LaTeX expressions are equal. Thread-safe; blocks until a worker is free.

    Args:
        gold (`str`):
            Gold answer.
        prediction (`str`):
            Answer to compare.
        tolerance (`float`, *optional*, defaults to `0.0`):
            Maximum difference of two numbers, relative to the gold, at which they count as equal.

    Raises:
        [`ScorerError`]: The worker died, timed out, or could not parse the gold answer.
    """
    worker = _POOL.get()
    try:
        if worker is None:
            worker = _Worker()
        reply = worker.request(gold, prediction, tolerance)
    except ScorerError:
        # Killed rather than returned to the pool: its late answer would be taken for that to the next request.
        if worker is not None:
            worker.kill()
        worker = None
        raise
    finally:
        _POOL.put(worker)
    if "error" in reply:
        raise ScorerError(f"math-verify failed: {reply['error']}")
    return bool(reply["equal"])
