"""Keeps Python's cyclic collector from stalling the event loop while a batch runs."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

_RARELY = 1_000_000
_running = 0
_usual = gc.get_threshold()


@contextlib.contextmanager
def no_full_collections() -> Iterator[None]:
    """
    Put off full collections, which walk every object of the process: a tenth of a second and more with a model loaded
    and thousands of rollouts in flight. Young objects are collected as ever. May be nested.
    """
    global _running, _usual
    if _running == 0:
        _usual = gc.get_threshold()
        gc.set_threshold(*_usual[:2], _RARELY)
    _running += 1
    try:
        yield
    finally:
        _running -= 1
        if _running == 0:
            gc.set_threshold(*_usual)
