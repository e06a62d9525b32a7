"""
Scratch folders of the fork server: each run gets an empty one, measured during the run and emptied afterwards.

Standard library only. A program may change its folder while it is being measured, so the walk opens everything
relative to a directory descriptor, follows no links and modifies nothing.
"""

import contextlib
import errno
import os
import stat

import confine

MAX_BYTES = 64 << 20
"""Maximum disk usage of a run in bytes; single files have a separate limit."""
MAX_ENTRIES = 1_000
"""Maximum number of files and folders of a run."""
MAX_DEPTH = 32
"""Maximum nesting of the folders of a run."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Scratch:
    """
    A folder that successive runs reuse.

    Args:
        path (`str`):
            Folder to create.
        confinement ([`~confine.Confinement`]):
            Layers that confine its runs.
    """

    def __init__(self, path, confinement):
        self.path = path
        os.mkdir(path, 0o700)
        self._mounted = confinement.tmpfs
        if self._mounted:
            confine.mount_tmpfs(path, MAX_BYTES, MAX_ENTRIES)
        self.ruleset = confinement.ruleset(path)
        self._device = os.stat(path).st_dev

    def give_to(self, uid):
        """Make the user of a run its owner."""
        os.chown(self.path, uid, uid)

    def over_quota(self, pid, file_bytes):
        """
        Whether a running process exceeds a limit. A folder that cannot be measured counts as exceeding it.

        Args:
            pid (`int`):
                The process.
            file_bytes (`int`):
                Maximum size of its files.
        """
        usage = _Usage()
        try:
            usage.add_folder(self.path, None, 0)
        except OSError as error:
            if error.errno not in _GONE:
                return True
        if not self._mounted:  # a mounted folder cannot hold more than its size, whatever the process does
            usage.size += self._deleted_bytes(pid, file_bytes)
        return usage.exceeds_limits()

    def _deleted_bytes(self, pid, file_bytes):
        """Bytes of files that a process keeps alive after deleting them, which no folder lists."""
        sizes = {}
        for task in _names(f"/proc/{pid}/task"):
            # All threads share one table and one memory, but the first thread's can no longer be read if it has ended.
            descriptors = _names(f"/proc/{pid}/task/{task}/fd")
            for fd in descriptors:
                with contextlib.suppress(OSError):
                    info = os.stat(f"/proc/{pid}/task/{task}/fd/{fd}")
                    if info.st_nlink == 0 and stat.S_ISREG(info.st_mode) and info.st_dev == self._device:
                        sizes[info.st_ino] = info.st_blocks * 512
            for inode in self._mapped(f"/proc/{pid}/task/{task}/maps"):
                # How much of a mapped file is on the disk cannot be seen without its descriptor.
                sizes.setdefault(inode, file_bytes)
            if descriptors:
                break
        return sum(sizes.values())

    def _mapped(self, maps):
        """Inode numbers of deleted files of this file system in a list of mappings."""
        device = f"{os.major(self._device):02x}:{os.minor(self._device):02x}"
        try:
            with open(maps, encoding="utf-8", errors="replace") as file:
                rows = [line.split(None, 5) for line in file if line.endswith(" (deleted)\n")]
        except OSError:  # the thread has ended
            return []
        return [int(row[4]) for row in rows if row[3] == device]

    def remove(self):
        """Remove the folder and everything in it."""
        self.clear()
        if self._mounted:
            confine.unmount(self.path)
        os.rmdir(self.path)

    def clear(self):
        """Remove everything a finished run left behind, however deeply nested and whatever its modes."""
        os.chmod(self.path, 0o700)
        while entries := _list(self.path):
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                os.chmod(entry.path, 0o700)
                # Subfolders are moved up one level at a time, so neither recursion depth nor path length limits this.
                for inner in _list(entry.path):
                    if inner.is_dir(follow_symlinks=False):
                        os.chmod(inner.path, 0o700)
                        os.rename(inner.path, os.path.join(self.path, os.urandom(16).hex()))
                    else:
                        os.unlink(inner.path)
                os.rmdir(entry.path)


class _Usage:
    """Running total of what a folder holds; counting stops once a limit is exceeded."""

    def __init__(self):
        self.entries = self.size = self.depth = 0

    def exceeds_limits(self):
        return self.entries > MAX_ENTRIES or self.size > MAX_BYTES or self.depth > MAX_DEPTH

    def add_folder(self, name, parent_fd, depth):
        self.depth = max(self.depth, depth)
        if self.exceeds_limits():
            return
        fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    self._add(entry, fd, depth)
                    if self.exceeds_limits():
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


def _names(path):
    try:
        return os.listdir(path)
    except OSError:  # the process has ended
        return []


def _list(path):
    with os.scandir(path) as entries:
        return list(entries)
