"""
Fork server: a small process that keeps an interpreter warm and forks one fresh, confined child for every run.

Started as a script with a clean environment; standard library only. Protocol: one JSON message a packet on a
SOCK_SEQPACKET socket. The server tells what the machine offers, is told which layers to use, and then takes runs, each
with the child's file descriptors beside it; a reply when the child has ended.
"""

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
"""How often the scratch folders of running children are looked at, in seconds."""


class Run:
    """A running child: its request, its scratch folder, and the pipe on which it tells of trouble."""

    def __init__(self, pid, request, folder, trouble):
        self.pid = pid
        self.id = request["id"]
        self.folder = folder
        self.trouble = trouble
        self.ended_fd = os.pidfd_open(pid)
        self.started = time.monotonic()
        self.over_quota = False


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
        os.chmod(root, 0o711)  # lets throw-away users through to their own folder; they cannot list it
        control.send(json.dumps(confine.probe(root)).encode())
        self.confinement = confine.Confinement(json.loads(control.recv(MAX_MESSAGE)))
        confine.drop_bounding_set()

    def serve(self):
        """Take requests and reap children."""
        # Nothing loaded so far is ever collected: a child's collector must not touch, and so copy, shared pages.
        gc.collect()
        gc.freeze()
        watched = time.monotonic()
        while True:
            for key, _ in self.selector.select(WATCH_S if self.running else None):
                if key.fileobj is not self.control:
                    self.reap(self.running.pop(key.fileobj))
                elif not self.take():
                    self.end_all()
                    return
            if time.monotonic() - watched > WATCH_S:
                self.watch()
                watched = time.monotonic()

    def take(self):
        """Start, or kill, what the next message says; `False` at the end of messages."""
        message, fds, _, _ = socket.recv_fds(self.control, MAX_MESSAGE, 8)
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
            # The machine is out of processes, files or disk: no program's doing, and no reason to end.
            self.reply(request["id"], 1, 0.0, trouble=f"{type(error).__name__}: {error}")
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
        trouble, report = os.pipe()
        # What a child would set is set here: each page it writes first is a page to copy.
        os.chdir(folder.path)
        os.environ["HOME"] = os.environ["TMPDIR"] = tempfile.tempdir = folder.path
        try:
            pid = fork()
        except OSError:
            self.free.append(folder)
            os.close(trouble)
            raise
        else:
            if pid == 0:
                become_child(self.confinement, request, fds, folder.ruleset, uid, report)
        finally:
            os.close(report)
        run = Run(pid, request, folder, trouble)
        self.running[run.ended_fd] = run
        self.selector.register(run.ended_fd, selectors.EVENT_READ)

    def new_folder(self):
        """One more scratch folder, prepared for every later run in it."""
        folder = scratch.Scratch(os.path.join(self.root, f"run-{len(self.folders)}"), self.confinement)
        self.folders.append(folder)
        return folder

    def reap(self, run):
        """Tell the client that a child has ended, once its folder is empty again."""
        self.selector.unregister(run.ended_fd)
        os.close(run.ended_fd)
        status = os.waitpid(run.pid, 0)[1]
        trouble = os.read(run.trouble, 1000).decode(errors="replace")
        os.close(run.trouble)
        wall_s, left = time.monotonic() - run.started, ""
        try:
            run.folder.clear()
            self.free.append(run.folder)
        except OSError as error:  # not used again; the next run gets another
            left = f"{run.folder.path} could not be emptied: {error}"
        code = os.waitstatus_to_exitcode(status)
        self.reply(run.id, code, wall_s, over_quota=run.over_quota, trouble=trouble, left=left)

    def reply(self, run_id, code, wall_s, *, over_quota=False, trouble="", left=""):
        """Send the client the end of a run."""
        message = {"id": run_id, "code": code, "wall": wall_s, "over_quota": over_quota}
        self.control.send(json.dumps(message | {"trouble": trouble, "left": left}).encode())

    def watch(self):
        """Kill every child that keeps more on disk, or has more threads, than it may."""
        for run in self.running.values():
            if not run.over_quota and (run.folder.over_quota(run.pid) or threads(run.pid) > confine.MAX_THREADS):
                run.over_quota = True
                os.kill(run.pid, signal.SIGKILL)

    def end_all(self):
        """Leave no child and no file behind, whatever became of the client."""
        for run in self.running.values():
            os.kill(run.pid, signal.SIGKILL)
            os.waitpid(run.pid, 0)
        os.chdir("/")
        for folder in self.folders:
            folder.clear()
            os.rmdir(folder.path)
        os.rmdir(self.root)


def fork():
    """Fork, with some patience where the machine is short of processes for a moment."""
    for _ in range(FORK_ATTEMPTS - 1):
        try:
            return os.fork()
        except BlockingIOError:
            time.sleep(WATCH_S)
    return os.fork()


def threads(pid):
    """Threads of a process; 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rsplit(b")", 1)[1].split()[17])
    except (OSError, IndexError, ValueError):
        return 0


def become_child(confinement, request, fds, ruleset, uid, report):
    """In the forked child: take the given files, put on the layers, run. Never returns."""
    code = 1
    report = fcntl.fcntl(report, fcntl.F_DUPFD, REPORT_FD)
    try:
        os.setsid()
        source = _read(fds[0])
        spec = json.loads(source) if request["role"] == "test_within" else {}
        # Move the files out of the way first: the targets 0..4 may be among them.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in fds[1:]]
        for target, fd in enumerate(high):
            os.dup2(fd, target)
        os.closerange(len(high), REPORT_FD)
        confinement.put_on(ruleset, uid, request["memory"], request["cpu"], request["file"])
    except BaseException as error:
        # The program has not started: whatever went wrong is the sandbox's fault.
        os.write(report, f"{type(error).__name__}: {error}".encode()[:1000])
        os._exit(1)
    try:
        # From here on nothing the program does can be taken for trouble of the sandbox.
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
    # Not asyncio: it would double the time of every fork, and few programs want it.
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
    # Made once over /dev/null; a child puts its own files under them.
    sys.stdin, sys.stdout = os.fdopen(0, errors="replace"), os.fdopen(1, "w", errors="replace")
    sys.stderr = os.fdopen(2, "w", errors="replace")
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr


def _ignore_modes():
    # Modes and times of files cannot be set here; a copy of a file is good without them.
    shutil.copymode = shutil.copystat = lambda *arguments, **options: None


if __name__ == "__main__":
    _import_common()
    control = socket.socket(fileno=CONTROL_FD)
    os.dup2(1, 0)
    _open_standard_streams()
    _ignore_modes()
    sys.set_int_max_str_digits(0)
    Server(control, os.getcwd()).serve()
