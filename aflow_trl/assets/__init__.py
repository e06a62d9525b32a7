"""Data files that ship inside the package: prompts and tables (`configs`), recipes, launch configurations."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import yaml

_ROOT = files(__name__)


def read_config(name: str) -> Any:
    """
    Parsed content of a file in `configs/`.

    Args:
        name (`str`):
            File name, such as `"operators.yaml"`.

    Returns:
        Plain data, as YAML gives it.
    """
    return yaml.safe_load((_ROOT / "configs" / name).read_text(encoding="utf-8"))


def asset_names(kind: str) -> list[str]:
    """Names of the YAML files of one kind (`configs`, `recipes`, `accelerate_configs`), sorted."""
    return sorted(item.name for item in (_ROOT / kind).iterdir() if item.name.endswith(".yaml"))


def asset_path(kind: str, name: str) -> Path | None:
    """Path of a shipped file; `None` if there is no such file."""
    resource = _ROOT / kind / name
    if not resource.is_file():
        return None
    with as_file(resource) as path:
        return path


__all__ = ["asset_names", "asset_path", "read_config"]
