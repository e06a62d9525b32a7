"""What a run can train: composing workflows, improving a given one, plain reasoning. Wiring only."""

from typing import Any

from ..errors import RunStoppedError
from ..recipes import Recipe
from ..storage import full_disk
from .compose import run_compose
from .doctor import check_machine
from .improve import run_improve
from .reason import run_reason
from .run_folder import run_folder
from .warm_start import run_warm_start

_TASKS = {"compose": run_compose, "improve": run_improve, "reason": run_reason}


def run(recipe: Recipe) -> dict[str, Any] | None:
    """
    Run a recipe from start to end, in its output folder, which no other process may use meanwhile.

    Args:
        recipe ([`~aflow_trl.recipes.Recipe`]):
            Checked recipe.

    Returns:
        `dict[str, Any]`, *optional*: The summary, as written to `summary.json`; `None` if a finished run was resumed.

    Raises:
        [`AflowError`]: A user error, or a run that had to be stopped; see `errors.py`.
    """
    with run_folder(recipe) as is_due:
        if not is_due:
            return None
        check_machine(recipe)
        try:
            return _TASKS[recipe.run.task](recipe)
        except Exception as error:  # libraries raise errors of many kinds where a disk is full
            folder = full_disk(error, recipe.output_dir)
            if folder is None:
                raise
            raise RunStoppedError(
                f"the disk of {folder} is full ({str(error).strip().splitlines()[0]}). What was saved before is "
                "complete: free some space and start the same command again with --resume."
            ) from error


__all__ = ["run", "run_compose", "run_folder", "run_improve", "run_reason", "run_warm_start"]
