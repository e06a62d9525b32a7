"""`aflow-trl endpoint`: find out what an endpoint takes and gives, with a few tiny calls."""

from __future__ import annotations

import argparse

from rich.table import Table

from ..console import report_console
from ..errors import RecipeError
from ..event_loops import run_coroutine
from ..llm import SIMULATED, ExecutorConfig, LLMClient
from ..operators import preflight
from .options import ANY_MACHINE, Commands, add_executor_flags, executor_config


def add_parser(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "endpoint",
        help="find out what an endpoint takes and gives: parameters, seed, thinking, usage, JSON, context",
        description="Make about a dozen tiny calls to the executors of a recipe, or to a URL with the flags below, "
        "and print what they show. Every run makes the same calls at its start; the result holds for an hour. Further "
        "--key value pairs override the recipe, as in training.",
        epilog="example: aflow-trl endpoint http://localhost:8000/v1 --executor Qwen/Qwen3-4B",
    )
    parser.add_argument("target", help="recipe, as for train, or the URL of an endpoint")
    add_executor_flags(parser)
    parser.set_defaults(command=run, takes_overrides=True)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    console = report_console()
    for config in _configs(options):
        client = LLMClient(config)

        async def work(client: LLMClient = client) -> None:
            try:
                await preflight(client, fresh=True)
            finally:
                await client.aclose()

        run_coroutine(work())
        console.print(_table(client))


def _configs(options: argparse.Namespace) -> list[ExecutorConfig]:
    if "://" in options.target:
        if options.overrides:
            raise RecipeError(f"{options.overrides[0]} overrides a recipe. Beside a URL, use --set KEY=VALUE.")
        return [executor_config(options, base_url=options.target)]
    from ..recipes import load_recipe

    recipe = load_recipe([options.target, *options.overrides, *ANY_MACHINE])
    real = [config for config in recipe.executors if config.executor_base_url != SIMULATED]
    if not real:
        raise RecipeError(f"{options.target} uses the simulated executor, which has no endpoint.")
    return real


def _table(client: LLMClient) -> Table:
    config, profile = client.config, client.profile
    assert profile is not None
    price = config.price
    sent = config.parameters(config.executor_temperature, 0)
    unknown = None in (price.input_usd, price.output_usd)
    rows = {
        "parameters": ", ".join(f"{name}={value}" for name, value in sent.items() if name != "seed"),
        "changed": ", ".join(profile.renegotiated) or "nothing",
        "seed": profile.seed,
        "thinking": {"none": "none seen", "text": "in the text (separated)", "field": "in a field of its own"}.get(
            profile.thinking, "unseen, only billed"
        ),
        "usage": profile.usage if profile.usage != "missing" else "missing (estimated)",
        "context": f"{profile.context_tokens} tokens" if profile.context_tokens else "not said",
        "replies": config.executor_structured,
        "malformed": ", ".join(profile.malformed) or "none",
        "price": "unknown" if unknown else f"{price.input_usd:g} / {price.output_usd:g} USD per million tokens",
        "latency": f"{profile.latency_s:.2f} s",
        "preflight": f"{profile.requests} requests" + ("" if profile.usd is None else f", {profile.usd:.6f} USD"),
    }
    table = Table(title=f"{config.executor_model} at {client.host}", title_justify="left", show_header=False)
    for name, text in rows.items():
        table.add_row(name, text)
    return table
