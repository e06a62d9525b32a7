"""`aflow-trl recipes`: the recipes and launch configurations that ship with the package."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from ..assets import asset_names, asset_path
from ..errors import RecipeError
from .options import Commands

KINDS = ("recipes", "accelerate_configs")


def add_parser(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "recipes",
        help="list, show or copy the recipes and launch configurations that ship with the package",
        description="Recipes are for aflow_trl.train, launch configurations for --config_file of accelerate launch.",
        epilog="example: aflow-trl recipes copy single_gpu.yaml",
    )
    parser.add_argument("action", nargs="?", choices=["list", "show", "copy"], default="list", help="what to do")
    parser.add_argument("name", nargs="?", help="recipe or launch configuration")
    parser.add_argument("target", nargs="?", default=".", help="copy: file or folder to write (default: this folder)")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    if options.action == "list":
        for kind in KINDS:
            print(kind.replace("_", " "))
            for name in asset_names(kind):
                path = asset_path(kind, name)
                assert path is not None
                first = path.read_text(encoding="utf-8").splitlines()[0]
                print(f"  {name:24} {first.removeprefix('# ') if first.startswith('#') else ''}".rstrip())
        return
    source = next((path for kind in KINDS if (path := asset_path(kind, options.name or ""))), None)
    if source is None:
        names = ", ".join(name for kind in KINDS for name in asset_names(kind))
        raise RecipeError(f"{options.name!r} does not ship with the package. Name one of {names}.")
    if options.action == "show":
        print(source.read_text(encoding="utf-8"), end="")
        return
    target = Path(options.target)
    target = target / source.name if target.is_dir() else target
    if target.exists():
        raise RecipeError(f"{target} exists and is left as it is. Name another file.")
    shutil.copyfile(source, target)
    print(target)
