"""
Layers that irrevocably confine the calling process: Landlock, seccomp, rlimits, credentials.

Standard library only; runs inside the sandbox's processes. Threat model: a program that does whatever raises its
reward, or is simply broken. Kernel exploits are out of scope.

The tier depends on what the machine offers. *A*: Landlock and seccomp. *B*: root without Landlock; a throw-away user
id and a filter that also refuses every write. *C*: neither, which is not a sandbox.
"""

import contextlib
import ctypes
import fcntl
import os
import resource
import struct
import sys

import filters
import libraries

_LIBC = ctypes.CDLL(None, use_errno=True)
# Constants of linux/prctl.h, linux/seccomp.h and the generic system call table; Python exposes none of them.
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 1, 22, 38, 24
_SECCOMP_MODE_FILTER = 2
_LANDLOCK_CREATE, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT = 444, 445, 446
_SIGKILL = 9
# Constants of linux/sched.h and linux/mount.h.
_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE, _MNT_DETACH = 2, 4, 1 << 14, 1 << 18, 2
_CAPABILITY_HEADER, _NO_CAPABILITIES = struct.pack("=Ii", 0x20080522, 0), bytes(24)
_NO_FLAGS = ctypes.c_uint32(0)
OPEN_FILES = 64
MAX_THREADS = 128
MAX_SIGNALS = 256
"""Signals that wait for a user's processes; without a limit, a program could use up those of its user."""
STACK_BYTES = 64 << 20
"""Stack of the main thread; deeper recursion kills the process instead of exhausting the machine."""
SPARE_UID = 2_000_000_000
"""First throw-away user id, far above those that a machine or a container runtime assigns."""
SPARE_UIDS = 100_000
HIGH_FD = 300
"""Lowest descriptor of a ruleset, above those that a child closes or reuses."""
_SYSTEM_FILES = ("/dev/urandom", "/etc/ld.so.cache", "/etc/localtime")


def probe(scratch):
    """Layers this machine offers, as plain values: Landlock ABI, seccomp, spare user ids, scratch folders on tmpfs."""
    return {
        "landlock": _landlock_version(),
        "seccomp": _seccomp_supported(),
        "spare_uid": _can_spare_uid(scratch),
        "tmpfs": _can_mount(scratch),
    }


def die_with_parent():
    """Ask the kernel to kill this process when its parent ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)


def drop_bounding_set():
    """Keep this process and its children from ever gaining a capability again."""
    if os.geteuid() == 0:
        for capability in range(64):
            _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def enter_mount_namespace():
    """Give this process mounts that no process outside sees, and that end with it and its children."""
    uid, gid = os.geteuid(), os.getegid()
    if _LIBC.unshare(_CLONE_NEWNS if uid == 0 else _CLONE_NEWNS | _CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "unshare")
    if uid != 0:  # a user namespace in which the user stays the same, but may mount
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    if _LIBC.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None):
        raise OSError(ctypes.get_errno(), "mount")


def mount_tmpfs(path, size, entries):
    """Mount an empty file system of at most `size` bytes and that many files and folders."""
    options = f"size={size},nr_inodes={entries + 1},mode=0700".encode()
    if _LIBC.mount(b"tmpfs", os.fsencode(path), b"tmpfs", _MS_NOSUID | _MS_NODEV, options):
        raise OSError(ctypes.get_errno(), "mount")


def unmount(path):
    """Undo [`mount_tmpfs`]."""
    if _LIBC.umount2(os.fsencode(path), _MNT_DETACH):
        raise OSError(ctypes.get_errno(), "umount2")


class Confinement:
    """
    The layers of one tier, prepared once, so that each child only has to apply them.

    Args:
        layers (`dict`):
            Result of [`probe`]; a layer the machine lacks is skipped.
    """

    def __init__(self, layers):
        self._filter = _Filter(read_only=not layers["landlock"]) if layers["seccomp"] else None
        self._landlock = layers["landlock"]
        self.spare_uid = layers["spare_uid"]
        self.tmpfs = layers["tmpfs"]
        if self.tmpfs:
            enter_mount_namespace()

    def ruleset(self, scratch):
        """A Landlock ruleset that makes `scratch` the only writable folder; `None` without Landlock."""
        return _ruleset(scratch, self._landlock) if self._landlock else None

    def apply(self, ruleset, uid, memory_bytes, cpu_s, file_bytes):
        """Confine the calling process irrevocably. `uid` is used if spare user ids are available."""
        # If the machine runs out of memory, the program should end, not the trainer. Some containers do not allow it.
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
        _limit_resources(memory_bytes, cpu_s, file_bytes)
        if self.spare_uid:
            # The kernel counts RLIMIT_NPROC per user, so it is meaningful only for a user id nobody shares.
            resource.setrlimit(resource.RLIMIT_NPROC, (MAX_THREADS, MAX_THREADS))
            _become(uid)
        else:  # those of root, or of a user namespace
            _drop_capabilities()
        # Changing credentials clears the death signal, so it is set afterwards.
        die_with_parent()
        if _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "no_new_privs")
        if ruleset is not None and _LIBC.syscall(_LANDLOCK_RESTRICT, ruleset, _NO_FLAGS):
            raise OSError(ctypes.get_errno(), "landlock_restrict_self")
        if self._filter is not None:
            self._filter.install()


class _Filter:
    """The system call filter, built once in memory that forked children share."""

    def __init__(self, read_only):
        program = filters.template(read_only)
        self._pid_offsets = filters.pid_offsets(program)
        self._code = ctypes.create_string_buffer(program, len(program))
        self._header = struct.pack("@HxxxxxxP", len(program) // 8, ctypes.addressof(self._code))

    def install(self):
        # The filter allows signals to the process itself, so each child writes its own pid into the program.
        for offset in self._pid_offsets:
            struct.pack_into("=I", self._code, offset, os.getpid())
        if _LIBC.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, self._header, 0, 0):
            raise OSError(ctypes.get_errno(), "seccomp")


def _landlock_version():
    return max(_LIBC.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1)), 0)


def _seccomp_supported():
    return filters.supported() and os.path.exists("/proc/sys/kernel/seccomp/actions_avail")


def _can_spare_uid(scratch):
    """Whether this process can switch to another user who can read the interpreter and reach the scratch folder."""
    needed = [scratch, *(path for path in sys.path if os.path.exists(path))]

    def switch():
        _become(SPARE_UID)
        for path in needed:
            os.stat(os.path.join(path, "."))
        with open(os.__file__, "rb") as file:
            file.read(1)

    return os.geteuid() == 0 and _succeeds(switch)


def _can_mount(scratch):
    """Whether this process can mount file systems for itself."""

    def mount():
        enter_mount_namespace()
        mount_tmpfs(scratch, 1 << 20, 1)

    return _succeeds(mount)


def _succeeds(function):
    """Whether a function raises nothing, tried in a throw-away child: what it changes cannot be undone."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        finally:  # whatever it raised: the child must not go on as a second server
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _become(uid):
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _limit_resources(memory_bytes, cpu_s, file_bytes):
    for kind, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_STACK, STACK_BYTES),
        (resource.RLIMIT_SIGPENDING, MAX_SIGNALS),
    ):
        resource.setrlimit(kind, (value, value))


def _drop_capabilities():
    if _LIBC.capset(_CAPABILITY_HEADER, _NO_CAPABILITIES):
        raise OSError(ctypes.get_errno(), "capset")


def _ruleset(scratch, version):
    # Access bits grow with the ABI: 13 in version 1, refer (2), truncate (3), ioctl_dev (5).
    handled = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    network = 3 if version >= 4 else 0
    scoped = 3 if version >= 6 else 0
    attributes = struct.pack("=QQQ", handled, network, scoped)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _LIBC.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0))
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    read = handled & 0b1101  # execute, read file, read directory
    for path in {*libraries.folders(), *libraries.shared_objects(), *_SYSTEM_FILES}:
        _allow_path(ruleset, path, read)
    _allow_path(ruleset, os.devnull, read | 0b10)  # plus write
    _allow_path(ruleset, scratch, handled)
    high = fcntl.fcntl(ruleset, fcntl.F_DUPFD_CLOEXEC, HIGH_FD)
    os.close(ruleset)
    return high


def _allow_path(ruleset, path, access):
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not os.path.isdir(path):
        access &= 0b111 | 1 << 14  # only what applies to a file: execute, write, read, truncate
    rule = struct.pack("=Qi", access, handle)
    if _LIBC.syscall(_LANDLOCK_ADD_RULE, ruleset, ctypes.c_uint32(1), rule, ctypes.c_uint32(0)):
        raise OSError(ctypes.get_errno(), f"landlock_add_rule {path}")
    os.close(handle)
