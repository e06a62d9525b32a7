"""`aflow-trl export`: write a workflow as a Python script, as a class for AFlow, or as a diagram."""

from __future__ import annotations

import argparse

from ..dsl import mermaid, parse
from ..llm import ExecutorConfig, further_executors
from ..operators import load_operators
from .options import Commands, read_models


def add_parser(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "export",
        help="write a workflow as a Python script, as a class for AFlow, or as a diagram",
        description="Write a workflow as a Python script that needs only `openai`, as the class that AFlow runs, or "
        "as a Mermaid diagram.",
        epilog='example: aflow-trl export "Custom -> Review ? Revise : done" --to python > workflow.py',
    )
    parser.add_argument("workflow", help="workflow text, in quotes")
    parser.add_argument("--to", choices=["python", "aflow", "mermaid"], required=True, help="output format")
    parser.add_argument("--executor", default="gpt-4o-mini", help="model that the script calls (default: gpt-4o-mini)")
    parser.add_argument(
        "--operator-module", action="append", default=[], help="module that defines further operators; may be repeated"
    )
    parser.add_argument(
        "--models",
        metavar="JSON",
        default="{}",
        help="models that the workflow names, as in a recipe",
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from ..export import to_aflow, to_python

    config = ExecutorConfig(executor_model=options.executor)
    operators = load_operators(options.operator_module)
    models = further_executors(read_models(options.models), config)
    vocabulary = operators.with_models([name for name in models if name not in operators]).vocabulary
    workflow = parse(options.workflow, vocabulary=vocabulary)
    if options.to == "mermaid":
        print(mermaid(workflow))
    elif options.to == "python":
        print(to_python(workflow, vocabulary=vocabulary, config=config, models=models), end="")
    else:
        graph, prompts = to_aflow(workflow, vocabulary=vocabulary)
        print(f"# graph.py\n{graph}" + (f"\n# prompt.py\n{prompts}" if prompts else ""), end="")
