"""Training from a recipe: `aflow-trl train` and `python -m aflow_trl.train`."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

import datasets
import torch
import transformers

from ..errors import AflowError, RunStoppedError
from ..recipes import load_recipe
from ..tasks import run
from ..tasks.run_folder import print_rank0, record_stop
from ..trainer import INTERRUPTION, close_process_group

PR_SET_PDEATHSIG = 1
EXIT_STOPPED = 3
"""Exit code of a run that was stopped early with a checkpoint."""


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Load a recipe and run its task.

    Args:
        arguments (`Sequence[str]`, *optional*):
            Recipe and its overrides. Defaults to the command line of the process.

    Raises:
        `SystemExit`: With code 2 after a user error, 3 if the run was stopped early, by a condition or a signal.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    # The console belongs to the progress of the run.
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    _use_all_cores()
    _end_with_the_launcher()
    stopped = False
    try:
        with INTERRUPTION.handling_signals(_stop):
            run(load_recipe(sys.argv[1:] if arguments is None else arguments))
    except RunStoppedError as error:
        print_rank0(f"stopped: {error}")
        stopped = True
    except AflowError as error:
        # Every process meets the error; one message is enough.
        if int(os.environ.get("RANK", "0")) == 0:
            print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    # After the handlers, which keep the trainer alive through the traceback of the error.
    close_process_group()
    if stopped:
        raise SystemExit(EXIT_STOPPED)


def _stop(name: str) -> NoReturn:
    """End the process: what counts is on disk, and calls in flight would end with a page of warnings each."""
    record_stop(name)
    if int(os.environ.get("RANK", "0")) == 0:
        # Not `print`, which the signal may have interrupted.
        os.write(1, f"stopped: {name} was received. --resume goes on from the last checkpoint.\n".encode())
    os._exit(EXIT_STOPPED)


def _end_with_the_launcher() -> None:
    """Have the system send SIGTERM when a launcher dies, which would leave its processes behind."""
    launched = any(name.startswith(("ACCELERATE_", "TORCHELASTIC_")) for name in os.environ)
    if launched and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _use_all_cores() -> None:
    """Divide the cores among the processes of a machine: `accelerate launch` gives each process a single thread."""
    # macOS has no `sched_getaffinity`.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(torch.get_num_threads(), cores // processes))
