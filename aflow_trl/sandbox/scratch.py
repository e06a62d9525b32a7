"""
Scratch folders of the fork server: each run gets an empty one, watched while it runs and emptied after it.

Standard library only.
"""

import os

MAX_BYTES = 64 << 20
"""Most a run may keep on disk, in bytes; a single file has its own limit."""
MAX_ENTRIES = 1_000
"""Most files and folders a run may keep."""


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

    def give_to(self, uid):
        """Make a run's user its owner."""
        os.chown(self.path, uid, uid)

    def over_quota(self):
        """Whether the run keeps more files or bytes than it may."""
        entries = size = 0
        pending = [self.path]
        while pending:
            for entry in _scan(pending.pop()):
                entries += 1
                size += _disk_bytes(entry)
                if entries > MAX_ENTRIES or size > MAX_BYTES:
                    return True
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
        return False

    def clear(self):
        """Remove what a run left, however deep it is nested and whatever its modes are."""
        while entries := _scan(self.path):
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                # Folders come up one level at a time, so that neither recursion nor path length has a say.
                for inner in _scan(entry.path):
                    if inner.is_dir(follow_symlinks=False):
                        os.chmod(inner.path, 0o700)
                        os.rename(inner.path, os.path.join(self.path, os.urandom(16).hex()))
                    else:
                        os.unlink(inner.path)
                os.rmdir(entry.path)


def _scan(path):
    """Entries of a folder that may vanish or have been closed to its own owner; at most a few more than the quota."""
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except PermissionError:
        os.chmod(path, 0o700)
        with os.scandir(path) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def _disk_bytes(entry):
    try:
        return entry.stat(follow_symlinks=False).st_blocks * 512
    except FileNotFoundError:
        return 0
