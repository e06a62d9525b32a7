"""
Train a policy: compose workflows, improve a given one, or plain reasoning, as `task` of the recipe says.

    accelerate launch -m aflow_trl.train RECIPE [--key value ...]
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence

import torch

from .errors import AflowError, RunStoppedError
from .recipes import load_recipe, report_and_exit
from .tasks import RUN
from .tasks.session import say

EXIT_STOPPED = 3
"""Exit code of a run that ended early with a checkpoint."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: read the recipe, train, report."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    _use_all_cores()
    try:
        recipe = load_recipe(sys.argv[1:] if arguments is None else arguments)
        RUN[recipe.workflow.task](recipe)
        if torch.distributed.is_initialized():
            # Left to the end of the interpreter, its threads may abort a process that has done all its work.
            torch.distributed.destroy_process_group()
    except RunStoppedError as error:
        say(f"stopped: {error}")
        raise SystemExit(EXIT_STOPPED) from None
    except AflowError as error:
        report_and_exit(error)


def _use_all_cores() -> None:
    """Without a GPU, share the cores among the processes: `accelerate launch` leaves each of them a single thread."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(torch.get_num_threads(), len(os.sched_getaffinity(0)) // processes))


if __name__ == "__main__":
    main()
