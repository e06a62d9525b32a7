"""`aflow-trl check`: parse a workflow and show its canonical form, cost bounds and diagram."""

from __future__ import annotations

import argparse

from ..console import report_console
from ..dsl import analyze, format_workflow, mermaid, parse
from ..operators import load_operators
from .options import Commands, read_models


def add_parser(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "check",
        help="parse a workflow: canonical form, cost bounds, diagram, or the error with its position",
        description="Parse a workflow strictly and show its canonical form, its maximum cost and its structure.",
        epilog='example: aflow-trl check "Custom -> Review ? Revise : done"',
    )
    parser.add_argument("workflow", help="workflow text, in quotes")
    parser.add_argument(
        "--operator-module", action="append", default=[], help="module that defines further operators; may be repeated"
    )
    parser.add_argument(
        "--models", metavar="JSON", default="{}", help="models that the workflow may name, as in a recipe"
    )
    parser.add_argument("--mermaid", action="store_true", help="print only the Mermaid diagram")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    operators = load_operators(options.operator_module)
    models = [name for name in read_models(options.models) if name not in operators]
    vocabulary = operators.with_models(models).vocabulary
    workflow = parse(options.workflow, vocabulary=vocabulary)
    if options.mermaid:
        print(mermaid(workflow))
        return
    analysis = analyze(workflow, vocabulary=vocabulary)
    console = report_console()
    # A line that is wrapped is neither a workflow nor a diagram for the next program.
    console.print(format_workflow(workflow), style="bold", soft_wrap=True)
    console.print(
        f"{analysis.operator_count} operators, depth {analysis.depth}, "
        f"at most {analysis.worst_case_calls} model calls, {analysis.critical_path_calls} of them in sequence"
    )
    console.print()
    console.print(mermaid(workflow), soft_wrap=True)
