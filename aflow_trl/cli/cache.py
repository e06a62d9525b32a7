"""`aflow-trl cache`: inspect, prune and verify a cache of replies."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path

from ..errors import RecipeError
from ..llm import CallCache, is_cache
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
    parser.add_argument("--max-mb", type=float, metavar="MB", help="prune: size to shrink to; 0 empties the cache")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    path = Path(options.path)
    # Checked here because opening a missing file would create an empty cache.
    if not path.is_file():
        raise RecipeError(
            f"the cache {options.path!r} does not exist. Name a calls.sqlite that a run wrote into its output folder."
        )
    # A cache that is opened sets a file of another kind aside, as it does for a run that needs its place.
    if not is_cache(path):
        raise RecipeError(f"{options.path!r} is not a cache of replies, and is left as it is.")
    if (options.action == "prune") != (options.max_mb is not None):
        raise RecipeError("prune needs --max-mb, the size to shrink to; the other actions do not take it.")
    if options.max_mb is not None and options.max_mb < 0:
        raise RecipeError(f"--max-mb must be 0 or more, got {options.max_mb:g}.")
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
