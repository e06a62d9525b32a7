"""`aflow-trl cache`: inspect, prune and verify a cache of replies."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path

from ..errors import RecipeError
from ..llm import CallCache
from .options import Commands


def add_parser(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "cache",
        help="inspect, prune or verify a cache of replies",
        description="Show the size of a cache of replies, remove the least recently used, or remove damaged ones.",
        epilog="example: aflow-trl cache stats runs/compose/calls.sqlite",
    )
    parser.add_argument("action", choices=["stats", "prune", "verify"], help="what to do")
    parser.add_argument("path", help="SQLite file, such as calls.sqlite in an output folder")
    parser.add_argument(
        "--max-mb", type=float, default=0.0, metavar="MB", help="prune: size to shrink to (default: 0, empty)"
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    path = Path(options.path)
    # Checked here because opening a missing file would create an empty cache.
    if not path.is_file():
        raise RecipeError(
            f"the cache {options.path!r} does not exist. Name a calls.sqlite that a run wrote into its output folder."
        )
    cache = CallCache(path)
    if options.action == "prune":
        print(f"{cache.prune(int(options.max_mb * 1e6))} replies removed")
    if options.action == "verify":
        print(f"{cache.verify()} damaged replies removed")
    stats = cache.stats()
    print(f"{stats.replies} replies, {stats.bytes / 1e6:.1f} MB")
    if stats.oldest is not None and stats.newest is not None:
        oldest, newest = (
            datetime.fromtimestamp(moment).strftime("%Y-%m-%d %H:%M") for moment in (stats.oldest, stats.newest)
        )
        print(f"last used from {oldest} to {newest}")
