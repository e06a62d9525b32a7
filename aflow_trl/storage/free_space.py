"""Tells an error of a full disk, in whatever form a library raises it."""

from __future__ import annotations

import errno
import shutil
import tempfile
from pathlib import Path

FULL_BYTES = 16 << 20
"""Free space below which a disk counts as full: what was being written is often gone when the error arrives."""
_MESSAGES = ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed writing", "unexpected pos")


def full_disk(error: BaseException, folder: Path) -> Path | None:
    """
    The folder whose disk is full, if that is why an error was raised.

    Args:
        error (`BaseException`):
            Error, with its causes.
        folder (`Path`):
            Output folder; the folder of temporary files and the shared memory are looked at too.

    Returns:
        `Path`, *optional*: `None` if the error has another reason.
    """
    if not any(_says_full(item) for item in _chain(error)):
        return None
    folders = (folder, Path(tempfile.gettempdir()), Path("/dev/shm"))
    existing = [path for path in folders if path.is_dir()]
    return next((path for path in existing if shutil.disk_usage(path).free < FULL_BYTES), folder)


def _says_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(message in str(error) for message in _MESSAGES)


def _chain(error: BaseException | None) -> list[BaseException]:
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain
