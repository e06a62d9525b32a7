"""`aflow-trl search`: the search baseline, in which an optimizer model edits workflows."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..dsl import format_workflow, parse
from ..errors import RecipeError
from .options import Commands, add_executor_flags, executor_client, load_modules


def add_parser(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "search",
        help="search for workflows: an optimizer model edits them, best first (the baseline of AFlow)",
        description="For each domain of the validation problems: pick an earlier workflow, let an optimizer model "
        "edit it, and measure the result. Writes rounds and improvement records. The same command continues an "
        "interrupted search.",
        epilog="example: aflow-trl search data/valid.jsonl --base-url https://api.openai.com/v1 --optimizer gpt-4o",
    )
    parser.add_argument("data", help="validation problems: a file, a Hub dataset, or synthetic")
    parser.add_argument("--optimizer", metavar="MODEL", help="model that edits workflows (default: the executor's)")
    parser.add_argument("--optimizer-url", metavar="URL", help="endpoint of the optimizer (default: the executor's)")
    parser.add_argument("--rounds", type=int, default=20, help="maximum number of rounds per domain (default: 20)")
    parser.add_argument("--passes", type=int, default=3, help="validation passes that are averaged (default: 3)")
    parser.add_argument(
        "--margin", type=float, default=0.0, help="minimum gain of the best score that counts as progress (default: 0)"
    )
    parser.add_argument(
        "--patience", type=int, default=8, help="rounds without progress after which a search stops (default: 8)"
    )
    parser.add_argument("--start", default="Custom", help="workflow of round 1 (default: Custom)")
    parser.add_argument("--limit", type=int, default=90, metavar="N", help="maximum number of problems (default: 90)")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random choice (default: 0)")
    parser.add_argument("--out", default="search", metavar="FOLDER", help="folder to write (default: search)")
    add_executor_flags(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from ..improvement.search import SearchSettings, Tried, optimizer, run_search

    for flag in ("rounds", "passes", "patience", "limit"):
        if getattr(options, flag) < 1:
            raise RecipeError(f"--{flag} must be at least 1, got {getattr(options, flag)}.")
    vocabulary = load_modules(options).vocabulary
    out = Path(options.out)
    client = executor_client(options, data=options.data, cache_folder=out)
    editor = client
    if options.optimizer or options.optimizer_url:
        editor = executor_client(options, data=options.data, base_url=options.optimizer_url, model=options.optimizer)

    def on_round(domain: str, tried: Tried) -> None:
        parent = tried.parent or "-"
        line = f"{domain} round {tried.number:>2}  {tried.score:.3f}  from {parent}  {tried.workflow}"
        print(line, flush=True)

    settings = SearchSettings(
        options.rounds,
        options.passes,
        options.margin,
        options.patience,
        format_workflow(parse(options.start, vocabulary=vocabulary)),
        options.seed,
    )
    best = run_search(
        client,
        optimizer(editor),
        settings,
        data=options.data,
        limit=options.limit,
        out=out,
        optimizer_name=f"{editor.config.executor_model} {editor.config.executor_base_url}",
        on_round=on_round,
    )
    for domain, tried in best.items():
        print(f"best for {domain}: {tried.score:.3f}  {tried.workflow}")
    print(f"rounds and improvements.jsonl are in {out}")
