"""
Fork server: a small process that keeps an interpreter warm and forks a fresh, confined child for every run.

A fork of a warm interpreter is far cheaper than a new process, and verdicts on code are on the critical path of a
training step. Started as a script with a clean environment; standard library only.

Protocol: one JSON message per packet on a SOCK_SEQPACKET socket. The server reports what the machine offers and
receives the layers to use. From then on each request starts or kills a child; a start request carries the child's file
descriptors. The server replies once per child, after it has exited and its scratch folder is empty again.
"""

import contextlib
import fcntl
import gc
import json
import os
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import child
import confine
import scratch

sys.path.pop(0)
CONTROL_FD = 3
MAX_MESSAGE = 1 << 16
REPORT_FD = 256
FORK_ATTEMPTS = 10
WATCH_S = 0.05
"""Seconds between two checks of the disk usage and thread count of running children."""


class Run:
    """A running child: its request, its scratch folder, and the pipe on which it reports a failed setup."""

    def __init__(self, pid, request, folder, setup_pipe):
        self.pid = pid
        self.id = request["id"]
        self.folder = folder
        self.setup_pipe = setup_pipe
        # Becomes readable when the child exits, so one selector waits for requests and exits alike.
        self.exit_fd = os.pidfd_open(pid)
        self.started = time.monotonic()
        self.over_quota = False
        self._file_bytes = request["file"]

    def exceeds_limits(self):
        """Whether the child uses more of the disk, or more threads, than it may."""
        return self.folder.over_quota(self.pid, self._file_bytes) or thread_count(self.pid) > confine.MAX_THREADS


class Server:
    """Serves until the control socket closes."""

    def __init__(self, control, root):
        self.control, self.root = control, root
        self.selector = selectors.DefaultSelector()
        self.selector.register(control, selectors.EVENT_READ)
        self.running = {}
        self.free = []
        self.folders = []
        self.spawned = 0
        os.chmod(root, 0o711)  # throw-away users can enter their folder but not list the others
        control.send(json.dumps(confine.probe(root)).encode())
        self.confinement = confine.Confinement(json.loads(control.recv(MAX_MESSAGE)))
        confine.drop_bounding_set()

    def serve(self):
        """Accept requests and reap children."""
        # A garbage collection in a child would write to every object header and so copy all the shared pages.
        gc.collect()
        gc.freeze()
        checked = time.monotonic()
        while True:
            for key, _ in self.selector.select(WATCH_S if self.running else None):
                if key.fileobj is not self.control:
                    self.reap(self.running.pop(key.fileobj))
                elif not self.accept():
                    self.shut_down()
                    return
            if time.monotonic() - checked > WATCH_S:
                self.watch()
                checked = time.monotonic()

    def accept(self):
        """Handle the next message, a start or a kill; `False` when the client has closed the socket."""
        try:
            message, fds, _, _ = socket.recv_fds(self.control, MAX_MESSAGE, 8)
        except ConnectionResetError:  # the client was killed before it had read every reply
            return False
        if not message:
            return False
        request = json.loads(message)
        if "kill" in request:
            for run in self.running.values():
                if run.id == request["kill"]:
                    os.kill(run.pid, signal.SIGKILL)
            return True
        self.spawned += 1
        try:
            self.start(request, fds)
        except OSError as error:
            # The machine is out of processes, files or disk: neither the program's fault nor a reason to exit.
            self.reply(request["id"], 1, 0.0, error=f"{type(error).__name__}: {error}")
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def start(self, request, fds):
        """Fork a child for a request."""
        folder = self.free.pop() if self.free else self.new_folder()
        uid = confine.SPARE_UID + self.spawned % confine.SPARE_UIDS
        if self.confinement.spare_uid:
            folder.give_to(uid)
        setup_pipe, report = os.pipe()
        # Set here rather than in the child, where every first write to a shared page copies it.
        os.chdir(folder.path)
        os.environ["HOME"] = os.environ["TMPDIR"] = tempfile.tempdir = folder.path
        try:
            pid = fork()
        except OSError:
            self.free.append(folder)
            os.close(setup_pipe)
            raise
        else:
            if pid == 0:
                become_child(self.confinement, request, fds, folder.ruleset, uid, report)
        finally:
            os.close(report)
        run = Run(pid, request, folder, setup_pipe)
        self.running[run.exit_fd] = run
        self.selector.register(run.exit_fd, selectors.EVENT_READ)

    def new_folder(self):
        """Create another scratch folder, which later runs reuse."""
        folder = scratch.Scratch(os.path.join(self.root, f"run-{len(self.folders)}"), self.confinement)
        self.folders.append(folder)
        return folder

    def reap(self, run):
        """Report a child's exit to the client, once its folder is empty again."""
        self.selector.unregister(run.exit_fd)
        os.close(run.exit_fd)
        status = os.waitpid(run.pid, 0)[1]
        error = os.read(run.setup_pipe, 1000).decode(errors="replace")
        os.close(run.setup_pipe)
        wall_s, leftover = time.monotonic() - run.started, ""
        try:
            run.folder.clear()
            self.free.append(run.folder)
        except OSError as cause:  # this folder is not reused; the next run gets a new one
            leftover = f"{run.folder.path} could not be emptied: {cause}"
        code = os.waitstatus_to_exitcode(status)
        self.reply(run.id, code, wall_s, over_quota=run.over_quota, error=error, leftover=leftover)

    def reply(self, run_id, code, wall_s, *, over_quota=False, error="", leftover=""):
        """Send the client the result of a run."""
        message = {"id": run_id, "code": code, "wall": wall_s, "over_quota": over_quota}
        # The client may have been killed. `accept` notices, and the server still has to clean up.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.control.send(json.dumps(message | {"error": error, "leftover": leftover}).encode())

    def watch(self):
        """Kill every child that exceeds its disk quota or its number of threads."""
        for run in self.running.values():
            if not run.over_quota and run.exceeds_limits():
                run.over_quota = True
                os.kill(run.pid, signal.SIGKILL)

    def shut_down(self):
        """Kill all children and remove all scratch folders, even if the client was killed."""
        for run in self.running.values():
            os.kill(run.pid, signal.SIGKILL)
            os.waitpid(run.pid, 0)
        os.chdir("/")
        for folder in self.folders:
            folder.remove()
        os.rmdir(self.root)


def fork():
    """Fork; wait and retry if the machine is temporarily out of processes."""
    for _ in range(FORK_ATTEMPTS - 1):
        try:
            return os.fork()
        except BlockingIOError:
            time.sleep(WATCH_S)
    return os.fork()


def thread_count(pid):
    """Number of threads of a process; 0 if it has exited."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command name may contain spaces and brackets, so fields are counted from the last bracket.
            return int(file.read().rsplit(b")", 1)[1].split()[17])
    except (OSError, IndexError, ValueError):
        return 0


def become_child(confinement, request, fds, ruleset, uid, report):
    """In the forked child: install the file descriptors, apply the layers, run. Never returns."""
    code = 1
    report = fcntl.fcntl(report, fcntl.F_DUPFD, REPORT_FD)
    try:
        os.setsid()
        source = _read(fds[0])
        spec = json.loads(source) if request["role"] == "test_within" else {}
        # Moved to high numbers first: a received descriptor may itself be one of the targets 0 to 4.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in fds[1:]]
        for target, fd in enumerate(high):
            os.dup2(fd, target)
        os.closerange(len(high), REPORT_FD)
        confinement.apply(ruleset, uid, request["memory"], request["cpu"], request["file"])
    except BaseException as error:
        # The program has not started yet, so any failure is the sandbox's own.
        os.write(report, f"{type(error).__name__}: {error}".encode()[:1000])
        os._exit(1)
    try:
        # Closes the setup pipe: from here on the program cannot make its failure look like one of the sandbox.
        os.closerange(len(high), 65_536)
        code = child.run_role(request["role"], source, spec)
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            if not stream.closed:
                stream.flush()
    except BaseException:
        code = code or 1
    finally:
        os._exit(code & 0xFF)


def _import_common():
    # Not asyncio: it doubles the time of every fork, and few programs use it.
    for name in (
        "bisect",
        "collections",
        "copy",
        "datetime",
        "decimal",
        "fractions",
        "functools",
        "heapq",
        "itertools",
        "math",
        "operator",
        "random",
        "re",
        "statistics",
        "string",
        "typing",
    ):
        __import__(name)


def _read(fd):
    size = os.fstat(fd).st_size
    return os.pread(fd, size, 0).decode("utf-8", errors="replace")


def _open_standard_streams():
    # Created once on /dev/null; each child replaces the descriptors beneath them.
    sys.stdin, sys.stdout = os.fdopen(0, errors="replace"), os.fdopen(1, "w", errors="replace")
    sys.stderr = os.fdopen(2, "w", errors="replace")
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr


def _ignore_modes():
    # The filter refuses changes of modes and times, which would make `shutil.copy` fail after copying.
    shutil.copymode = shutil.copystat = lambda *arguments, **options: None


if __name__ == "__main__":
    _import_common()
    control = socket.socket(fileno=CONTROL_FD)
    os.dup2(1, 0)
    _open_standard_streams()
    _ignore_modes()
    sys.set_int_max_str_digits(0)
    Server(control, os.getcwd()).serve()
