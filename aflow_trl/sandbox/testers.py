"""Client side of the testers: warm processes that hold tests and call solutions in other processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import weakref
from collections.abc import AsyncIterator, Sequence
from typing import Any

from ..errors import SandboxUnavailableError
from . import codec
from .client import Child, ForkServer, memory_file

MAX_VERDICTS = 200
"""Verdicts after which a tester is replaced, so that no memory it was left with grows without end."""
CPU_S = 3600
MAX_REPORT_BYTES = 1 << 16


class Tester:
    """
    One tester, used for one verdict at a time.

    Args:
        server ([`~client.ForkServer`]):
            Server that forked it.
        control (`socket.socket`):
            Our end of the tester's socket.
        child ([`~client.Child`]):
            Its process.
    """

    def __init__(self, server: ForkServer, control: socket.socket, child: Child) -> None:
        self._server, self._control, self._child = server, control, child
        self.verdicts_left = MAX_VERDICTS

    @classmethod
    async def start(cls, server: ForkServer) -> Tester:
        """Fork a tester and keep a socket to it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        async with contextlib.AsyncExitStack() as stack:
            files = [memory_file(stack) for _ in range(4)]
            child = await server.spawn("test", files, [theirs.detach()], cpu_s=CPU_S)
        child.end.add_done_callback(lambda end: end.cancelled() or end.exception())
        return cls(server, ours, child)

    async def count(self, spec: dict[str, Any], pipes: Sequence[int], *, timeout_s: float) -> dict[str, Any] | None:
        """
        Run tests; `None` if the tester did not survive what the solution returned.

        Args:
            spec (`dict[str, Any]`):
                Specification of [`~tester.serve_tests`].
            pipes (`Sequence[int]`):
                To and from the solution; handed over, closed here once sent.
            timeout_s (`float`):
                Wall clock in seconds.

        Raises:
            [`SandboxUnavailableError`]: The tester never ran, or its server is gone.
        """
        self.verdicts_left -= 1
        loop = asyncio.get_running_loop()
        try:
            async with contextlib.AsyncExitStack() as stack:
                for fd in pipes:
                    stack.callback(os.close, fd)
                socket.send_fds(self._control, [b"t"], [memory_file(stack, json.dumps(spec)), *pipes])
            reply = await asyncio.wait_for(loop.sock_recv(self._control, MAX_REPORT_BYTES), timeout_s)
        except (OSError, asyncio.TimeoutError):
            reply = b""
        if reply:
            report: dict[str, Any] = codec.loads(reply)
            return report
        self.verdicts_left = 0
        if not self._server.alive or (self._child.end.done() and self._child.end.result()["trouble"]):
            raise SandboxUnavailableError("the sandbox broke while it ran tests")
        return None

    async def end(self) -> None:
        """Close its socket, on which it leaves, and kill it."""
        self._control.close()
        with contextlib.suppress(OSError):
            await self._server.kill(self._child)


_IDLE: weakref.WeakKeyDictionary[ForkServer, list[Tester]] = weakref.WeakKeyDictionary()


@contextlib.asynccontextmanager
async def warm_tester(server: ForkServer) -> AsyncIterator[Tester]:
    """A tester that is nobody else's while the block runs; replaced after it if it is worn out or broke off."""
    idle = _IDLE.setdefault(server, [])
    tester = idle.pop() if idle else await Tester.start(server)
    finished = False
    try:
        yield tester
        finished = True
    finally:
        if finished and tester.verdicts_left > 0:
            idle.append(tester)
        else:
            await tester.end()
