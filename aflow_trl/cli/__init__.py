"""The `aflow-trl` command."""

from .main import main

__all__ = ["main"]
