"""
Fork server: a small process that keeps an interpreter warm and forks one fresh, confined child for every run.

Started as a script with a clean environment; standard library only. Protocol: one JSON message a packet on a
SOCK_SEQPACKET socket, with the child's file descriptors beside it; a reply when the child has ended.
"""

import fcntl
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

sys.path.pop(0)
CONTROL_FD = 3
MAX_MESSAGE = 1 << 16
REPORT_FD = 256


def main():
    """Serve until the control socket closes."""
    _import_common()
    sys.set_int_max_str_digits(0)
    control = socket.socket(fileno=CONTROL_FD)
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    selector.register(wake_read, selectors.EVENT_READ)
    running = {}
    ready = {"ready": True, "landlock": confine.landlock_version(), "seccomp": confine.seccomp_supported()}
    control.send(json.dumps(ready).encode())
    while True:
        for key, _ in selector.select():
            if key.fileobj is control and not _serve_one(control, running):
                _end_all(running)
                return
            if key.fileobj == wake_read:
                os.read(wake_read, 4096)
        _reap(control, running)


def _import_common():
    for name in (
        "collections",
        "datetime",
        "decimal",
        "fractions",
        "functools",
        "heapq",
        "itertools",
        "math",
        "random",
    ):
        __import__(name)
    for name in ("re", "statistics", "string", "typing", "asyncio", "bisect", "copy", "operator"):
        __import__(name)


def _serve_one(control, running):
    message, fds, _, _ = socket.recv_fds(control, MAX_MESSAGE, 8)
    if not message:
        return False
    request = json.loads(message)
    if "kill" in request:
        for pid, (run_id, *_) in running.items():
            if run_id == request["kill"]:
                os.kill(pid, signal.SIGKILL)
        return True
    scratch = tempfile.mkdtemp(prefix="run-", dir=request["scratch"])
    trouble, report = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become_child(request, fds, scratch, report)
    for fd in (*fds, report):
        os.close(fd)
    running[pid] = (request["id"], scratch, time.monotonic(), trouble)
    return True


def _become_child(request, fds, scratch, report):
    code = 1
    report = fcntl.fcntl(report, fcntl.F_DUPFD, REPORT_FD)
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        confine.die_with_parent()
        source = _read(fds[0])
        spec = json.loads(source) if request["role"] == "test" else {}
        # Move the fds out of the way first: the targets 0..4 may be among them.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in fds[1:]]
        for target, fd in enumerate(high):
            os.dup2(fd, target)
        os.closerange(len(high), REPORT_FD)
        sys.stdin, sys.stdout = os.fdopen(0, errors="replace"), os.fdopen(1, "w", errors="replace")
        sys.stderr = os.fdopen(2, "w", errors="replace")
        os.chdir(scratch)
        os.environ["HOME"] = os.environ["TMPDIR"] = tempfile.tempdir = scratch
        confine.confine(scratch, request["memory"], request["cpu"], request["file"])
    except BaseException as error:
        # The program has not started: whatever went wrong is the sandbox's fault.
        os.write(report, f"{type(error).__name__}: {error}".encode()[:1000])
        os._exit(1)
    try:
        # From here on nothing the program does can be taken for trouble of the sandbox.
        os.closerange(REPORT_FD, REPORT_FD + 16)
        code = child.run_role(request["role"], "" if spec else source, spec)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        code = code or 1
    os._exit(code & 0xFF)


def _read(fd):
    with os.fdopen(os.dup(fd), "rb") as stream:
        stream.seek(0)
        return stream.read().decode("utf-8", errors="replace")


def _reap(control, running):
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        run_id, scratch, started, trouble = running.pop(pid)
        with os.fdopen(trouble, "rb") as report:
            message = report.read().decode(errors="replace")
        shutil.rmtree(scratch, ignore_errors=True)
        code = os.waitstatus_to_exitcode(status)
        reply = {"id": run_id, "code": code, "wall": time.monotonic() - started, "trouble": message}
        control.send(json.dumps(reply).encode())


def _end_all(running):
    for pid, (_, scratch, *_) in running.items():
        os.kill(pid, signal.SIGKILL)
        shutil.rmtree(scratch, ignore_errors=True)


main()
