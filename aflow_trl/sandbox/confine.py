"""
Layers that confine the calling process for good: Landlock, seccomp, rlimits, capabilities.

Standard library only, run inside the sandbox's own processes. Threat model: a program that writes whatever raises its
reward, or is simply broken. Exploits of the kernel are out of scope.
"""

import ctypes
import os
import platform
import resource
import struct
import sys

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 1, 22, 38, 24
_SIGKILL = 9

# name: (x86_64, aarch64); None where the architecture has no such call.
_REFUSED = {
    "socket": (41, 198),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "userfaultfd": (323, 282),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "open_by_handle_at": (304, 265),
    "personality": (135, 92),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
}
_KILL, _TGKILL, _CLONE, _CLONE3 = (62, 129), (234, 131), (56, 220), (435, 435)
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CLONE_THREAD = 0x10000
_X32_BIT = 0x40000000
_RET_KILL, _RET_ALLOW = 0x80000000, 0x7FFF0000
_EPERM, _ENOSYS = 1, 38
_READABLE = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/dev/null", "/dev/urandom")


def landlock_version():
    """ABI version of Landlock in this kernel, 0 where there is none."""
    version = _LIBC.syscall(444, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    return max(version, 0)


def seccomp_supported():
    """Whether a filter for this architecture is known and the kernel accepts filters."""
    return platform.machine() in _AUDIT_ARCH and os.path.exists("/proc/sys/kernel/seccomp/actions_avail")


def die_with_parent():
    """Ask the kernel to kill this process when its parent ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)


def confine(scratch, memory_bytes, cpu_s, file_bytes):
    """Apply every layer. `scratch` is the only folder that stays writable."""
    _limit_resources(memory_bytes, cpu_s, file_bytes)
    _drop_capabilities()
    if _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    _restrict_files(scratch, landlock_version())
    _filter_syscalls()


def _limit_resources(memory_bytes, cpu_s, file_bytes):
    for kind, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))
    # The main thread's stack may grow to 64 MiB; beyond that deep recursion ends the process, not the machine.
    resource.setrlimit(resource.RLIMIT_STACK, (64 << 20, 64 << 20))


def _drop_capabilities():
    if os.geteuid() != 0:
        return
    for capability in range(64):
        _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = struct.pack("=Ii", 0x20080522, 0)
    if _LIBC.capset(header, struct.pack("=6I", *[0] * 6)):
        raise OSError(ctypes.get_errno(), "capset")


def _restrict_files(scratch, version):
    # Access bits grow with the ABI: 13 in version 1, refer (2), truncate (3), ioctl_dev (5).
    handled = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    network = 3 if version >= 4 else 0
    scoped = 3 if version >= 6 else 0
    attributes = struct.pack("=QQQ", handled, network, scoped)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _LIBC.syscall(444, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0))
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    read = handled & 0b1101  # execute, read file, read directory
    for path in {*_READABLE, sys.prefix, sys.base_prefix, os.path.dirname(os.path.realpath(sys.executable))}:
        _allow_path(ruleset, path, read)
    _allow_path(ruleset, scratch, handled)
    if _LIBC.syscall(446, ruleset, ctypes.c_uint32(0)):
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    os.close(ruleset)


def _allow_path(ruleset, path, access):
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not os.path.isdir(path):
        access &= 0b111 | 1 << 14  # only what applies to a file: execute, write, read, truncate
    rule = struct.pack("=Qi", access, handle)
    if _LIBC.syscall(445, ruleset, ctypes.c_uint32(1), rule, ctypes.c_uint32(0)):
        raise OSError(ctypes.get_errno(), f"landlock_add_rule {path}")
    os.close(handle)


def _filter_syscalls():
    machine = platform.machine()
    column = 0 if machine == "x86_64" else 1
    program = [_load(4), _jump_equal(_AUDIT_ARCH[machine], 1, 0), _return(_RET_KILL), _load(0)]
    if column == 0:
        program += [struct.pack("=HBBI", 0x35, 0, 1, _X32_BIT), _return(_RET_KILL)]
    for numbers in _REFUSED.values():
        if numbers[column] is not None:
            program += [_jump_equal(numbers[column], 0, 1), _return_errno(_EPERM)]
    program += [_jump_equal(_CLONE3[column], 0, 1), _return_errno(_ENOSYS)]
    for numbers in (_KILL, _TGKILL):
        program += [
            _jump_equal(numbers[column], 0, 4),
            _load(16),
            _jump_equal(os.getpid(), 0, 1),
            _return(_RET_ALLOW),
            _return_errno(_EPERM),
        ]
    program += [
        _jump_equal(_CLONE[column], 0, 4),
        _load(16),
        struct.pack("=HBBI", 0x45, 0, 1, _CLONE_THREAD),
        _return(_RET_ALLOW),
        _return_errno(_EPERM),
        _return(_RET_ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(program))
    filter_program = struct.pack("@HxxxxxxP", len(program), ctypes.addressof(code))
    if _LIBC.prctl(_PR_SET_SECCOMP, 2, filter_program, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def _load(offset):
    return struct.pack("=HBBI", 0x20, 0, 0, offset)


def _jump_equal(value, if_true, if_false):
    return struct.pack("=HBBI", 0x15, if_true, if_false, value)


def _return(action):
    return struct.pack("=HBBI", 0x06, 0, 0, action)


def _return_errno(number):
    return _return(0x00050000 | number)
