"""
What a confined program can read: libraries, not the whole prefix of the interpreter, where private files may lie.

Standard library only; used by the fork server, and by the trainer to warn about files under these folders.
"""

import glob
import os
import site
import sys
import sysconfig

_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo")


def folders():
    """Folders of libraries: of the system and of this interpreter."""
    paths = sysconfig.get_paths()
    return sorted({*_SYSTEM, paths["stdlib"], paths["platstdlib"], *site.getsitepackages()})


def shared_objects():
    """Shared libraries beside the interpreter's folder, as Conda and builds from source install them."""
    return glob.glob(os.path.join(sys.base_prefix, "lib", "*.so*"))
