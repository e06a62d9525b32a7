"""
Programs that the sandbox has to survive, with the statuses they may end with. Standard library only.

Placeholders: `{victim}` is a folder that must not change, `{home}` a home folder with a secret in it, `{trainer}` the
process id of the trainer.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass

OK, ERROR, TIMEOUT, MEMORY = "ok", "error", "timeout", "memory"
OUTPUT, KILLED, DENIED = "output", "killed", "denied"


@dataclass(frozen=True)
class Program:
    """A program and how it may end."""

    id: str
    text: str
    allowed: set[str]
    stdout: str | None = None
    """Expected standard output; `None` to accept any."""
    memory_mb: int = 512
    read_only: set[str] | None = None
    """Allowed statuses in tier B, where nothing can be written but public files can be read; `None`: as in tier A."""
    needs: str = ""
    """Module that has to be installed; empty for none."""


def raw_syscall(number: str, *arguments: str) -> str:
    """A program that makes a raw system call, prints `errno`, and fails if the call succeeded."""
    call = ", ".join([number, *(arguments or ("0", "0", "0", "0"))])
    return (
        "import ctypes, sys\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"assert libc.syscall({call}) == -1, 'the call succeeded'\nprint(ctypes.get_errno())"
    )


MACHINE_CODE = """
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex({code!r}))
ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
print('succeeded')
"""
HOARD = """
import ctypes, os, threading, time
def hoard():
    try:
        for _ in range(40):
            fd = os.open('x', os.O_RDWR | os.O_CREAT); os.unlink('x'); os.write(fd, bytes(7 << 20))
    except OSError:
        os._exit(1)
    time.sleep(9)
"""
REFUSED = {DENIED, ERROR}
PROGRAMS = [
    # never terminates
    Program("spins", "while True: pass", {TIMEOUT}),
    Program("sleeps", "import time; time.sleep(10**6)", {TIMEOUT}),
    Program(
        "ignores SIGXCPU", "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", {TIMEOUT}
    ),
    Program(
        "ignores all signals",
        "import signal\nfor s in range(1, 65):\n try: signal.signal(s, signal.SIG_IGN)\n"
        " except (OSError, ValueError): pass\nwhile True: pass",
        {TIMEOUT},
    ),
    Program("swallows everything", "while True:\n try:\n  while True: pass\n except BaseException: pass", {TIMEOUT}),
    Program("huge power", "9**9**8", {TIMEOUT, MEMORY}),
    Program("catastrophic regex", "import re; re.match(r'(a+)+$', 'a' * 60 + 'b')", {TIMEOUT}),
    Program("stops itself", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", {TIMEOUT}),
    Program("waits for a signal", "import signal; signal.pause()", {TIMEOUT}),
    Program("deadlock", "import threading; l = threading.Lock(); l.acquire(); l.acquire()", {TIMEOUT}),
    Program("hangs at exit", "import atexit, threading\nthreading.Thread(target=lambda: exec('while True: pass')).start()", {TIMEOUT}),
    # memory
    Program("grows a list", "x = []\nwhile True: x.append(bytearray(10**6))", {MEMORY}),
    Program("bytearray of 8 GiB", "bytearray(8 << 30)", {MEMORY}),
    Program("maps and touches", "import mmap\nm = []\nwhile True:\n x = mmap.mmap(-1, 1 << 24); x.write(bytes(1 << 24)); m.append(x)", {MEMORY, ERROR}),
    Program("string doubling", "s = 'x'\nwhile True: s += s", {MEMORY}),
    Program("deep recursion", "def f(): f()\nf()", {ERROR}),
    Program("raised recursion limit", "import sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()", {MEMORY, KILLED}, memory_mb=96),
    Program("threads with small stacks", "import threading, time\nthreading.stack_size(64 << 10)\nwhile True:\n try: threading.Thread(target=time.sleep, args=(99,), daemon=True).start()\n except RuntimeError: pass", {KILLED, TIMEOUT, MEMORY}),
    # output and files
    Program("path longer than the kernel takes", "import os, time\nfor _ in range(30): os.mkdir('d' * 250); os.chdir('d' * 250)\ntime.sleep(0.3)", {OK, KILLED}, read_only=REFUSED),
    Program("swaps files and folders", "import ctypes, os, time\nlibc = ctypes.CDLL(None)\nfor n in range(200): os.mkdir(f'd{{n}}'); open(f'f{{n}}', 'w').close()\nend = time.time() + 0.5\nwhile time.time() < end:\n for n in range(200): libc.renameat2(-100, b'd%d' % n, -100, b'f%d' % n, 2)", {OK, KILLED}, read_only=REFUSED),
    Program("swaps a folder and a link out", "import ctypes, os, time\nlibc = ctypes.CDLL(None)\nos.symlink({victim!r}, 's'); os.mkdir('d', 0o300)\nend = time.time() + 0.5\nwhile time.time() < end:\n for _ in range(500): libc.renameat2(-100, b'd', -100, b's', 2)\n for n in 'ds':\n  try: os.rmdir(n); os.mkdir(n, 0o300)\n  except OSError: pass", {OK, KILLED}, read_only=REFUSED),
    Program("keeps deleted files", "import os, time\nfiles = []\nfor n in range(40):\n f = open('x', 'wb'); os.unlink('x'); f.write(bytes(7 << 20)); f.flush(); files.append(f)\ntime.sleep(9)", {KILLED, TIMEOUT, ERROR}, read_only=REFUSED),
    Program("keeps deleted files by a mapped page", "import ctypes, os, time\nmmap = ctypes.CDLL(None).mmap\nfor n in range(40):\n fd = os.open('x', os.O_RDWR | os.O_CREAT); os.unlink('x'); os.write(fd, bytes(7 << 20))\n mmap(None, ctypes.c_size_t(4096), 1, 1, fd, ctypes.c_long(0)); os.close(fd)\ntime.sleep(9)", {KILLED, ERROR}, read_only=REFUSED),
    Program("keeps deleted files after its first thread ended", HOARD + "threading.Thread(target=hoard).start()\nctypes.CDLL(None).pthread_exit(None)", {KILLED, ERROR}, read_only=REFUSED),
    Program("reserves space beyond the end of a file", "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\nfd = os.open('x', os.O_RDWR | os.O_CREAT)\nassert libc.fallocate(fd, 1, ctypes.c_long(0), ctypes.c_long(1 << 30)) == -1\nprint(ctypes.get_errno())", {OK}, stdout="95\n", read_only=REFUSED),
    Program("thread with descriptors of its own", raw_syscall("436", "3", "3", "2") if platform.machine() == "x86_64" else "print(1)", {OK}, stdout="1\n"),
    Program("hides its descriptors", "import ctypes\nassert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == -1\nraise PermissionError", {DENIED}),
    Program("sends files away", "import os, socket\na, b = socket.socketpair()\nsocket.send_fds(a, [b'x'], [os.open('/dev/null', os.O_RDONLY)])", {DENIED}),
    Program("exits with a hostile object", "import sys\nclass I(int):\n def __and__(s, o): raise ValueError\n def __int__(s): raise ValueError\nsys.exit(I(0))", {OK}),
    Program("endless stdout", "while True: print('x' * 1000)", {OUTPUT}),
    Program("endless stderr", "import sys\nwhile True: print('x' * 1000, file=sys.stderr)", {OUTPUT}),
    Program("one huge file", "f = open('x', 'wb')\nwhile True: f.write(bytes(10**6))", {ERROR}, read_only=REFUSED),
    Program("sparse huge file", "f = open('x', 'wb'); f.truncate(1 << 40)", {ERROR}, read_only=REFUSED),
    Program("millions of small files", "n = 0\nwhile True:\n n += 1\n open(str(n), 'w').write('x')", {KILLED, TIMEOUT, ERROR}, read_only=REFUSED),
    Program("many big files", "for n in range(1000): open(str(n), 'wb').write(bytes(4 << 20))\nwhile True: pass", {KILLED, TIMEOUT, ERROR}, read_only=REFUSED),
    Program("files in closed folders", "import os\nos.mkdir('d', 0o300)\nos.chdir('d')\nn = 0\nwhile True:\n n += 1\n open(str(n), 'w').close()", {KILLED, TIMEOUT, ERROR}, read_only=REFUSED),
    Program("endless nesting of folders", "import os\nwhile True:\n os.mkdir('d'); os.chdir('d')", {KILLED, TIMEOUT, ERROR}, read_only=REFUSED),
    Program("opens files without end", "x = []\nwhile True: x.append(open('/dev/null'))", {ERROR}),
    Program("closes its own stdout", "import os; os.close(1); os.close(2)", {OK, ERROR}),
    Program("closes every fd", "import os; os.closerange(0, 1000)\nprint('x')", {OK, ERROR}),
    Program("invalid UTF-8", "import sys; sys.stdout.buffer.write(b'\\xff\\xfe')", {OK}, stdout="\ufffd\ufffd"),
    Program("NUL on stdout", "print('a\\0b')", {OK}),
    Program("lone surrogate on stdout", "print('\\ud800')", {OK}, stdout="?\n"),
    Program("null byte in the source", "a\0b", {ERROR}),
    Program("5 MB line", "x = '" + "y" * 5_000_000 + "'", {OK, ERROR}),
    Program("syntax error", "def f(:", {ERROR}),
    Program("reads input to its end", "input()", {ERROR}),
    Program("raises SystemExit with text", "raise SystemExit('bye')", {ERROR}),
    Program("segfault", "import ctypes; ctypes.string_at(0)", {KILLED}),
    Program("abort", "import os; os.abort()", {KILLED}),
    Program("inherited fds", "import os\nopened = []\nfor n in range(3, 1024):\n try: os.fstat(n); opened.append(n)\n except OSError: pass\nprint(opened)", {OK}, stdout="[]\n"),
    # processes
    Program("fork", "import os; os.fork()", {DENIED}),
    Program("fork bomb", "import os\nwhile True: os.fork()", {DENIED}),
    Program("thread bomb", "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,), daemon=True).start()", {ERROR, KILLED}),
    Program("double-fork daemon", "import os\nif os.fork() == 0:\n os.setsid()\n if os.fork() == 0:\n  import time; time.sleep(999)", {DENIED}),
    Program("zombie farm", "import os\nfor _ in range(100):\n if os.fork() == 0: os._exit(0)", {DENIED}),
    Program("vfork by posix_spawn", "import os; os.posix_spawn('/bin/ls', ['ls'], {{}})", {DENIED}),
    Program("subprocess", "import subprocess; subprocess.run(['ls'])", {DENIED}),
    Program("shell", "import os; assert os.system('echo hi') != 0; raise PermissionError", {DENIED}),
    Program("multiprocessing", "import multiprocessing as m; m.get_context('fork').Process(target=print).start()", REFUSED),
    Program("exec", "import os; os.execv('/bin/ls', ['ls'])", {DENIED}),
    Program("memfd and exec", "import os\nfd = os.memfd_create('x'); os.write(fd, open('/bin/true', 'rb').read())\nos.execv(f'/proc/self/fd/{{fd}}', ['x'])", REFUSED),
    Program("clone with new user namespace", "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == -1\nraise PermissionError", {DENIED}),
    # files it must not read
    Program("reads /etc/shadow", "open('/etc/shadow').read()", {DENIED}),
    Program("reads /etc/passwd", "print(open('/etc/passwd').read())", {DENIED}, read_only={OK}),
    Program("lists home", "import os; print(os.listdir({home!r}))", {DENIED}),
    Program("reads the hub token", "print(open({home!r} + '/.cache/huggingface/token').read())", {DENIED}),
    Program("prints os.environ", "import os; print(dict(os.environ))", {OK}),
    Program("environ of the server", "import os; print(open(f'/proc/{{os.getppid()}}/environ').read())", {DENIED}),
    Program("environ of the trainer", "print(open('/proc/{trainer}/environ').read())", {DENIED}),
    Program("memory of the server", "import os; open(f'/proc/{{os.getppid()}}/mem', 'rb').read(1)", {DENIED}),
    Program("environ of everybody", "import os, glob\nfor p in os.listdir('/proc'):\n if p.isdigit():\n  try: print(open(f'/proc/{{p}}/environ').read())\n  except OSError: pass", {OK, DENIED}),
    Program("fds of the trainer", "import os; print(os.listdir('/proc/{trainer}/fd'))", {DENIED}),
    Program("its own fds by /proc", "import os; print(open('/proc/self/maps').read())", {DENIED}, read_only={OK, DENIED}),
    Program("symlink out, then read", "import os; os.symlink({home!r} + '/secret', 'x'); print(open('x').read())", {DENIED}),
    Program("hard link of a secret", "import os; os.link({home!r} + '/secret', 'x'); print(open('x').read())", {DENIED, ERROR}),
    Program("other runs' folders", "import os; print(os.listdir('..'))", {DENIED}),
    Program("prefix of the interpreter", "import os, sys; print(os.listdir(sys.prefix))", {DENIED}, read_only={OK}),
    Program("private file in the interpreter's prefix", "import sys; print(open(sys.prefix + '/private').read())", REFUSED, read_only={OK, ERROR}),
    # files it must not write
    Program("empties a file by opening it", "import os; os.open({victim!r} + '/file', os.O_RDONLY | os.O_TRUNC)", {DENIED}),
    Program("empties a file in access mode 3", "import os; os.open({victim!r} + '/file', 3 | os.O_TRUNC)", {DENIED}),
    Program("opens a file in access mode 3", "import os; os.open({victim!r} + '/file', 3)", {DENIED}),
    Program("empties a library by opening it", "import os; os.open(os.__file__, os.O_RDONLY | os.O_TRUNC)", {DENIED}),
    Program("empties a library in access mode 3", "import os; os.open(os.__file__, 3 | os.O_TRUNC)", {DENIED}),
    Program("empties a library for writing", "import os; os.open(os.__file__, os.O_WRONLY | os.O_TRUNC)", {DENIED}),
    Program("temporary file elsewhere", "import os; os.open({victim!r}, os.O_RDWR | os.O_TMPFILE)", {DENIED}),
    Program("writes to /tmp", "open('/tmp/aflow-was-here', 'w').write('x')", {DENIED}),
    Program("writes to the victim", "open({victim!r} + '/new', 'w').write('x')", {DENIED}),
    Program("overwrites the victim", "open({victim!r} + '/file', 'w').write('x')", {DENIED}),
    Program("symlink out, then write", "import os; os.symlink({victim!r} + '/file', 'x'); open('x', 'w').write('x')", {DENIED}),
    Program("climbs out to write", "open('../../../../../../../../..' + {victim!r} + '/new', 'w')", {DENIED}),
    Program("writes into site-packages", "import site, sysconfig; open(sysconfig.get_paths()['purelib'] + '/evil.py', 'w')", {DENIED}),
    Program("writes a .pyc of the library", "import json.decoder as d; open(d.__cached__, 'wb')", {DENIED}),
    Program("removes a folder", "import shutil; shutil.rmtree({victim!r})", {DENIED}),
    Program("rm -rf by shell", "import os; os.system('rm -rf ' + {victim!r}); raise PermissionError", {DENIED}),
    Program("unlinks", "import os; os.unlink({victim!r} + '/file')", {DENIED}),
    Program("renames", "import os; os.rename({victim!r} + '/file', 'x')", REFUSED),
    Program("truncates by path", "import os; os.truncate({victim!r} + '/file', 0)", {DENIED}),
    Program("changes modes", "import os; os.chmod({victim!r} + '/file', 0o777)", {DENIED}),
    Program("changes owners", "import os; os.chown({victim!r} + '/file', 1, 1)", {DENIED}),
    Program("changes times", "import os; os.utime({victim!r} + '/file', (1, 1))", {DENIED}),
    Program("leases a library", "import fcntl, os\nfcntl.fcntl(os.open(os.__file__, os.O_RDONLY), 1024, 1)", REFUSED),
    Program("flags by ioctl", "import fcntl, os\nfcntl.ioctl(os.open(os.__file__, os.O_RDONLY), 0x40086602, bytes(8))", REFUSED),
    Program("watches a folder", "import ctypes\nassert ctypes.CDLL(None).inotify_init1(0) == -1\nraise PermissionError", {DENIED}),
    Program("sets attributes", "import os; os.setxattr({victim!r} + '/file', 'user.x', b'1')", {DENIED}),
    Program("leaves modules behind", "for n in ('sitecustomize', 'json', 're'): open(n + '.py', 'w').write('raise SystemExit')", {OK}, read_only=REFUSED),
    # network
    Program("TCP", "import socket; socket.create_connection(('127.0.0.1', 80))", {DENIED}),
    Program("UDP", "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", {DENIED}),
    Program("unix socket", "import socket; socket.socket(socket.AF_UNIX).connect('/var/run/docker.sock')", {DENIED}),
    Program("datagram pair that sends elsewhere", "import socket\na, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\na.sendto(b'x', '/dev/log')", {DENIED}),
    Program("metadata address", "import urllib.request; urllib.request.urlopen('http://169.254.169.254/')", REFUSED),
    Program("listens", "import socket; socket.create_server(('127.0.0.1', 0))", {DENIED}),
    Program("netlink", "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", {DENIED}),
    # other processes and the machine
    Program("kills the server", "import os; os.kill(os.getppid(), 9)", {DENIED}),
    Program("kills the trainer", "import os; os.kill({trainer}, 9)", {DENIED}),
    Program("kills everything", "import os; os.kill(-1, 9)", {DENIED}),
    Program("kills its group's leader", "import os; os.killpg(os.getpgid(os.getppid()), 9)", {DENIED}),
    Program("limits the trainer", "import resource; resource.prlimit({trainer}, resource.RLIMIT_CPU, (1, 1))", {DENIED}),
    Program("slows the user down", "import os; os.setpriority(os.PRIO_USER, 0, 19)", {DENIED}),
    Program("pins the trainer", "import os; os.sched_setaffinity({trainer}, {{0}})", {DENIED}),
    Program("SIGIO to the trainer", "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, {trainer})", {DENIED}),
    Program("outlives its parent", "import ctypes\nassert ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == -1\nraise PermissionError", {DENIED}),
    Program("ptrace of the parent", "import ctypes, os\nassert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == -1\nraise PermissionError", {DENIED}),
    Program("raises its own limits", "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", REFUSED),
    Program("setuid 0", "import os; os.setuid(0); os.setuid(12345); open('/etc/shadow')", REFUSED),
    Program("mount", "import ctypes\nassert ctypes.CDLL(None).mount(b'none', b'/mnt', b'tmpfs', 0, None) == -1\nraise PermissionError", {DENIED}),
    Program("nice -20", "import os; os.nice(-20)", {DENIED}),
    Program("shared memory of others", "import ctypes\nassert ctypes.CDLL(None).shmat(0, None, 0) == -1\nraise PermissionError", {DENIED}),
    Program("setxattrat", raw_syscall("463"), {OK}, stdout="38\n"),
    Program("removexattrat", raw_syscall("466"), {OK}, stdout="38\n"),
    Program("open_tree_attr", raw_syscall("467"), {OK}, stdout="38\n"),
    Program("file_setattr", raw_syscall("469"), {OK}, stdout="38\n"),
    Program("system call of a later kernel", raw_syscall("511"), {OK}, stdout="38\n"),
    Program("io_uring", raw_syscall("425", "8", "0"), {OK}, stdout="1\n"),
    Program("clone3", raw_syscall("435", "0", "0"), {OK}, stdout="38\n"),
    Program("pidfd_open", raw_syscall("434", "{trainer}", "0"), {OK}, stdout="1\n"),
    # controls: legal programs, which must succeed
    Program("sum", "print(sum(range(10**6)))", {OK}, stdout="499999500000\n"),
    Program("asyncio", "import asyncio\nasync def f(): return 7\nprint(asyncio.run(f()))", {OK}, stdout="7\n"),
    Program("threads", "import threading\nt = [threading.Thread(target=print) for _ in range(8)]\n[x.start() for x in t]; [x.join() for x in t]", {OK}),
    Program("thread pool", "from concurrent.futures import ThreadPoolExecutor as P\nprint(sum(P(8).map(abs, range(9))))", {OK}, stdout="36\n"),
    Program("tempfile", "import tempfile\nwith tempfile.TemporaryDirectory() as d: print(open(d + '/x', 'w').write('ab'))", {OK}, stdout="2\n", read_only=REFUSED | {OK}),
    Program("numpy", "import numpy; print(numpy.arange(3).sum())", {OK}, stdout="3\n", needs="numpy"),
    Program("5 MB of output", "print('x' * 5_000_000)", {OK}),
    Program("unicode", "print('é ✓')", {OK}, stdout="é ✓\n"),
    Program("its own signal", "import os, signal\nsignal.signal(signal.SIGUSR1, lambda *a: print('got it'))\nos.kill(os.getpid(), signal.SIGUSR1)", {OK}, stdout="got it\n"),
    Program("its own limit", "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 1)); print(1)", {OK}, stdout="1\n"),
    Program("thread that is not joined", "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.2), print('done'))).start()", {OK}, stdout="done\n"),
    Program("writes at exit", "import atexit, sys\natexit.register(lambda: print('bye'))\nsys.__stdout__.write('hi ')", {OK}, stdout="hi bye\n"),
    Program("closes sys.stdout", "import sys\nprint('a'); sys.stdout.close()", {OK}, stdout="a\n"),
    Program("writes to the null device", "import os\nprint('x', file=open(os.devnull, 'w')); print('y')", {OK}, stdout="y\n", read_only=REFUSED),
    Program("copies a file", "import shutil\nopen('a', 'w').write('x')\nshutil.copy('a', 'b'); shutil.copy2('a', 'c')\nprint(open('b').read() + open('c').read())", {OK}, stdout="xx\n", read_only=REFUSED),
    Program("pickles its own class", "import pickle\nclass P: x = 1\nprint(pickle.loads(pickle.dumps(P())).x)", {OK}, stdout="1\n"),
    Program("dataclass with late annotations", "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n x: int\nprint(P(1).x)", {OK}, stdout="1\n"),
    Program("dataclasses and typing", "from dataclasses import dataclass\nfrom typing import List\n@dataclass\nclass P:\n x: List[int]\nprint(P([1]))", {OK}, stdout="P(x=[1])\n"),
    Program("decimal of 10**5 digits", "print(len(str(10**100_000)))", {OK}, stdout="100001\n"),
]  # fmt: skip
if platform.machine() == "x86_64":
    PROGRAMS += [
        # CLONE_VM and CLONE_THREAD, without CLONE_FILES
        Program("clone of a thread with descriptors of its own", raw_syscall("56", "0x10900", "0", "0", "0", "0"), {OK}, stdout="1\n"),
        Program("bpf", raw_syscall("321"), {OK}, stdout="1\n"),
        Program("userfaultfd", raw_syscall("323"), {OK}, stdout="1\n"),
        Program("process_vm_readv", raw_syscall("310", "{trainer}", "0", "0", "0", "0", "0"), {OK}, stdout="1\n"),
        Program("x32 call", "import ctypes; ctypes.CDLL(None).syscall(0x40000000 + 39)", {DENIED}),
        # b8 14 00 00 00 cd 80 c3: getpid by the 32-bit gate
        Program("int 0x80", MACHINE_CODE.format(code="b814000000cd80c3"), {DENIED, KILLED}),
    ]  # fmt: skip


def fill(program: str, *, victim: str, home: str, trainer: int) -> str:
    """Program source with the placeholders filled in."""
    return program.format(victim=victim, home=home, trainer=trainer)
