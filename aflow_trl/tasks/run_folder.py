"""The output folder of a run: guarded, recorded, never a mixture of two runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from accelerate.utils import wait_for_everyone

from ..errors import RunStoppedError
from ..recipes import Recipe
from ..rollouts import run_files
from ..storage import (
    LOG_FILE,
    PROGRESS,
    PROGRESS_FILE,
    RUN_FILE,
    RunRecord,
    read_run,
    set_aside,
    versions,
)
from ..trainer import last_checkpoint

FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"
RESULTS = (
    *("checkpoint-*", "traces*.jsonl*", "rewards*.jsonl*", "replay_settings.json", RUN_FILE, "summary.json"),
    *(PROGRESS_FILE, LOG_FILE),
    *("policy.json", "README.md", "*.png", "*.safetensors", "adapter_config.json", "config.json"),
    *("generation_config.json", "tokenizer*", "chat_template.jinja", "training_args.bin"),
)
"""What a run leaves in its output folder, but for what later ones use: paid replies and the search of a warm start."""
_current: RunRecord | None = None
"""The record of the run of this process, while there is one."""


@contextmanager
def run_folder(recipe: Recipe) -> Iterator[bool]:
    """
    Lock the output folder of a run, and keep its `run.json` once [`begin_record`] has begun it.

    Yields:
        `bool`: Whether there is anything to do: a finished run that is resumed is left as it is.

    Raises:
        [`RecipeError`]: Another process is at work in the folder, or it cannot be written.
    """
    global _current
    if _is_finished(recipe):
        print_rank0(
            f"the run in {recipe.output_dir} is finished: nothing to resume. A larger max_steps goes on with it."
        )
        yield False
        return
    if recipe.training.process_index != 0:
        # The first process holds the lock for all.
        yield True
        return
    with RunRecord(recipe.output_dir) as record:
        _current = record
        try:
            yield True
        except BaseException as error:
            stopped = isinstance(error, RunStoppedError | KeyboardInterrupt)
            # A disk that is full is the reason, and must not replace it.
            with suppress(OSError):
                record.update(outcome=STOPPED if stopped else FAILED, reason=f"{type(error).__name__}: {error}")
            PROGRESS.log_error(error)
            raise
        else:
            record.update(outcome=FINISHED, phase="end")
        finally:
            _current = None
            PROGRESS.close()


def begin_record(recipe: Recipe) -> None:
    """
    Begin `run.json` of a run that nothing stands in the way of; files of an earlier run, not resumed, move aside.

    Every process has to call it: none may write traces before.
    """
    folder = recipe.output_dir
    if recipe.training.process_index == 0:
        resumes = recipe.run.resume or recipe.training.resume_from_checkpoint
        if recipe.run.resume and last_checkpoint(folder) is None:
            print_rank0(f"there is no checkpoint in {folder} to resume from: the run begins with its first step")
        files = {path for pattern in RESULTS for path in folder.glob(pattern)} if read_run(folder) else {}
        if not resumes and (target := set_aside(folder, sorted({*files, *run_files(folder)}))) is not None:
            print_rank0(f"the earlier run in {folder} is now in {target}")
        if _current is not None:
            PROGRESS.open(folder)
            _current.begin(
                {
                    "task": recipe.run.task,
                    "recipe": recipe.public_source,
                    "executor": recipe.public_executor,
                    "versions": versions(),
                    "length": _length(recipe),
                    "step": 0,
                }
            )
    wait_for_everyone()


def print_rank0(line: str) -> None:
    """Print and log a line of progress, in the main process only."""
    if _is_main_process():
        PROGRESS.print(line)


def enter_phase(phase: str) -> None:
    """Print and record what the run is doing from now on."""
    if _is_main_process():
        PROGRESS.enter(phase)
    if _current is not None:
        _current.update(phase=phase)


def count_steps(step: int, max_steps: int, **figures: object) -> None:
    """Count the steps of a training, and record them."""
    PROGRESS.count("steps", step, max_steps, **figures)
    if _current is not None:
        _current.update(step=step, max_steps=max_steps)


def record_stop(name: str) -> None:
    """Record that a signal ends the run now."""
    if _current is not None:
        with suppress(OSError):
            _current.update(outcome=STOPPED, reason=f"{name} was received")


def _is_main_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _is_finished(recipe: Recipe) -> bool:
    run = read_run(recipe.output_dir) if recipe.run.resume else None
    return run is not None and run.get("outcome") == FINISHED and run.get("length") == _length(recipe)


def _length(recipe: Recipe) -> dict[str, float]:
    return {"max_steps": recipe.training.max_steps, "num_train_epochs": recipe.training.num_train_epochs}
