"""Where things are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """Folder of what is built or found out once: `$AFLOW_TRL_CACHE`, or `~/.cache/aflow_trl`."""
    return Path(os.environ.get("AFLOW_TRL_CACHE") or Path.home() / ".cache" / "aflow_trl")
