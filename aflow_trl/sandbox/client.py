"""Async side of the fork server: start it, send runs, enforce the wall clock, read what they wrote."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import SandboxUnavailableError
from .types import Layers, RunResult, Status, Tier

logger = logging.getLogger(__name__)

DEFAULT_TIMEOUT_S = 10.0
DEFAULT_MEMORY_MB = 512
DEFAULT_OUTPUT_BYTES = 8 << 20
START_TIMEOUT_S = 30.0
END_TIMEOUT_S = 3.0
GRACE_S = 5.0
"""How long the server may take to report a killed child before it counts as broken."""

_weak_allowed = False

_EXIT_DENIED, _EXIT_MEMORY, _EXIT_INVALID = 76, 77, 78
_SIGSYS, _SIGKILL, _SIGXCPU = 31, 9, 24
_SERVER = Path(__file__).with_name("server.py")
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Ended:
    """Raw end of a child: exit code (negative signal), wall seconds, whether the clock or its disk quota ended it."""

    code: int
    wall_s: float
    timed_out: bool
    over_quota: bool

    @property
    def invalid(self) -> bool:
        """Whether the solution was no Python."""
        return self.code == _EXIT_INVALID


@dataclass(frozen=True, slots=True)
class Child:
    """A child that was asked for: its number, and the server's report of its end."""

    id: int
    end: asyncio.Future[dict[str, Any]]


class ForkServer:
    """One fork server, bound to the event loop that started it."""

    end: Callable[[], object]
    """Ends the server and removes its scratch; called when nobody holds the server any more."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, scratch: str, layers: Layers):
        self.layers = layers
        """What confines its children."""
        self._process, self._control, self._scratch = process, control, scratch
        self.idle_testers: list[Any] = []
        """Warm testers nobody uses; see `testers.py`."""
        self._closed = False
        self._ids = itertools.count()
        self._pending: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loop = asyncio.get_running_loop()
        # The loop must not keep a server alive that nobody else holds.
        own = weakref.ref(self)
        self._loop.add_reader(control, lambda: server._receive() if (server := own()) else None)

    @classmethod
    async def start(cls, choose: Callable[[Layers], Layers] | None = None) -> ForkServer:
        """
        Start a server with a clean environment and wait until it is warm.

        Args:
            choose (`Callable[[Layers], Layers]`, *optional*):
                Takes what the machine offers, gives what to use. Defaults to all of it, see [`choose_layers`].

        Raises:
            [`SandboxUnavailableError`]: It did not start, or this machine cannot confine programs.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        scratch = tempfile.mkdtemp(prefix="aflow-sandbox-")
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        process = _spawn(theirs, scratch)
        theirs.close()
        try:
            offer = await asyncio.wait_for(loop.sock_recv(ours, 4096), START_TIMEOUT_S)
            layers = (choose or choose_layers)(Layers(**json.loads(offer)))
            ours.send(json.dumps(asdict(layers)).encode())
        except BaseException as error:
            _end(process, ours, scratch)
            if isinstance(error, (asyncio.TimeoutError, ValueError, OSError)):
                raise SandboxUnavailableError(f"the sandbox's fork server did not start: {error!r}") from error
            raise
        server = cls(process, ours, scratch, layers)
        server.end = weakref.finalize(server, _end, process, ours, scratch)
        logger.info("sandbox ready: %s", layers)
        return server

    @property
    def alive(self) -> bool:
        """Whether the server process still runs on this loop."""
        return not self._closed and self._process.poll() is None and asyncio.get_running_loop() is self._loop

    async def run(self, role: str, fds: Sequence[int], *, timeout_s: float, **limits: int) -> Ended:
        """Start one child and wait for its end; arguments as in [`ForkServer.spawn`] and [`ForkServer.wait`]."""
        return await self.wait(await self.spawn(role, fds, cpu_s=int(timeout_s) + 2, **limits), timeout_s)

    async def spawn(
        self,
        role: str,
        fds: Sequence[int],
        *,
        cpu_s: int,
        memory_mb: int = DEFAULT_MEMORY_MB,
        output_bytes: int = DEFAULT_OUTPUT_BYTES,
    ) -> Child:
        """
        Start one child.

        Args:
            role (`str`):
                `program`, `serve`, `test` or `test_within`.
            fds (`Sequence[int]`):
                Its source, and from there on its files from 0 up. They stay the caller's, to be closed.
            cpu_s (`int`):
                Processor time in seconds.
            memory_mb (`int`, *optional*, defaults to `512`):
                Address space in MiB.
            output_bytes (`int`, *optional*, defaults to 8 MiB):
                Cap on every file it writes.

        Raises:
            [`SandboxUnavailableError`]: The server is gone.
        """
        child = Child(next(self._ids), self._loop.create_future())
        request = {"id": child.id, "role": role, "memory": memory_mb << 20, "cpu": cpu_s, "file": output_bytes}
        self._pending[child.id] = child.end
        try:
            await self._send(json.dumps(request).encode(), fds)
        except BaseException as error:
            del self._pending[child.id]
            if isinstance(error, OSError):
                raise SandboxUnavailableError(f"the sandbox's fork server broke: {error!r}") from error
            raise
        # A failure that nobody waits for any more is no news.
        child.end.add_done_callback(lambda end: end.cancelled() or end.exception())
        return child

    async def wait(self, child: Child, timeout_s: float) -> Ended:
        """
        Wait for a child's end, and bring it about when its time is over or the caller is cancelled.

        Raises:
            [`SandboxUnavailableError`]: The server is gone, or the child could not be confined.
        """
        timed_out = False
        try:
            done, _ = await asyncio.wait([child.end], timeout=timeout_s)
            if not done:
                timed_out = True
                await self.kill(child)
                await asyncio.wait_for(asyncio.shield(child.end), GRACE_S)
            reply = child.end.result()
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                await self.kill(child)
            raise
        except (OSError, asyncio.TimeoutError) as error:
            raise SandboxUnavailableError(f"the sandbox's fork server broke: {error!r}") from error
        if reply["trouble"]:
            raise SandboxUnavailableError(f"the child could not be confined: {reply['trouble']}")
        return Ended(reply["code"], reply["wall"], timed_out, reply["over_quota"])

    async def kill(self, child: Child) -> None:
        """Kill a child, if it still runs."""
        await self._send(json.dumps({"kill": child.id}).encode(), [])

    async def _send(self, message: bytes, fds: Sequence[int]) -> None:
        while True:
            try:
                socket.send_fds(self._control, [message], fds)
                return
            except BlockingIOError:
                await asyncio.sleep(0.001)

    def _receive(self) -> None:
        try:
            while message := self._control.recv(4096):
                reply = json.loads(message)
                if reply["left"]:
                    logger.warning("sandbox: %s", reply["left"])
                if (future := self._pending.pop(reply["id"], None)) and not future.done():
                    future.set_result(reply)
            error: OSError = ConnectionResetError("the server closed its socket")
        except BlockingIOError:
            return
        except OSError as caught:
            error = caught
        self._closed = True
        self._loop.remove_reader(self._control)
        for future in self._pending.values():
            if not future.done():
                future.set_exception(error)
        self._pending.clear()


def allow_weak_sandbox(allow: bool = True) -> None:
    """
    Let programs run on a machine that cannot confine them, for the rest of this process. Off unless called.

    Args:
        allow (`bool`, *optional*, defaults to `True`):
            Whether to go on with the layers there are. A warning names what leaks.
    """
    global _weak_allowed
    _weak_allowed = allow


def choose_layers(offer: Layers) -> Layers:
    """
    The layers to use on a machine: all it offers.

    Raises:
        [`SandboxUnavailableError`]: It is a machine of tier C, and [`allow_weak_sandbox`] was not called.
    """
    if offer.tier is Tier.C and not _weak_allowed:
        missing = " and ".join(offer.missing)
        raise SandboxUnavailableError(
            f"this machine cannot confine untrusted programs: {missing} missing. Run on Linux 5.13 or later with "
            "Landlock enabled (CONFIG_SECURITY_LANDLOCK, lsm=landlock,...) and seccomp, on x86_64 or aarch64; or, "
            "where every program may be trusted, set allow_weak_sandbox: true."
        )
    if offer.tier is not Tier.A:
        logger.warning("weak sandbox, tier %s: %s", offer.tier.value, offer.leaks)
    return offer


def _spawn(control: socket.socket, scratch: str) -> subprocess.Popen[bytes]:
    # The server expects the control socket as fd 3; a shell-free way to get it there is to hand it over as stdin.
    program = f"import os, runpy; os.dup2(0, 3); runpy.run_path({str(_SERVER)!r}, run_name='__main__')"
    return subprocess.Popen(
        [sys.executable, "-I", "-B", "-c", program],
        stdin=control.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=_ENVIRONMENT,
        cwd=scratch,
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes], control: socket.socket, scratch: str) -> None:
    # The end of its socket is the server's sign to kill its children, to remove the scratch and to leave.
    control.close()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    shutil.rmtree(scratch, ignore_errors=True)


@dataclass
class _LoopState:
    """What belongs to one event loop."""

    lock: asyncio.Lock
    slots: asyncio.Semaphore
    server: ForkServer | None = None


_STATES: dict[int, tuple[asyncio.AbstractEventLoop, _LoopState]] = {}


def _state() -> _LoopState:
    loop = asyncio.get_running_loop()
    for key, (other, _) in list(_STATES.items()):
        if other.is_closed():
            del _STATES[key]
    if id(loop) not in _STATES:
        _STATES[id(loop)] = (loop, _LoopState(asyncio.Lock(), asyncio.Semaphore(os.cpu_count() or 1)))
    return _STATES[id(loop)][1]


def slot() -> asyncio.Semaphore:
    """Held while a program runs, one a core: its clock must not run while it waits for others of our own making."""
    return _state().slots


async def fork_server() -> ForkServer:
    """The running loop's fork server, started at first use and again after it died."""
    state = _state()
    async with state.lock:
        if state.server is None or not state.server.alive:
            if state.server is not None:
                state.server.end()
            state.server = await ForkServer.start()
        return state.server


async def run(
    code: str,
    *,
    stdin: str = "",
    timeout_s: float = DEFAULT_TIMEOUT_S,
    memory_mb: int = DEFAULT_MEMORY_MB,
    output_bytes: int = DEFAULT_OUTPUT_BYTES,
) -> RunResult:
    """
    Run untrusted Python in a fresh, confined child process.

    Args:
        code (`str`):
            Program text.
        stdin (`str`, *optional*, defaults to `""`):
            What the program reads from standard input.
        timeout_s (`float`, *optional*, defaults to `10.0`):
            Wall clock in seconds; the process is killed when it passes.
        memory_mb (`int`, *optional*, defaults to `512`):
            Address space in MiB.
        output_bytes (`int`, *optional*, defaults to 8 MiB):
            Cap on each of stdout, stderr and every file written.

    Returns:
        [`RunResult`]: Status, output and wall time; never an exception for anything the program did.

    Raises:
        [`SandboxUnavailableError`]: The sandbox itself broke.
    """
    server = await fork_server()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(slot())
        out, err = memory_file(stack), memory_file(stack)
        ended = await server.run(
            "program",
            [memory_file(stack, code), memory_file(stack, stdin), out, err],
            timeout_s=timeout_s,
            memory_mb=memory_mb,
            output_bytes=output_bytes,
        )
        stdout, stderr = read_memory_file(out, output_bytes), read_memory_file(err, output_bytes)
        overflow = any(os.fstat(fd).st_size >= output_bytes for fd in (out, err))
    return RunResult(classify(ended, overflow=overflow), stdout, stderr, ended.wall_s)


def classify(ended: Ended, *, overflow: bool) -> Status:
    """Status of an ended child."""
    if overflow:
        return Status.OUTPUT
    if ended.over_quota:
        return Status.KILLED
    if ended.timed_out or ended.code == -_SIGXCPU:
        return Status.TIMEOUT
    if ended.code == 0:
        return Status.OK
    if ended.code == _EXIT_MEMORY:
        return Status.MEMORY
    if ended.code in (_EXIT_DENIED, -_SIGSYS):
        return Status.DENIED
    return Status.KILLED if ended.code < 0 else Status.ERROR


def memory_file(stack: contextlib.ExitStack | contextlib.AsyncExitStack, text: str = "") -> int:
    """An anonymous file holding `text`, positioned at its start, closed with `stack`."""
    fd = os.memfd_create("aflow", os.MFD_CLOEXEC)
    stack.callback(os.close, fd)
    if text:
        data = text.encode("utf-8", errors="replace")
        while data:
            data = data[os.write(fd, data) :]
        os.lseek(fd, 0, os.SEEK_SET)
    return fd


def read_memory_file(fd: int, limit: int) -> str:
    """Text of an anonymous file, cut at `limit` bytes."""
    return os.pread(fd, limit, 0).decode("utf-8", errors="replace")
