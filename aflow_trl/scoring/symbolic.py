"""Symbolic comparison in killable worker processes, with a deadline."""

from __future__ import annotations

import atexit
import json
import queue
import select
import subprocess
import sys

from ..errors import ScorerError

START_TIMEOUT_S = 60.0
COMPARE_TIMEOUT_S = 15.0
WORKERS = 2


class _Worker:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "aflow_trl.scoring.math_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=None,
        )
        atexit.register(self.kill)
        self._read(START_TIMEOUT_S)

    def ask(self, *question: object) -> dict[str, object]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
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
                raise ScorerError(f"the math worker gave no verdict within {timeout_s:g} s")
            line += chunk
        reply: dict[str, object] = json.loads(line)
        return reply


_POOL: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
for _ in range(WORKERS):
    _POOL.put(None)


def symbolically_equal(gold: str, prediction: str, tolerance: float = 0.0) -> bool:
    """
    Whether two LaTeX expressions are equal, by math-verify. Thread-safe; blocks until a worker is free.

    Args:
        gold (`str`):
            The gold answer.
        prediction (`str`):
            The answer.
        tolerance (`float`, *optional*, defaults to `0.0`):
            Relative difference, of the gold, up to which two numbers that are not equal count as equal.

    Raises:
        [`ScorerError`]: The worker died or gave no verdict in time.
    """
    worker = _POOL.get()
    try:
        if worker is None:
            worker = _Worker()
        reply = worker.ask(gold, prediction, tolerance)
    except ScorerError:
        if worker is not None:
            worker.kill()
        worker = None
        raise
    finally:
        _POOL.put(worker)
    if "error" in reply:
        raise ScorerError(f"math-verify failed: {reply['error']}")
    return bool(reply["equal"])
