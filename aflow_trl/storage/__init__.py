"""Files of a run: JSON Lines that survive a kill, strict JSON, the settings a folder was begun with."""

from .cache_root import cache_root
from .free_space import full_disk
from .json_files import check_or_write_settings, check_settings, finite, write_json
from .jsonl import JsonLines, TraceFile, read_rows, set_aside, trace_parts
from .progress import LOG_FILE, PROGRESS, PROGRESS_FILE, Progress
from .run_record import RUN_FILE, RunRecord, read_run
from .versions import versions

__all__ = [
    "LOG_FILE",
    "PROGRESS",
    "PROGRESS_FILE",
    "RUN_FILE",
    "JsonLines",
    "Progress",
    "RunRecord",
    "TraceFile",
    "cache_root",
    "check_or_write_settings",
    "check_settings",
    "finite",
    "full_disk",
    "read_rows",
    "read_run",
    "set_aside",
    "trace_parts",
    "versions",
    "write_json",
]
