"""Pool of testers: warm processes that run tests and call solutions in other processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import weakref
from collections.abc import AsyncIterator, Sequence

from ..errors import SandboxUnavailableError
from . import codec
from .client import Child, ForkServer
from .memory_files import memory_file
from .types import SuiteReport, SuiteSpec

MAX_VERDICTS = 200
"""Number of verdicts after which a tester is replaced, so that its memory cannot grow without bound."""
LIFETIME_S = 3600
"""Time limit in seconds over all verdicts of a tester; each verdict has its own."""
MAX_REPORT_BYTES = 1 << 16


class Tester:
    """
    A tester process, used for one verdict at a time.

    Args:
        server ([`~client.ForkServer`]):
            Server that forked the process.
        control (`socket.socket`):
            This side of the socket to the process.
        child ([`~client.Child`]):
            The process.
    """

    def __init__(self, server: ForkServer, control: socket.socket, child: Child) -> None:
        # Weak, because an idle tester is held by the server: a cycle would delay the server's shutdown.
        self._server, self._control, self._child = weakref.ref(server), control, child
        self._verdicts = 0

    @classmethod
    async def start(cls, server: ForkServer) -> Tester:
        """Fork a tester process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs, contextlib.ExitStack() as stack:
            # Output of tests is discarded: it must not end up in the stderr of the next solution.
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, null)
            child = await server.spawn("test", [null] * 4 + [theirs.fileno()], timeout_s=LIFETIME_S)
        return cls(server, ours, child)

    @property
    def usable(self) -> bool:
        """Whether the process is running and has verdicts left."""
        return not self._child.exit.done() and self._verdicts < MAX_VERDICTS

    def send(self, spec: SuiteSpec, pipes: Sequence[int]) -> None:
        """
        Request a verdict.

        Args:
            spec ([`SuiteSpec`]):
                Tests, and the functions of the solution they call.
            pipes (`Sequence[int]`):
                Pipes to and from the solution. The caller closes them.

        Raises:
            [`SandboxUnavailableError`]: The tester has exited.
        """
        self._verdicts += 1
        try:
            with contextlib.ExitStack() as stack:
                socket.send_fds(self._control, [b"t"], [memory_file(stack, json.dumps(spec)), *pipes])
        except OSError as error:
            self._verdicts = MAX_VERDICTS
            raise SandboxUnavailableError(f"the tester has exited: {error!r}") from error

    async def receive(self, timeout_s: float) -> SuiteReport | None:
        """
        Receive the report; `None` if the tester did not survive the values that the solution returned.

        Raises:
            [`SandboxUnavailableError`]: The tester never ran, or its server has exited.
        """
        try:
            reply = await asyncio.wait_for(
                asyncio.get_running_loop().sock_recv(self._control, MAX_REPORT_BYTES), timeout_s
            )
        except (OSError, asyncio.TimeoutError):
            reply = b""
        if reply:
            report: SuiteReport = codec.loads(reply)
            return report
        self._verdicts = MAX_VERDICTS
        server, child_exit = self._server(), self._child.exit
        if (
            server is None
            or not server.alive
            or (child_exit.done() and (child_exit.exception() or child_exit.result()["error"]))
        ):
            raise SandboxUnavailableError("the sandbox broke while it ran tests")
        return None

    async def close(self) -> None:
        """Close the socket, upon which the tester exits, and kill it in case it hangs."""
        self._control.close()
        if (server := self._server()) is not None:
            with contextlib.suppress(OSError):
                await server.kill(self._child)


@contextlib.asynccontextmanager
async def warm_tester(server: ForkServer) -> AsyncIterator[Tester]:
    """Lend a tester for the duration of the block, then return it to the pool, or close it if the block failed."""
    tester = None
    while server.idle_testers:
        tester = server.idle_testers.pop()
        if tester.usable:
            break
        await tester.close()
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
            await tester.close()
