"""Files of a run: JSON Lines that survive a kill, strict JSON, the settings a folder was begun with."""

from .json_files import check_or_write_settings, check_settings, finite, write_json
from .jsonl import TraceFile, read_rows
from .versions import versions

__all__ = ["TraceFile", "check_or_write_settings", "check_settings", "finite", "read_rows", "versions", "write_json"]
