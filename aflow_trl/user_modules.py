"""Imports the modules in which users define operators and scorers."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from .errors import RecipeError


def import_user_modules(modules: Sequence[str], kind: str) -> None:
    """
    Import modules whose decorators add operators or scorers.

    Args:
        modules (`Sequence[str]`):
            Importable module names, also of the working folder, or paths of files.
        kind (`str`):
            What they define, for messages: `operator` or `scorer`.

    Raises:
        [`RecipeError`]: A module cannot be imported.
    """
    # As `python -m` finds them: a console script does not look into the folder it is called in.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    for module in modules:
        name = _module_name(module, kind)
        try:
            importlib.import_module(name)
        except RecipeError:
            raise
        except ModuleNotFoundError as error:
            missing = "is not found" if error.name == name else f"needs {error.name!r}, which is not installed"
            raise RecipeError(
                f"{kind} module {module!r} {missing}. List a module in this folder, an installed one, or the path "
                "of a .py file."
            ) from None
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            raise RecipeError(
                f"{kind} module {module!r} fails with {type(error).__name__}: {error} ({frame.filename}, line "
                f"{frame.lineno})"
            ) from error


def _module_name(module: str, kind: str) -> str:
    """Name of a module, which a path of its file stands for; its folder becomes importable."""
    path = Path(module)
    if path.suffix != ".py":
        return module
    if not path.is_file():
        raise RecipeError(f"the {kind} module {module!r} does not exist.")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return path.stem
