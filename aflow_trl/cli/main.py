"""Entry point of `aflow-trl`. Each command has a module, which defines its parser and runs it."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence

from ..errors import AflowError
from ..storage import versions
from . import cache, check, data, doctor, endpoint, evaluate, export, recipe_commands, recipes, run, search, simulate


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run a command.

    Args:
        arguments (`Sequence[str]`, *optional*):
            Command line without the name of the program. Defaults to that of the process.

    Raises:
        `SystemExit`: With code 2 after a user error, whose message is printed without a traceback.
    """
    command_line = list(sys.argv[1:] if arguments is None else arguments)
    if command_line[:1] == ["train"]:
        # Everything after `train` belongs to the parser of the recipe. Imported here, because torch and TRL take
        # seconds that the other commands should not.
        from .train import main as train

        return train(command_line[1:])
    # About the future of packages that the user has not chosen.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    parser = build_parser()
    options, overrides = parser.parse_known_args(command_line)
    if overrides and not getattr(options, "takes_overrides", False):
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    options.overrides = overrides
    try:
        options.command(options)
    except AflowError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    return None


def build_parser() -> argparse.ArgumentParser:
    """Parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="aflow-trl", description="Train a language model to compose agentic workflows, and run what it composes."
    )
    parser.add_argument("--version", action="version", version=f"aflow_trl {versions()['aflow_trl']}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (check, run, export, evaluate, search, endpoint, doctor, cache):
        module.add_parser(commands)
    recipe_commands.add_parsers(commands)
    for module in (recipes, data, simulate):
        module.add_parser(commands)
    return parser
