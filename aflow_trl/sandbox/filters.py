"""
The seccomp program that allows a confined process the system calls an interpreter needs, and refuses all others.

Standard library only. It closes what Landlock leaves open: sockets, other processes (signals, limits, priorities,
`fcntl(F_SETOWN)`), metadata of files a process cannot open (`chmod`, `utime`, `truncate` by path), System V IPC, and
whatever would hide disk usage from the quota. An allowlist, so that nothing a newer kernel offers opens a hole.
"""

import platform
import struct

# name: (x86_64, aarch64); None where the architecture has no such call.
ALLOWED = {
    # files and folders
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "preadv": (295, 69),
    "pwritev": (296, 70),
    "preadv2": (327, 286),
    "pwritev2": (328, 287),
    "close": (3, 57),
    "stat": (4, None),
    "fstat": (5, 80),
    "lstat": (6, None),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "lseek": (8, 62),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "pipe": (22, None),
    "pipe2": (293, 59),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "flock": (73, 32),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "ftruncate": (77, 46),
    "getdents": (78, None),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "chdir": (80, 49),
    "fchdir": (81, 50),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "umask": (95, 166),
    "sendfile": (40, 71),
    "copy_file_range": (326, 285),
    "statfs": (137, 43),
    "fstatfs": (138, 44),
    "fadvise64": (221, 223),
    "readahead": (187, 213),
    "getxattr": (191, 8),
    "lgetxattr": (192, 9),
    "fgetxattr": (193, 10),
    "listxattr": (194, 11),
    "llistxattr": (195, 12),
    "flistxattr": (196, 13),
    # memory
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "mremap": (25, 216),
    "msync": (26, 227),
    "mincore": (27, 232),
    "madvise": (28, 233),
    "membarrier": (324, 283),
    # signals and time
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137),
    "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132),
    "pause": (34, None),
    "alarm": (37, None),
    "getitimer": (36, 102),
    "setitimer": (38, 103),
    "signalfd": (282, None),
    "signalfd4": (289, 74),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    # threads
    "futex": (202, 98),
    "futex_waitv": (449, 449),
    "set_robust_list": (273, 99),
    "get_robust_list": (274, 100),
    "set_tid_address": (218, 96),
    "set_thread_area": (205, None),
    "arch_prctl": (158, None),
    "rseq": (334, 293),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120),
    "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126),
    "sched_getattr": (315, 275),
    "getcpu": (309, 168),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "restart_syscall": (219, 128),
    # facts about itself and the machine
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "getpgid": (121, 155),
    "getpgrp": (111, None),
    "getsid": (124, 156),
    "getresuid": (118, 148),
    "getresgid": (120, 150),
    "getgroups": (115, 158),
    "getpriority": (140, 141),
    "getrlimit": (97, 163),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "uname": (63, 160),
    "getrandom": (318, 278),
    # children, of which it has none
    "wait4": (61, 260),
    "waitid": (247, 95),
    # its own limits
    "setrlimit": (160, 164),
    # connected pairs of sockets and event loops, which asyncio needs
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "recvmsg": (47, 212),
    "shutdown": (48, 210),
    "getsockname": (51, 204),
    "getpeername": (52, 205),
    "getsockopt": (55, 209),
    "setsockopt": (54, 208),
    "epoll_create": (213, None),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_wait": (232, None),
    "epoll_pwait": (281, 22),
    "epoll_pwait2": (441, 441),
    "eventfd": (284, None),
    "eventfd2": (290, 19),
}
"""Allowed in every tier."""

WRITING = {
    "creat": (85, None),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rmdir": (84, None),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "mknod": (133, None),
    "mknodat": (259, 33),
}
"""Allowed where Landlock limits them to the scratch folder."""

_ABSENT = {"clone3": (435, 435), "openat2": (437, 437)}
"""Answered with ENOSYS: a filter cannot read arguments behind a pointer. Libraries fall back to the older calls."""
_FALLOCATE = (285, 47)
"""Answered with EOPNOTSUPP: it takes space beyond the end of a file. The C library writes zeros instead."""
_OPEN, _OPENAT = (2, None), (257, 56)
_ACCESS_MODE, _O_TRUNC = 0o3, 0o1000
_WRITE_FLAGS = 0o1 | 0o2 | 0o100 | _O_TRUNC  # O_WRONLY, O_RDWR, O_CREAT
_CLONE, _KILL, _TGKILL, _PRLIMIT64 = (56, 220), (62, 129), (234, 131), (302, 261)
_SOCKETPAIR, _PRCTL, _FCNTL, _IOCTL, _CLOSE_RANGE = (53, 199), (157, 167), (72, 25), (16, 29), (436, 436)
_CLONE_OF_A_THREAD = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000  # CLONE_VM, _FS, _FILES, _SIGHAND, _THREAD
_CLOSE_RANGE_CLOEXEC = 4
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE_MASK = 1, 1, 0xF
_PR_GET_DUMPABLE, _PR_SET_NAME, _PR_GET_NAME, _PR_CAPBSET_READ, _PR_GET_NO_NEW_PRIVS = 3, 15, 16, 23, 39
_F_DUPFD, _F_GETFD, _F_SETFD, _F_GETFL, _F_SETFL, _F_GETLK, _F_SETLK, _F_SETLKW = range(8)
_F_OFD_GETLK, _F_OFD_SETLK, _F_OFD_SETLKW, _F_DUPFD_CLOEXEC, _F_GETPIPE_SZ = 36, 37, 38, 1030, 1032
_FCNTL_COMMANDS = (
    *(_F_DUPFD, _F_GETFD, _F_SETFD, _F_GETFL, _F_SETFL, _F_GETLK, _F_SETLK, _F_SETLKW),
    *(_F_OFD_GETLK, _F_OFD_SETLK, _F_OFD_SETLKW, _F_DUPFD_CLOEXEC, _F_GETPIPE_SZ),
)
_TCGETS, _TCGETS2, _TIOCGWINSZ = 0x5401, 0x802C542A, 0x5413
_FIONREAD, _FIONBIO, _FIONCLEX, _FIOCLEX = 0x541B, 0x5421, 0x5450, 0x5451
_FIRST_UNKNOWN = 454
"""Calls from this number on (equal on all architectures) do not exist for the process: a library that probes for a new
call expects ENOSYS and falls back."""

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_RET_KILL, _RET_ALLOW, _RET_ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_EPERM, _ENOTTY, _ENOSYS, _EOPNOTSUPP = 1, 25, 38, 95
_LOAD, _JUMP, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_ANY_BIT, _AND, _RETURN = 0x20, 0x05, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER_OFFSET, _ARCH_OFFSET, _FIRST_ARGUMENT_OFFSET = 0, 4, 16
_OWN_PID = 0x7FFFFFF1
"""Placeholder for the process id in a program that is built before the process exists."""


def supported():
    """Whether there is a filter for this architecture."""
    return platform.machine() in _AUDIT_ARCH


def template(read_only, machine=None):
    """
    The filter as BPF instructions, 8 bytes each.

    Args:
        read_only (`bool`):
            Whether to refuse opening files for writing and every change of a folder as well.
        machine (`str`, *optional*):
            Architecture, `x86_64` or `aarch64`. Defaults to this machine's.

    Returns:
        `bytes`: The program. It lets a process signal itself and set its own limits; the process id has to be written
        to the offsets that [`pid_offsets`] returns.
    """
    machine = machine or platform.machine()
    column = 0 if machine == "x86_64" else 1
    program = [_load(_ARCH_OFFSET), _op(_JUMP_EQUAL, _AUDIT_ARCH[machine], 1, 0), _op(_RETURN, _RET_KILL)]
    program += [_load(_NUMBER_OFFSET)]
    if column == 0:  # the x32 ABI has call numbers of its own, which would bypass the table
        program += [_op(_JUMP_GREATER_EQUAL, _X32_BIT, 0, 1), _op(_RETURN, _RET_KILL)]
    allowed = ALLOWED | ({} if read_only else WRITING)
    rules = [(numbers, [_op(_RETURN, _RET_ALLOW)]) for numbers in allowed.values()]
    rules += [(numbers, [_op(_RETURN, _RET_ERRNO | _ENOSYS)]) for numbers in _ABSENT.values()]
    rules += [
        (_OPEN, _opening(1, read_only)),
        (_OPENAT, _opening(2, read_only)),
        (_FALLOCATE, [_op(_RETURN, _RET_ERRNO | _EOPNOTSUPP)]),
        (_KILL, _only(0, _OWN_PID)),
        (_TGKILL, _only(0, _OWN_PID)),
        (_PRLIMIT64, _only(0, _OWN_PID, 0)),
        # A thread shares the table of descriptors, which the scratch quota reads.
        (_CLONE, _with_all_bits(0, _CLONE_OF_A_THREAD)),
        (_CLOSE_RANGE, _only(2, 0, _CLOSE_RANGE_CLOEXEC)),
        (_SOCKETPAIR, _stream_pair()),
        (_PRCTL, _only(0, _PR_GET_DUMPABLE, _PR_SET_NAME, _PR_GET_NAME, _PR_CAPBSET_READ, _PR_GET_NO_NEW_PRIVS)),
        (_FCNTL, _only(1, *_FCNTL_COMMANDS)),
        (_IOCTL, _only(1, _TCGETS, _TCGETS2, _TIOCGWINSZ, _FIONREAD, _FIONBIO, _FIONCLEX, _FIOCLEX, errno=_ENOTTY)),
    ]
    by_number = {numbers[column]: rule for numbers, rule in rules if numbers[column] is not None}
    return b"".join([*program, *_decide(_segments(by_number))])


def _segments(by_number):
    """Rules of all numbers as (first number, rule), sorted; a rule holds up to the first number of the next one."""
    segments = []
    for number in range(_FIRST_UNKNOWN):
        rule = by_number.get(number, [_REFUSE])
        if not segments or segments[-1][1] != rule:
            segments.append((number, rule))
    return [*segments, (_FIRST_UNKNOWN, [_op(_RETURN, _RET_ERRNO | _ENOSYS)])]


def _decide(segments):
    """Binary search for the rule of a number. The kernel runs a filter for every number when it is installed."""
    if len(segments) == 1:
        return segments[0][1]
    middle = len(segments) // 2
    below, above = _decide(segments[:middle]), _decide(segments[middle:])
    return [_op(_JUMP_GREATER_EQUAL, segments[middle][0], 0, 1), _op(_JUMP, len(below)), *below, *above]


def pid_offsets(program):
    """Byte offsets in a program of [`template`] where the process id belongs."""
    mark = struct.pack("=I", _OWN_PID)
    # The value is the last 4 of the 8 bytes of an instruction.
    return [offset for offset in range(4, len(program), 8) if program[offset : offset + 4] == mark]


# A rule decides about one system call: it loads an argument (the low 32 bits, all that the kernel reads of these
# arguments), compares, and returns.


def _only(argument, *values, errno=_EPERM):
    """Allowed if the argument is one of the values."""
    tests = [_op(_JUMP_EQUAL, value, len(values) - index, 0) for index, value in enumerate(values)]
    return [_argument(argument), *tests, _op(_RETURN, _RET_ERRNO | errno), _op(_RETURN, _RET_ALLOW)]


def _with_all_bits(argument, bits):
    """Allowed if all of the bits are set."""
    return [_argument(argument), _op(_AND, bits), _op(_JUMP_EQUAL, bits, 0, 1), _op(_RETURN, _RET_ALLOW), _REFUSE]


def _opening(argument, read_only):
    """
    Allowed if Landlock decides about it. Before ABI 3 it lets a file that may be read be emptied, and in every version
    it lets any file be opened in access mode 3, which asks for neither reading nor writing.
    """
    rule = [_argument(argument), _op(_AND, _ACCESS_MODE), _op(_JUMP_EQUAL, _ACCESS_MODE, 0, 1), _REFUSE]
    rule += [_argument(argument), _op(_AND, _ACCESS_MODE | _O_TRUNC), _op(_JUMP_EQUAL, _O_TRUNC, 0, 1), _REFUSE]
    if read_only:
        rule += [_argument(argument), _op(_JUMP_ANY_BIT, _WRITE_FLAGS, 0, 1), _REFUSE]
    return [*rule, _op(_RETURN, _RET_ALLOW)]


def _stream_pair():
    """Allowed for stream pairs, which asyncio needs; a datagram socket could send to any local address."""
    return [
        _argument(0),
        _op(_JUMP_EQUAL, _AF_UNIX, 0, 3),
        _argument(1),
        _op(_AND, _SOCK_TYPE_MASK),
        _op(_JUMP_EQUAL, _SOCK_STREAM, 1, 0),
        _REFUSE,
        _op(_RETURN, _RET_ALLOW),
    ]


def _argument(index):
    return _load(_FIRST_ARGUMENT_OFFSET + 8 * index)


def _load(offset):
    return _op(_LOAD, offset)


def _op(code, value, if_true=0, if_false=0):
    return struct.pack("=HBBI", code, if_true, if_false, value)


_REFUSE = _op(_RETURN, _RET_ERRNO | _EPERM)
