"""The console that reports are printed to."""

from __future__ import annotations

from rich.console import Console

MIN_TABLE_WIDTH = 110


def report_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """
    A console wide enough for tables that takes text as it is.

    Workflows and answers hold brackets; read as markup, `Custom("[/b]")` would be an error.
    """
    width = max(Console().width, MIN_TABLE_WIDTH) if width is None else width
    return Console(width=width, stderr=stderr, markup=False, highlight=False)
