"""`aflow-trl data`: prepare public benchmarks, import AFlow workspaces."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..console import report_console
from ..operators import DEFAULT_OPERATORS
from .options import Commands


def add_parser(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the parser of the command."""
    data = commands.add_parser("data", help="prepare public benchmarks, import AFlow workspaces")
    actions = data.add_subparsers(required=True, metavar="ACTION")
    prepare = actions.add_parser(
        "prepare",
        help="write public benchmarks as train, valid and test files",
        description="Load benchmarks from the Hub, keep the rows whose gold answer the scorers accept, remove near "
        "copies, mix the domains, and write train.jsonl, valid.jsonl, test.jsonl and data_card.json.",
        epilog="example: aflow-trl data prepare data --benchmark gsm8k --benchmark mbpp --benchmark hotpotqa",
    )
    prepare.add_argument("out", help="folder to write")
    prepare.add_argument(
        "--benchmark",
        action="append",
        metavar="NAME",
        help="gsm8k, math, humaneval, humaneval+, mbpp, mbpp+, hotpotqa, drop or squad_v2; may be repeated "
        "(default: all but the + versions)",
    )
    prepare.add_argument(
        "--from", dest="folder", metavar="FOLDER", help="folder with copies of the benchmarks, instead of the Hub"
    )
    prepare.add_argument("--ratio", default="1:1:1", help="math:code:qa in training and validation (default: 1:1:1)")
    prepare.add_argument(
        "--total", type=int, metavar="N", help="number of training rows (default: as many as the ratio allows)"
    )
    prepare.add_argument("--limit", type=int, metavar="N", help="maximum number of rows per split of a benchmark")
    prepare.add_argument(
        "--unanswerable",
        action="store_true",
        help="keep the questions of SQuAD v2 that have no answer, to which the right reply is 'unanswerable'",
    )
    prepare.add_argument("--seed", type=int, default=0, help="seed of every random choice (default: 0)")
    prepare.set_defaults(command=_prepare)
    workspace = actions.add_parser(
        "import-aflow",
        help="write improvement records from a workspace of AFlow's search",
        description="Read the rounds of a workspace as text (nothing is imported or run), translate the graphs that "
        "the workflow language can express, and write improvement records.",
        epilog="example: aflow-trl data import-aflow workspace/GSM8K --out data/improvements.jsonl",
    )
    workspace.add_argument("workspace", help="workspace folder of one or more data sets")
    workspace.add_argument("--out", default="improvements.jsonl", help="file to write (default: improvements.jsonl)")
    workspace.add_argument(
        "--domain", choices=["math", "code", "qa"], help="domain of data sets whose names are unknown"
    )
    workspace.set_defaults(command=_import_aflow)


def _prepare(options: argparse.Namespace) -> None:
    from ..data import BENCHMARKS, prepare, print_card, read_ratio

    card = prepare(
        options.benchmark or [name for name in BENCHMARKS if not name.endswith("+")],
        Path(options.out),
        folder=Path(options.folder) if options.folder else None,
        ratio=read_ratio(options.ratio),
        total=options.total,
        limit=options.limit,
        unanswerable=options.unanswerable,
        seed=options.seed,
    )
    print_card(card, report_console())


def _import_aflow(options: argparse.Namespace) -> None:
    from ..improvement import import_workspace, write_improvements

    operators = DEFAULT_OPERATORS
    records, report = import_workspace(Path(options.workspace), operators.vocabulary, domain=options.domain)
    write_improvements(Path(options.out), records, operators)
    print(
        f"{report.rounds} rounds, {report.records} records in {options.out}; "
        f"{report.translated} graphs translated ({report.translated / max(1, report.rounds):.0%})"
    )
    for reason, count in report.untranslated.most_common():
        print(f"not translated, {count}: {reason}")
    for line in report.duplicates:
        print(f"duplicate: {line}")
    for name in report.unknown:
        print(f"left out: {name}, whose domain is unknown; import it alone with --domain")
    for line in report.missing:
        print(f"missing: {line}")
