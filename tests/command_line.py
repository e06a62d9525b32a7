"""Commands as a user types them, in this process: starting Python with torch takes longer than most of them."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.image import imread

from aflow_trl.cli import main


def aflow(*arguments: str, command: Callable[[Sequence[str]], None] = main) -> subprocess.CompletedProcess[str]:
    """
    Run a command line.

    Args:
        arguments (`str`):
            Command line without the program's name.
        command (`Callable[[Sequence[str]], None]`, *optional*):
            Entry point. Defaults to that of `aflow-trl`.

    Returns:
        `subprocess.CompletedProcess[str]`: Exit code and output, as of a process.
    """
    stdout, stderr, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            command(list(arguments))
        except SystemExit as exit:
            code = int(exit.code or 0)
    return subprocess.CompletedProcess(arguments, code, stdout.getvalue(), stderr.getvalue())


def read_strictly(folder: Path) -> dict[str, Any]:
    """
    Content of every JSON and JSON Lines file in a folder, by its path in there.

    Raises:
        `ValueError`: A file holds NaN or Infinity, which Python writes and reads but no other JSON parser does.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{path} holds {constant}")

    contents = {}
    for path in sorted(folder.rglob("*.json*")):
        if path.is_dir():
            continue
        text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
        documents = [text] if path.suffix == ".json" else text.splitlines()
        values = [json.loads(document, parse_constant=refuse) for document in documents]
        contents[str(path.relative_to(folder))] = values[0] if path.suffix == ".json" else values
    return contents


def is_drawn(path: Path) -> bool:
    """Whether a file is a picture that shows something."""
    pixels = imread(path)
    return bool(pixels.std() > 0)
