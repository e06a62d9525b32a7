"""Async client of the fork server: starts it, sends runs, enforces the wall clock, and reads the output."""

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
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..errors import SandboxUnavailableError
from . import libraries
from .memory_files import memory_file, read_memory_file
from .types import ExitReport, Layers, RunResult, Status, Tier

if TYPE_CHECKING:
    from .tester_pool import Tester

logger = logging.getLogger(__name__)
T = TypeVar("T")

DEFAULT_TIMEOUT_S = 10.0
DEFAULT_MEMORY_MB = 512
DEFAULT_OUTPUT_BYTES = 8 << 20
START_TIMEOUT_S = 30.0
SHUTDOWN_TIMEOUT_S = 3.0
KILL_GRACE_S = 5.0
"""Seconds the server may take to report a killed child before it counts as broken."""
SEND_RETRY_S = 0.001
"""Delay before sending again when the socket's buffer is full."""

_weak_allowed = False

# The exit codes of `child.py`, which cannot be imported here: it is written to run as a script beside the server.
_EXIT_DENIED, _EXIT_MEMORY, _EXIT_INVALID = 76, 77, 78
_SIGSYS, _SIGKILL, _SIGXCPU = 31, 9, 24
_SERVER = Path(__file__).with_name("server.py")
# An allowlist: API keys of this process must not reach the processes that run untrusted code.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class ChildExit:
    """How a child exited."""

    code: int
    """Exit code; the negative signal number if a signal killed the child."""
    wall_s: float
    timed_out: bool
    over_quota: bool
    """Whether the server killed it for its disk usage or its number of threads."""

    @property
    def invalid_source(self) -> bool:
        """Whether the solution does not compile."""
        return self.code == _EXIT_INVALID


@dataclass(frozen=True, slots=True)
class Child:
    """A requested child: its number, and a future for the server's report of its exit."""

    id: int
    exit: asyncio.Future[ExitReport]


class ForkServer:
    """A fork server, bound to the event loop that started it."""

    close: Callable[[], object]
    """Stops the server and removes its scratch folder; called automatically when the object is garbage-collected."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, scratch: str, layers: Layers):
        self.layers = layers
        """Layers that confine its children."""
        self._process, self._control, self._scratch = process, control, scratch
        self.idle_testers: list[Tester] = []
        """Warm testers that are not in use; see `tester_pool.py`."""
        self._closed = False
        self._ids = itertools.count()
        self._pending: dict[int, asyncio.Future[ExitReport]] = {}
        self._loop = asyncio.get_running_loop()
        # A weak reference: the event loop must not keep a server alive that nobody uses any more.
        reference = weakref.ref(self)
        self._loop.add_reader(control, lambda: server._receive() if (server := reference()) else None)

    @classmethod
    async def start(cls, choose: Callable[[Layers], Layers] | None = None) -> ForkServer:
        """
        Start a server with a clean environment and wait until it is warm.

        Args:
            choose (`Callable[[Layers], Layers]`, *optional*):
                Maps the layers that the machine offers to those to use. Defaults to [`choose_layers`], which uses all.

        Raises:
            [`SandboxUnavailableError`]: The server did not start, or this machine cannot confine programs.
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
            _shut_down(process, ours, scratch)
            if isinstance(error, (asyncio.TimeoutError, ValueError, OSError)):
                raise SandboxUnavailableError(f"the sandbox's fork server did not start: {error!r}") from error
            raise
        server = cls(process, ours, scratch, layers)
        server.close = weakref.finalize(server, _shut_down, process, ours, scratch)
        logger.info("sandbox ready: %s", layers)
        return server

    @property
    def alive(self) -> bool:
        """Whether the server process is running and belongs to the current event loop."""
        return not self._closed and self._process.poll() is None and asyncio.get_running_loop() is self._loop

    async def run(self, role: str, fds: Sequence[int], *, timeout_s: float, **limits: int) -> ChildExit:
        """Start a child and wait for its exit; arguments as in [`ForkServer.spawn`] and [`ForkServer.wait`]."""
        return await self.wait(await self.spawn(role, fds, timeout_s=timeout_s, **limits), timeout_s)

    async def spawn(
        self,
        role: str,
        fds: Sequence[int],
        *,
        timeout_s: float,
        memory_mb: int = DEFAULT_MEMORY_MB,
        output_bytes: int = DEFAULT_OUTPUT_BYTES,
    ) -> Child:
        """
        Start a child.

        Args:
            role (`str`):
                `program`, `serve`, `test` or `test_within`.
            fds (`Sequence[int]`):
                Descriptor of its source, followed by the descriptors it gets as 0, 1, 2, …. The caller closes them.
            timeout_s (`float`):
                Wall-clock limit of the child in seconds. The caller enforces it; it is backed up by a limit of CPU
                time, which is longer by the number of cores, as threads may use all of them.
            memory_mb (`int`, *optional*, defaults to `512`):
                Address space in MiB.
            output_bytes (`int`, *optional*, defaults to 8 MiB):
                Maximum size of every file it writes.

        Raises:
            [`SandboxUnavailableError`]: The server has exited.
        """
        child = Child(next(self._ids), self._loop.create_future())
        cpu_s = (int(timeout_s) + 2) * (os.cpu_count() or 1)
        request = {"id": child.id, "role": role, "memory": memory_mb << 20, "cpu": cpu_s, "file": output_bytes}
        self._pending[child.id] = child.exit
        try:
            await self._send(json.dumps(request).encode(), fds)
        except BaseException as error:
            del self._pending[child.id]
            if isinstance(error, OSError):
                raise SandboxUnavailableError(f"the sandbox's fork server broke: {error!r}") from error
            raise
        # Marks the exception as retrieved: if the caller was cancelled, asyncio would log it at collection.
        child.exit.add_done_callback(lambda future: future.cancelled() or future.exception())
        return child

    async def wait(self, child: Child, timeout_s: float) -> ChildExit:
        """
        Wait for a child to exit; kill it after `timeout_s`, or when the caller is cancelled.

        Raises:
            [`SandboxUnavailableError`]: The server has exited, or the child could not be confined.
        """
        timed_out = False
        try:
            done, _ = await asyncio.wait([child.exit], timeout=timeout_s)
            if not done:
                timed_out = True
                await self.kill(child)
                await asyncio.wait_for(asyncio.shield(child.exit), KILL_GRACE_S)
            report = child.exit.result()
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                await self.kill(child)
            raise
        except (OSError, asyncio.TimeoutError) as error:
            # A server that hangs is of no further use to anybody; the next call starts another.
            self.abandon(OSError("the server was given up"))
            raise SandboxUnavailableError(f"the sandbox's fork server broke: {error!r}") from error
        if report["error"]:
            raise SandboxUnavailableError(f"the child could not be confined: {report['error']}")
        return ChildExit(report["code"], report["wall"], timed_out, report["over_quota"])

    async def kill(self, child: Child) -> None:
        """Kill a child if it is still running."""
        await self._send(json.dumps({"kill": child.id}).encode(), [])

    async def _send(self, message: bytes, fds: Sequence[int]) -> None:
        while True:
            try:
                socket.send_fds(self._control, [message], fds)
                return
            except BlockingIOError:
                # asyncio has no `send_fds` to await, and the buffer is full for moments only.
                await asyncio.sleep(SEND_RETRY_S)

    def _receive(self) -> None:
        try:
            while message := self._control.recv(4096):
                report: ExitReport = json.loads(message)
                if report["leftover"]:
                    logger.warning("sandbox: %s", report["leftover"])
                if (future := self._pending.pop(report["id"], None)) and not future.done():
                    future.set_result(report)
            error: OSError = ConnectionResetError("the server closed its socket")
        except BlockingIOError:
            return
        except OSError as caught:
            error = caught
        self.abandon(error)

    def abandon(self, error: OSError) -> None:
        """Kill the server, fail whatever waits for it, and remove its scratch folder."""
        if self._closed:
            return
        self._closed = True
        # Before the socket is closed: the next server's may get the same number.
        self._loop.remove_reader(self._control)
        for future in self._pending.values():
            if not future.done():
                future.set_exception(error)
        self._pending.clear()
        self._process.kill()
        self.close()


def library_folder_of(path: Path) -> Path | None:
    """Folder of libraries that holds `path`, whose files every untrusted program can read; `None` if there is none."""
    resolved = path.resolve()
    folders = (Path(folder).resolve() for folder in libraries.folders())
    return next((folder for folder in folders if resolved.is_relative_to(folder)), None)


def allow_weak_sandbox(allow: bool = True) -> None:
    """
    Allow untrusted programs to run on a machine that cannot confine them, for the lifetime of this process.

    Args:
        allow (`bool`, *optional*, defaults to `True`):
            Whether to continue with the layers there are. A warning says what programs can reach.
    """
    global _weak_allowed
    _weak_allowed = allow


def choose_layers(offer: Layers) -> Layers:
    """
    Choose the layers to use on a machine: all it offers.

    Raises:
        [`SandboxUnavailableError`]: The machine is tier C, and [`allow_weak_sandbox`] was not called.
    """
    if offer.tier is Tier.C and not _weak_allowed:
        missing = " and ".join(offer.missing)
        raise SandboxUnavailableError(
            f"this machine cannot confine untrusted programs: {missing} missing. Run on Linux 5.13 or later with "
            "Landlock enabled (CONFIG_SECURITY_LANDLOCK, lsm=landlock,...) and seccomp, on x86_64 or aarch64; or, "
            "if you trust every program, set allow_weak_sandbox: true."
        )
    if (folder := library_folder_of(Path.cwd())) is not None:
        logger.warning(
            "the working folder %s lies under %s, whose files programs can read as libraries; work elsewhere",
            Path.cwd(),
            folder,
        )
    if offer.tier is not Tier.A:
        logger.warning("weak sandbox, tier %s: %s", offer.tier.value, offer.leaks)
    return offer


def _spawn(control: socket.socket, scratch: str) -> subprocess.Popen[bytes]:
    # The server expects the control socket as descriptor 3. `pass_fds` would keep its number, so it travels as stdin.
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


def _shut_down(process: subprocess.Popen[bytes], control: socket.socket, scratch: str) -> None:
    # When its socket closes, the server kills its children, removes the scratch folder and exits.
    control.close()
    try:
        process.wait(SHUTDOWN_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    shutil.rmtree(scratch, ignore_errors=True)


@dataclass
class _LoopState:
    """State of one event loop: asyncio primitives and sockets cannot be shared between loops."""

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
    """Semaphore with a slot per core, held while a program runs: waiting for a core must not count as its run time."""
    return _state().slots


async def fork_server() -> ForkServer:
    """Fork server of the running event loop, started on first use and restarted if it has died."""
    state = _state()
    async with state.lock:
        if state.server is None or not state.server.alive:
            if state.server is not None:
                state.server.abandon(OSError("the server has exited"))
            state.server = await ForkServer.start()
        return state.server


async def with_fork_server(use: Callable[[ForkServer], Awaitable[T]]) -> T:
    """
    Result of `use` with the fork server. If the server breaks meanwhile, once more with a new one: programs have no
    effect outside the sandbox, so they can be repeated.

    Raises:
        [`SandboxUnavailableError`]: The sandbox broke twice, or for a reason that a new server does not remedy.
    """
    server = await fork_server()
    try:
        return await use(server)
    except SandboxUnavailableError as error:
        if server.alive:
            raise
        logger.warning("%s; trying again with a new one", error)
    return await use(await fork_server())


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
            Standard input of the program.
        timeout_s (`float`, *optional*, defaults to `10.0`):
            Wall-clock limit in seconds, after which the process is killed.
        memory_mb (`int`, *optional*, defaults to `512`):
            Address space in MiB.
        output_bytes (`int`, *optional*, defaults to 8 MiB):
            Maximum size of stdout, of stderr and of every file it writes.

    Returns:
        [`RunResult`]: Status, output and wall time. Nothing that the program does raises an exception.

    Raises:
        [`SandboxUnavailableError`]: The sandbox itself broke.
    """

    async def run_once(server: ForkServer) -> RunResult:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(slot())
            out, err = memory_file(stack), memory_file(stack)
            child_exit = await server.run(
                "program",
                [memory_file(stack, code), memory_file(stack, stdin), out, err],
                timeout_s=timeout_s,
                memory_mb=memory_mb,
                output_bytes=output_bytes,
            )
            stdout, stderr = read_memory_file(out, output_bytes), read_memory_file(err, output_bytes)
            overflow = any(os.fstat(fd).st_size >= output_bytes for fd in (out, err))
        return RunResult(classify(child_exit, overflow=overflow), stdout, stderr, child_exit.wall_s)

    return await with_fork_server(run_once)


def classify(child_exit: ChildExit, *, overflow: bool) -> Status:
    """Status of a child that has exited. `overflow` says whether its output reached the maximum size."""
    # From the most specific cause to the least: a child killed for its output also has a signal as exit code.
    if overflow:
        return Status.OUTPUT
    if child_exit.over_quota:
        return Status.KILLED
    if child_exit.timed_out or child_exit.code == -_SIGXCPU:
        return Status.TIMEOUT
    if child_exit.code == 0:
        return Status.OK
    if child_exit.code == _EXIT_MEMORY:
        return Status.MEMORY
    if child_exit.code in (_EXIT_DENIED, -_SIGSYS):
        return Status.DENIED
    return Status.KILLED if child_exit.code < 0 else Status.ERROR
