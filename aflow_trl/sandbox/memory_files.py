"""Anonymous files in memory, which carry source, input and output between the trainer and a child."""

from __future__ import annotations

import contextlib
import os


def memory_file(stack: contextlib.ExitStack | contextlib.AsyncExitStack, text: str = "") -> int:
    """Descriptor of an anonymous file that holds `text`, positioned at its start; closed together with `stack`."""
    fd = os.memfd_create("aflow", os.MFD_CLOEXEC)
    stack.callback(os.close, fd)
    if text:
        data = text.encode("utf-8", errors="replace")
        while data:
            data = data[os.write(fd, data) :]
        os.lseek(fd, 0, os.SEEK_SET)
    return fd


def read_memory_file(fd: int, limit: int) -> str:
    """Content of an anonymous file, cut at `limit` bytes."""
    return os.pread(fd, limit, 0).decode("utf-8", errors="replace")
