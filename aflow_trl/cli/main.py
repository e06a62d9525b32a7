"""The `aflow-trl` command."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..dsl import analyze, format_workflow, mermaid, parse
from ..engine import Engine, Outcome
from ..errors import AflowError, RecipeError
from ..llm import CallCache, ExecutorConfig
from ..operators import Problem, load_operators, vocabulary
from ..simulator import SimulatedApp
from .commands import add_data, add_eval, add_executor, add_policy, add_search, executor_of

if TYPE_CHECKING:
    from ..inference import Answered

DEFAULT_PORT = 8377
ON_ANY_MACHINE = ("--use_cpu", "true", "--bf16", "false", "--fp16", "false")
"""Overrides under which any recipe can be read, where what would compute does not matter."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `aflow-trl`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["train"]:
        # Everything after `train` belongs to the recipe's own parser.
        from ..train import main as train

        return train(given[1:])
    parser = build_parser()
    options, overrides = parser.parse_known_args(given)
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
    """Parser of every command but `train`."""
    parser = argparse.ArgumentParser(
        prog="aflow-trl", description="Train a language model to compose agentic workflows, and run what it composes."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    commands.add_parser("train", help="train a policy from a recipe: aflow-trl train RECIPE [--key value ...]")

    check = commands.add_parser(
        "check",
        help="parse a workflow: canonical form, bounds, drawing, or the error with its place",
        description="Parse a workflow strictly and show its canonical form, what it can cost and how it flows.",
        epilog='example: aflow-trl check "Custom -> Review ? Revise : done"',
    )
    check.add_argument("workflow", help="workflow text, in quotes")
    check.add_argument("--operator-module", action="append", default=[], help="module that defines further operators")
    check.add_argument("--mermaid", action="store_true", help="print only the Mermaid drawing")
    check.set_defaults(command=_check)

    run = commands.add_parser(
        "run",
        help="answer questions with a workflow, fixed or composed by a policy",
        description="Answer one question, or a JSONL file of them, and print answer, workflow and cost.",
        epilog='example: aflow-trl run "What is 6 * 7?" --workflow "Custom -> Review ? Revise : done"',
    )
    run.add_argument("question", nargs="?", help="question, in quotes")
    run.add_argument("--input", metavar="JSONL", help="file of questions, in the row schema; no gold is needed")
    run.add_argument("--output", metavar="JSONL", default="answers.jsonl", help="file of answers (answers.jsonl)")
    source = run.add_mutually_exclusive_group()
    source.add_argument("--workflow", default=None, help="workflow to run (default: Custom)")
    source.add_argument("--model", default=None, metavar="MODEL", help="policy: a run, an adapter, a model, a Hub id")
    run.add_argument("--best-of", type=int, metavar="N", help="workflows to sample from the policy; answers are voted")
    run.add_argument("--domain", choices=["math", "code", "qa"], default="math", help="kind of answer (default: math)")
    run.add_argument("--context", default="", help="passages the question is about")
    run.add_argument("--entry-point", default=None, help="function a code task asks for")
    add_policy(run)
    add_executor(run)
    run.add_argument("--seed", type=int, default=0, help="seed of the executor's sampling (default: 0)")
    run.add_argument("--trace", action="store_true", help="draw the run: every operator with its result")
    run.add_argument("--json", action="store_true", help="print the whole trace as JSON")
    run.set_defaults(command=_run)

    export = commands.add_parser(
        "export",
        help="a workflow as a script, as AFlow's class, or as a diagram",
        description="Write a workflow as a Python script that needs only `openai`, as the class that AFlow runs, or "
        "as a Mermaid diagram.",
        epilog='example: aflow-trl export "Custom -> Review ? Revise : done" --to python > workflow.py',
    )
    export.add_argument("workflow", help="workflow text, in quotes")
    export.add_argument("--to", choices=["python", "aflow", "mermaid"], required=True, help="what to write")
    export.add_argument("--executor", default="gpt-4o-mini", help="model of the script (default: gpt-4o-mini)")
    export.set_defaults(command=_export)

    add_eval(commands)
    add_search(commands)

    cache = commands.add_parser(
        "cache",
        help="look after a cache of replies: stats, prune, verify",
        description="Show what a cache of replies holds, throw out the least recently used, or find damaged ones.",
        epilog="example: aflow-trl cache stats runs/compose/calls.sqlite",
    )
    cache.add_argument("action", choices=["stats", "prune", "verify"], help="what to do")
    cache.add_argument("path", help="SQLite file, such as calls.sqlite in an output folder")
    cache.add_argument(
        "--max-mb", type=float, default=0.0, metavar="MB", help="prune: what to keep (default: nothing)"
    )
    cache.set_defaults(command=_cache)

    estimate = commands.add_parser(
        "estimate",
        help="calls and USD a recipe will take, before anything is spent",
        description="Dry-run a recipe's problems on the simulated executor and print what the run will take. "
        "Further --key value pairs override the recipe, as in training.",
        epilog="example: aflow-trl estimate quickstart.yaml --max_steps 200",
    )
    estimate.add_argument("recipe", help="recipe, as for train")
    estimate.add_argument("--num-processes", type=int, default=1, help="processes of the run (default: 1)")
    estimate.add_argument("--reply-tokens", type=int, default=200, help="tokens of a reply (default: 200)")
    estimate.set_defaults(command=_estimate, takes_overrides=True)

    warm = commands.add_parser(
        "warmstart",
        help="search good workflows by execution and teach them to the policy of a recipe",
        description="The warm start of a recipe alone: sample workflows, successive halving by live execution, "
        "fine-tuning on the winners. A training of the same recipe with warm_start goes on from it. Further --key "
        "value pairs override the recipe, as in training.",
        epilog="example: aflow-trl warmstart quickstart.yaml --warm_start '{\"max_calls\": 10000}'",
    )
    warm.add_argument("recipe", help="recipe, as for train")
    warm.set_defaults(command=_warm_start, takes_overrides=True)

    replay = commands.add_parser(
        "replay",
        help="rewards and advantages of a run again, from its traces, without a model call",
        description="Compute rewards and advantages of every training step again and print old against new.",
        epilog="example: aflow-trl replay runs/quickstart --recipe other.yaml",
    )
    replay.add_argument("output_dir", help="output folder of a run")
    replay.add_argument(
        "--recipe", default=None, help="recipe whose rewards and advantages to use (default: the run's)"
    )
    replay.set_defaults(command=_replay)

    add_data(commands)

    simulate = commands.add_parser(
        "simulate",
        help="serve the simulated executor over HTTP",
        description="Serve the simulated executor behind the OpenAI chat protocol. It is a simulation, not a model.",
    )
    simulate.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    simulate.add_argument("--port", type=int, default=DEFAULT_PORT, help=f"port (default: {DEFAULT_PORT})")
    simulate.add_argument("--latency", type=float, default=0.0, metavar="SECONDS", help="time every reply takes")
    simulate.set_defaults(command=_simulate)
    return parser


def _check(options: argparse.Namespace) -> None:
    load_operators(options.operator_module)
    words = vocabulary()
    workflow = parse(options.workflow, vocabulary=words)
    if options.mermaid:
        print(mermaid(workflow))
        return
    analysis = analyze(workflow, vocabulary=words)
    console = Console(highlight=False)
    console.print(f"[bold]{escape(format_workflow(workflow))}[/bold]")
    console.print(
        f"{analysis.operator_count} operators, depth {analysis.depth}, "
        f"at most {analysis.worst_case_calls} model calls, {analysis.critical_path_calls} of them one after another"
    )
    console.print()
    console.print(escape(mermaid(workflow)))


def _export(options: argparse.Namespace) -> None:
    from ..export import to_aflow, to_python

    words = vocabulary()
    workflow = parse(options.workflow, vocabulary=words)
    if options.to == "mermaid":
        print(mermaid(workflow))
    elif options.to == "python":
        print(to_python(workflow, vocabulary=words, config=ExecutorConfig(executor_model=options.executor)), end="")
    else:
        graph, prompts = to_aflow(workflow, vocabulary=words)
        print(f"# graph.py\n{graph}" + (f"\n# prompt.py\n{prompts}" if prompts else ""), end="")


def _run(options: argparse.Namespace) -> None:
    from ..inference import answer, answer_file, print_answer, read_questions, workflows_of

    load_operators(options.operator_module)
    if (options.question is None) == (options.input is None):
        raise RecipeError("give one question, or a file of them with --input.")
    words = vocabulary()
    if options.input is None:
        problem = Problem(options.question, options.domain, options.context, options.entry_point)
        questions = [("", problem)]
    else:
        questions = read_questions(Path(options.input))
    fixed = format_workflow(parse(options.workflow, vocabulary=words)) if options.workflow else None
    client = executor_of(options)
    engine = Engine(client, vocabulary=words)
    workflows = workflows_of(
        questions,
        fixed=fixed,
        model=options.model,
        checkpoint=options.checkpoint,
        prompt=options.policy_prompt,
        best_of=options.best_of,
        seed=options.seed,
        vocabulary=words,
    )
    salt = str(options.seed)
    if options.input is not None:
        out = Path(options.output)
        answered = answer_file(engine, questions, workflows, out, salt=salt, console=Console(stderr=True))
        good = sum(one.best.outcome is Outcome.OK for one in answered)
        calls = sum(one.to_json()["model_calls"] for one in answered)
        print(f"{good} of {len(answered)} questions answered with {calls} model calls, in {out}")
        return

    async def one() -> Answered:
        try:
            return (await answer(engine, questions, workflows, salt=salt))[0]
        finally:
            await client.aclose()

    answered_one = asyncio.run(one())
    if options.json:
        traces = [trace.to_json() for trace in answered_one.traces]
        shown = traces[0] if len(traces) == 1 else answered_one.to_json() | {"traces": traces}
        print(json.dumps(shown, indent=2, ensure_ascii=False, default=str))
    else:
        print_answer(answered_one, Console(highlight=False), trace=options.trace)
    if answered_one.best.outcome is not Outcome.OK:
        raise SystemExit(1)


def _cache(options: argparse.Namespace) -> None:
    path = Path(options.path)
    if not path.is_file():
        raise RecipeError(f"there is no cache {options.path!r}. A run writes calls.sqlite into its output folder.")
    cache = CallCache(path)
    if options.action == "prune":
        print(f"{cache.prune(int(options.max_mb * 1e6))} replies thrown out")
    if options.action == "verify":
        print(f"{cache.verify()} damaged replies removed")
    stats = cache.stats()
    print(f"{stats.replies} replies, {stats.bytes / 1e6:.1f} MB")
    if stats.oldest is not None and stats.newest is not None:
        oldest, newest = (
            datetime.fromtimestamp(moment).strftime("%Y-%m-%d %H:%M") for moment in (stats.oldest, stats.newest)
        )
        print(f"last used from {oldest} to {newest}")


def _estimate(options: argparse.Namespace) -> None:
    from ..recipes import estimate, load_recipe

    recipe = load_recipe([options.recipe, *options.overrides, *ON_ANY_MACHINE])
    phases = estimate(recipe, num_processes=options.num_processes, reply_tokens=options.reply_tokens)
    table = Table(title=f"{options.recipe}, executor {recipe.executor.executor_model}", title_justify="left")
    for heading in ("", "completions", "calls: low", "expected", "worst", "USD: low", "expected", "worst"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for phase in phases:
        usd = [phase.low_usd, phase.expected_usd, phase.worst_usd]
        calls = (phase.completions, phase.low_calls, phase.expected_calls, phase.worst_calls)
        shown = ("unknown" if value is None else f"{value:,.2f}" for value in usd)
        table.add_row(phase.name, *(f"{value:,.0f}" for value in calls), *shown)
    console = Console(highlight=False, width=max(Console().width, 100))
    console.print(table)
    console.print(
        f"Expected: workflows of the grammar and the baselines, replies of {options.reply_tokens} tokens; low: with "
        f"equal calls shared ({recipe.workflow.share}); worst: every workflow spends its whole budget. A policy that "
        "learns to spend more takes more.",
        style="dim",
    )


def _warm_start(options: argparse.Namespace) -> None:
    from ..recipes import load_recipe
    from ..runs import print_winners
    from ..tasks import run_warm_start

    recipe = load_recipe([options.recipe, *options.overrides])
    if recipe.workflow.warm_start_settings is None:
        recipe = load_recipe([options.recipe, *options.overrides, "--warm_start", "true"])
    facts = run_warm_start(recipe)
    print_winners(facts, Console(width=max(Console().width, 110)))


def _replay(options: argparse.Namespace) -> None:
    from ..recipes import load_recipe
    from ..runs import replay, settings_of

    settings = settings_of(load_recipe([options.recipe, *ON_ANY_MACHINE])) if options.recipe else None
    table = Table(title=f"{options.output_dir}, without a model call", title_justify="left")
    for heading in ("step", "reward: old", "new", "|advantage|: old", "new", "largest change"):
        table.add_column(heading, justify="right", no_wrap=True)
    largest = 0.0
    for one in replay(Path(options.output_dir), settings):
        change = float((one.new_advantages - one.old_advantages).abs().max())
        largest = max(largest, change)
        means = [float(value) for value in (one.old_rewards[:, 0].nanmean(), one.new_rewards[:, 0].nanmean())]
        sizes = [float(value.abs().mean()) for value in (one.old_advantages, one.new_advantages)]
        table.add_row(str(one.step), *(f"{value:.4f}" for value in (*means, *sizes, change)))
    if not table.rows:
        raise RecipeError(f"{options.output_dir} holds no training step yet.")
    Console(highlight=False).print(table)
    print(f"largest change of an advantage: {largest:g}")


def _simulate(options: argparse.Namespace) -> None:
    from aiohttp import web

    from ..simulator import build_server

    if not 0 <= options.port < 65_536:
        raise RecipeError(f"--port must be between 0 and 65535, got {options.port}.")
    print(f"simulated executor on http://{options.host}:{options.port}/v1 (a simulation, not a model)", flush=True)
    server = build_server(SimulatedApp(latency_s=options.latency))
    web.run_app(server, host=options.host, port=options.port, print=lambda *_: None)


if __name__ == "__main__":
    main()
