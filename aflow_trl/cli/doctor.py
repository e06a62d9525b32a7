"""`aflow-trl doctor`: what stands in the way of a run on this machine, with remedies, before anything is paid for."""

from __future__ import annotations

import argparse

from rich.table import Table

from ..console import report_console
from .options import Commands


def add_parser(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "doctor",
        help="check this machine, and a recipe on it: packages, sandbox, disk, data, trackers, endpoints",
        description="Print what was found, with remedies. With a recipe, its executors are tried as by aflow-trl "
        "endpoint, and further --key value pairs override it. Exit code 1 if something failed.",
        epilog="example: aflow-trl doctor a100-80gb.yaml",
    )
    parser.add_argument("recipe", nargs="?", help="recipe, as for train")
    parser.set_defaults(command=run, takes_overrides=True)


def run(options: argparse.Namespace) -> None:
    """Run the command; exit code 1 if a check failed."""
    # Takes seconds, which the other commands should not.
    from ..tasks.doctor import FAILED, OK, WARNING, findings

    found = list(findings([] if options.recipe is None else [options.recipe, *options.overrides]))
    table = Table(show_header=False)
    styles = {OK: None, WARNING: "yellow", FAILED: "bold red"}
    for finding in found:
        table.add_row(*finding, style=styles[finding.state])
    report_console().print(table)
    if any(finding.state == FAILED for finding in found):
        raise SystemExit(1)
