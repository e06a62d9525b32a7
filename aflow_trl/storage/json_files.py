"""JSON files that are whole at any moment and strict: no NaN, no infinity."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import RecipeError


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """
    Write a JSON file so that a kill at any moment leaves the old one or the new one.

    Numbers that JSON does not know (NaN, infinity) are written as `null`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    text = json.dumps(finite(content), indent=2, ensure_ascii=False, allow_nan=False)
    try:
        scratch.write_text(text + "\n", encoding="utf-8", errors="replace")
    except OSError:
        scratch.unlink(missing_ok=True)
        raise
    scratch.replace(path)


def finite(value: Any) -> Any:
    """Plain data with `None` in the place of every float that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def check_settings(path: Path, settings: Mapping[str, Any], remedy: str) -> None:
    """
    Compare settings with those that a folder was begun with; a folder without any is free.

    Args:
        path (`Path`):
            JSON file of the settings.
        settings (`Mapping[str, Any]`):
            Settings of this run, plain data.
        remedy (`str`):
            What the user can do if they differ, as a sentence.

    Raises:
        [`RecipeError`]: The folder holds results with other settings; the message names those that differ.
    """
    if not path.is_file():
        return
    earlier = json.loads(path.read_text(encoding="utf-8"))
    changed = [name for name in {**settings, **earlier} if finite(settings.get(name)) != earlier.get(name)]
    if changed:
        raise RecipeError(f"{path.parent} holds results with other settings ({', '.join(changed)}). {remedy}")


def check_or_write_settings(path: Path, settings: Mapping[str, Any], remedy: str) -> None:
    """[`check_settings`], then write them, so that results of different settings are never mixed in one folder."""
    check_settings(path, settings, remedy)
    write_json(path, settings)
