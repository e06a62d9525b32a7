"""Control of Python's cyclic garbage collector while a batch runs."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

# High enough that no full collection happens during a batch.
_FULL_COLLECTION_THRESHOLD = 1_000_000
_running_batches = 0
_default_thresholds = gc.get_threshold()


@contextlib.contextmanager
def no_full_collections() -> Iterator[None]:
    """
    Postpone full collections, which stall the event loop.

    A full collection visits every object of the process: a tenth of a second or more with a model loaded and thousands
    of rollouts in flight. Young objects are still collected. The context can be nested.
    """
    global _running_batches, _default_thresholds
    # Thresholds are global to the process, so only the outermost context changes and restores them.
    if _running_batches == 0:
        _default_thresholds = gc.get_threshold()
        gc.set_threshold(*_default_thresholds[:2], _FULL_COLLECTION_THRESHOLD)
    _running_batches += 1
    try:
        yield
    finally:
        _running_batches -= 1
        if _running_batches == 0:
            gc.set_threshold(*_default_thresholds)
