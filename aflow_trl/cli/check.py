"""`aflow-trl check`: parse a workflow and show its canonical form, cost bounds and diagram."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from ..console import report_console
from ..dsl import Vocabulary, Workflow, analyze, format_workflow, mermaid, parse, worst_case_cost
from ..llm import ExecutorConfig, Usage, further_executors
from ..operators import load_operators
from .options import Commands, read_models

PROMPT_TOKENS = 2_000


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
    parser.add_argument("--executor", metavar="MODEL", help="model of the executor, for a bound in USD")
    parser.add_argument("--base-url", metavar="URL", help="its endpoint (default: OPENAI_BASE_URL, or OpenAI)")
    parser.add_argument(
        "--prompt-tokens",
        type=int,
        default=PROMPT_TOKENS,
        metavar="N",
        help=f"tokens of a prompt that the bound in USD supposes (default: {PROMPT_TOKENS})",
    )
    parser.add_argument("--mermaid", action="store_true", help="print only the Mermaid diagram")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    operators = load_operators(options.operator_module)
    changes = read_models(options.models)
    models = [name for name in changes if name not in operators]
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
    if options.executor is not None:
        console.print(_usd_bound(workflow, vocabulary, options, changes), soft_wrap=True)
    console.print()
    console.print(mermaid(workflow), soft_wrap=True)


def _usd_bound(
    workflow: Workflow, vocabulary: Vocabulary, options: argparse.Namespace, changes: Mapping[str, Any]
) -> str:
    """A line: what the workflow costs at most, where the price of every executor is known."""
    given = {"executor_model": options.executor, "executor_base_url": options.base_url}
    main = ExecutorConfig(**{name: value for name, value in given.items() if value is not None})
    executors = {"": main} | further_executors(changes, main)
    costs = {
        name: config.price.cost(Usage(options.prompt_tokens, config.executor_max_tokens))
        for name, config in executors.items()
    }
    if unknown := [executors[name].executor_model for name, cost in costs.items() if cost is None]:
        return f"the price of {unknown[0]} is unknown, so there is no bound in USD"
    known = {name: cost for name, cost in costs.items() if cost is not None}
    usd = worst_case_cost(workflow, known, vocabulary=vocabulary)
    tokens = f"prompts of {options.prompt_tokens:,} and replies of {main.executor_max_tokens:,} tokens"
    return f"at most {usd:.4f} USD with {tokens} at most"
