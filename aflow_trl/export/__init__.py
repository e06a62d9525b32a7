"""Exports workflows: as a script that needs only `openai`, and as a class that AFlow runs."""

from .aflow import to_aflow
from .python import to_python

__all__ = ["to_aflow", "to_python"]
