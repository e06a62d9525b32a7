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
        self._server, self._control, self._child = weakref.ref(server), control, child
        self._verdicts = 0

    @classmethod
    async def start(cls, server: ForkServer) -> Tester:
        """Fork a tester and keep a socket to it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs, contextlib.ExitStack() as stack:
            # What tests print goes nowhere.
            nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, nowhere)
            child = await server.spawn("test", [nowhere] * 4 + [theirs.fileno()], cpu_s=CPU_S)
        return cls(server, ours, child)

    @property
    def usable(self) -> bool:
        """Whether it still runs and is not worn out."""
        return not self._child.end.done() and self._verdicts < MAX_VERDICTS

    def send(self, spec: dict[str, Any], pipes: Sequence[int]) -> None:
        """
        Ask for a verdict.

        Args:
            spec (`dict[str, Any]`):
                Specification of [`~tester.serve_tests`].
            pipes (`Sequence[int]`):
                To and from the solution. They stay the caller's, to be closed.

        Raises:
            [`SandboxUnavailableError`]: The tester is gone.
        """
        self._verdicts += 1
        try:
            with contextlib.ExitStack() as stack:
                socket.send_fds(self._control, [b"t"], [memory_file(stack, json.dumps(spec)), *pipes])
        except OSError as error:
            self._verdicts = MAX_VERDICTS
            raise SandboxUnavailableError(f"the tester is gone: {error!r}") from error

    async def receive(self, timeout_s: float) -> dict[str, Any] | None:
        """
        The count of tests; `None` if the tester did not survive what the solution returned.

        Raises:
            [`SandboxUnavailableError`]: The tester never ran, or its server is gone.
        """
        try:
            reply = await asyncio.wait_for(
                asyncio.get_running_loop().sock_recv(self._control, MAX_REPORT_BYTES), timeout_s
            )
        except (OSError, asyncio.TimeoutError):
            reply = b""
        if reply:
            report: dict[str, Any] = codec.loads(reply)
            return report
        self._verdicts = MAX_VERDICTS
        server, end = self._server(), self._child.end
        if server is None or not server.alive or (end.done() and (end.exception() or end.result()["trouble"])):
            raise SandboxUnavailableError("the sandbox broke while it ran tests")
        return None

    async def end(self) -> None:
        """Close its socket, on which it leaves, and kill it."""
        self._control.close()
        if (server := self._server()) is not None:
            with contextlib.suppress(OSError):
                await server.kill(self._child)


@contextlib.asynccontextmanager
async def warm_tester(server: ForkServer) -> AsyncIterator[Tester]:
    """A tester that is nobody else's while the block runs; ended after it if it is worn out or was broken off."""
    tester = None
    while server.idle_testers:
        tester = server.idle_testers.pop()
        if tester.usable:
            break
        await tester.end()
        tester = None
    tester = tester or await Tester.start(server)
    finished = False
    try:
        yield tester
        finished = True
    finally:
        if finished and tester.usable:
            server.idle_testers.append(tester)
        else:
            await tester.end()
