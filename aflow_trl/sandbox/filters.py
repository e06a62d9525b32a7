"""
The seccomp program that refuses the system calls a confined process must not make.

Standard library only. It closes what Landlock leaves open: sockets, other processes (signals, limits, priorities,
`fcntl(F_SETOWN)`), metadata of files a process cannot open (`chmod`, `utime`, `truncate` by path), System V IPC.

A denylist rather than an allowlist, because interpreters and C libraries differ in the calls they need; numbers beyond
the table are refused, so a newer kernel does not open new holes.
"""

import platform
import struct

# name: (x86_64, aarch64); None where the architecture has no such call.
REFUSED = {
    # sockets; `socketpair` is limited below
    "socket": (41, 198),
    "connect": (42, 203),
    "accept": (43, 202),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept4": (288, 242),
    # descriptors in flight inside a message would escape the scratch quota
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    # new processes and programs; `clone` is limited below
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # the machine
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "open_by_handle_at": (304, 265),
    "personality": (135, 92),
    "modify_ldt": (154, None),
    "syslog": (103, 116),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "fanotify_init": (300, 262),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    "io_setup": (206, 0),
    "sync": (162, 81),
    "syncfs": (306, 267),
    # System V and POSIX IPC
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    # metadata of files that Landlock does not allow it to open
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "truncate": (76, 45),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
}
"""Answered with EPERM in every tier."""

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
"""Also refused on machines without Landlock."""

_ABSENT = {"clone3": (435, 435), "openat2": (437, 437)}
"""Answered with ENOSYS: a filter cannot read arguments behind a pointer. Libraries fall back to the older calls."""
_OPEN, _OPENAT = (2, None), (257, 56)
_WRITE_FLAGS = 0o1 | 0o2 | 0o100 | 0o1000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC
_CLONE, _KILL, _TGKILL, _PRLIMIT64 = (56, 220), (62, 129), (234, 131), (302, 261)
_SOCKETPAIR, _PRCTL, _FCNTL, _IOCTL = (53, 199), (157, 167), (72, 25), (16, 29)
_CLONE_THREAD = 0x10000
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE_MASK = 1, 1, 0xF
_PR_SET_PDEATHSIG = 1
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX = 8, 10, 15
_F_SETLEASE, _F_NOTIFY = 1024, 1026
_TCGETS, _TCGETS2, _TIOCGWINSZ = 0x5401, 0x802C542A, 0x5413
_FIONREAD, _FIONBIO, _FIONCLEX, _FIOCLEX = 0x541B, 0x5421, 0x5450, 0x5451
_FIRST_UNKNOWN = 454
"""Calls from this number on (equal on all architectures) are newer than the table; no interpreter needs them."""

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_RET_KILL, _RET_ALLOW, _RET_ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_EPERM, _ENOTTY, _ENOSYS = 1, 25, 38
_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
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
    program += [_op(_JUMP_GREATER_EQUAL, _FIRST_UNKNOWN, 0, 1), _op(_RETURN, _RET_ERRNO | _ENOSYS)]
    refused = REFUSED | (WRITING if read_only else {})
    for numbers, errno in [*((n, _EPERM) for n in refused.values()), *((n, _ENOSYS) for n in _ABSENT.values())]:
        if numbers[column] is not None:
            program += [_op(_JUMP_EQUAL, numbers[column], 0, 1), _op(_RETURN, _RET_ERRNO | errno)]
    rules = [
        (_KILL, _only(0, _OWN_PID)),
        (_TGKILL, _only(0, _OWN_PID)),
        (_PRLIMIT64, _only(0, _OWN_PID, 0)),
        (_CLONE, _with_bits(0, _CLONE_THREAD)),
        (_SOCKETPAIR, _stream_pair()),
        (_PRCTL, _except(0, _PR_SET_PDEATHSIG)),
        (_FCNTL, _except(1, _F_SETOWN, _F_SETSIG, _F_SETOWN_EX, _F_SETLEASE, _F_NOTIFY)),
        (_IOCTL, _only(1, _TCGETS, _TCGETS2, _TIOCGWINSZ, _FIONREAD, _FIONBIO, _FIONCLEX, _FIOCLEX, errno=_ENOTTY)),
    ]
    if read_only:
        rules += [(_OPEN, _without_bits(1, _WRITE_FLAGS)), (_OPENAT, _without_bits(2, _WRITE_FLAGS))]
    for numbers, rule in rules:
        if numbers[column] is not None:
            program += [_op(_JUMP_EQUAL, numbers[column], 0, len(rule)), *rule]
    return b"".join([*program, _op(_RETURN, _RET_ALLOW)])


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


def _except(argument, *values):
    """Refused if the argument is one of the values."""
    tests = [_op(_JUMP_EQUAL, value, len(values) - index, 0) for index, value in enumerate(values)]
    return [_argument(argument), *tests, _op(_RETURN, _RET_ALLOW), _op(_RETURN, _RET_ERRNO | _EPERM)]


def _with_bits(argument, bits):
    """Allowed if any of the bits is set."""
    refuse = _op(_RETURN, _RET_ERRNO | _EPERM)
    return [_argument(argument), _op(_JUMP_ANY_BIT, bits, 1, 0), refuse, _op(_RETURN, _RET_ALLOW)]


def _without_bits(argument, bits):
    """Refused if any of the bits is set."""
    refuse = _op(_RETURN, _RET_ERRNO | _EPERM)
    return [_argument(argument), _op(_JUMP_ANY_BIT, bits, 0, 1), refuse, _op(_RETURN, _RET_ALLOW)]


def _stream_pair():
    """Allowed for stream pairs, which asyncio needs; a datagram socket could send to any local address."""
    return [
        _argument(0),
        _op(_JUMP_EQUAL, _AF_UNIX, 0, 3),
        _argument(1),
        _op(_AND, _SOCK_TYPE_MASK),
        _op(_JUMP_EQUAL, _SOCK_STREAM, 1, 0),
        _op(_RETURN, _RET_ERRNO | _EPERM),
        _op(_RETURN, _RET_ALLOW),
    ]


def _argument(index):
    return _load(_FIRST_ARGUMENT_OFFSET + 8 * index)


def _load(offset):
    return _op(_LOAD, offset)


def _op(code, value, if_true=0, if_false=0):
    return struct.pack("=HBBI", code, if_true, if_false, value)
