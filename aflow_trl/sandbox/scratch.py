"""
Scratch folders of the fork server: each run gets an empty one, watched while it runs and emptied after it.

Standard library only. A running program changes its folder while it is looked at: the walk goes by descriptors,
follows no link and changes nothing.
"""

import errno
import os
import stat

MAX_BYTES = 64 << 20
"""Most a run may keep on disk, in bytes; a single file has its own limit."""
MAX_ENTRIES = 1_000
"""Most files and folders a run may keep."""
MAX_DEPTH = 32
"""Most folders inside one another that a run may keep."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Scratch:
    """
    One folder, used by one run after another.

    Args:
        path (`str`):
            Folder to make.
        confinement ([`~confine.Confinement`]):
            Layers of its runs.
    """

    def __init__(self, path, confinement):
        self.path = path
        os.mkdir(path, 0o700)
        self.ruleset = confinement.ruleset(path)
        self._device = os.stat(path).st_dev

    def give_to(self, uid):
        """Make a run's user its owner."""
        os.chown(self.path, uid, uid)

    def over_quota(self, pid):
        """Whether a running process keeps more files or bytes than it may; what it hides counts as too much."""
        usage = _Usage()
        try:
            usage.add_folder(self.path, None, 0)
        except OSError as error:
            if error.errno not in _GONE:
                return True
        return usage.is_too_much() or usage.size + self._deleted_bytes(pid) > MAX_BYTES

    def _deleted_bytes(self, pid):
        """Bytes of files that a process has open but that have no name any more."""
        total = 0
        try:
            for name in os.listdir(f"/proc/{pid}/fd"):
                info = os.stat(f"/proc/{pid}/fd/{name}")
                if info.st_nlink == 0 and stat.S_ISREG(info.st_mode) and info.st_dev == self._device:
                    total += info.st_blocks * 512
        except OSError:  # the process, or the file, is gone
            pass
        return total

    def clear(self):
        """Remove what an ended run left, however deep it is nested and whatever its modes are."""
        os.chmod(self.path, 0o700)
        while entries := _list(self.path):
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                os.chmod(entry.path, 0o700)
                # Folders come up one level at a time, so that neither recursion nor path length has a say.
                for inner in _list(entry.path):
                    if inner.is_dir(follow_symlinks=False):
                        os.chmod(inner.path, 0o700)
                        os.rename(inner.path, os.path.join(self.path, os.urandom(16).hex()))
                    else:
                        os.unlink(inner.path)
                os.rmdir(entry.path)


class _Usage:
    """What a folder holds, counted until it is too much."""

    def __init__(self):
        self.entries = self.size = self.depth = 0

    def is_too_much(self):
        return self.entries > MAX_ENTRIES or self.size > MAX_BYTES or self.depth > MAX_DEPTH

    def add_folder(self, name, parent_fd, depth):
        self.depth = max(self.depth, depth)
        if self.is_too_much():
            return
        fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    self._add(entry, fd, depth)
                    if self.is_too_much():
                        return
        finally:
            os.close(fd)

    def _add(self, entry, fd, depth):
        self.entries += 1
        try:
            info = os.stat(entry.name, dir_fd=fd, follow_symlinks=False)
            self.size += info.st_blocks * 512
            if stat.S_ISDIR(info.st_mode):
                self.add_folder(entry.name, fd, depth + 1)
        except OSError as error:
            if error.errno not in _GONE:
                raise


def _list(path):
    with os.scandir(path) as entries:
        return list(entries)
