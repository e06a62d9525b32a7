"""What a recipe will cost, before anything is spent: a dry run of its own problems on the simulated executor."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ..data import Row, load_rows
from ..dsl import format_workflow, sample_workflow
from ..engine import Budget, Engine, RolloutRequest, Trace
from ..errors import RecipeError
from ..llm import SIMULATED, LLMClient, Price, Usage
from ..operators import Problem, vocabulary
from ..simulator import SimulatedApp, in_process
from .schema import Recipe

DRY_RUN_PROBLEMS = 16
REPLY_TOKENS = 200
"""Tokens a reply of a real executor is taken to have; the simulated one is terse."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One part of a run."""

    name: str
    completions: int
    low_calls: float
    expected_calls: float
    worst_calls: float
    low_usd: float | None
    expected_usd: float | None
    worst_usd: float | None


def estimate(recipe: Recipe, *, num_processes: int = 1, reply_tokens: int = REPLY_TOKENS) -> list[Phase]:
    """
    Calls and USD of a run.

    Expected: workflows of the grammar and the recipe's baselines, run on its problems by the simulated executor, each
    paying for all its calls; replies of `reply_tokens`. Low: the same with the sharing of the recipe. A policy that
    learns to spend more, or less, moves between these and beyond. Worst: every workflow spends its whole budget of
    calls, each with the longest prompt of the dry run and a reply of `executor_max_tokens`.

    Args:
        recipe ([`~aflow_trl.recipe.Recipe`]):
            Checked recipe.
        num_processes (`int`, *optional*, defaults to `1`):
            Processes of the run.
        reply_tokens (`int`, *optional*, defaults to `200`):
            Tokens of a reply.

    Returns:
        `list[Phase]`: Evaluation, training, and their sum. USD are `None` if a price is unknown.
    """
    args, training = recipe.workflow, recipe.training
    if args.task != "compose":
        raise RecipeError(f"an estimate knows recipes with task: compose; this one has task: {args.task}.")
    wanted: dict[str, Any] = {"seed": training.seed, "domains": args.domains, "max_difficulty": args.max_difficulty}
    train_rows = load_rows(args.train_data, split="train", count=args.num_train_problems, **wanted)
    eval_rows = load_rows(args.eval_data, split="test", count=args.num_eval_problems, **wanted)
    batch = training.per_device_train_batch_size * num_processes * training.gradient_accumulation_steps
    generated = batch / training.num_iterations
    epoch_steps = len(train_rows) * training.num_generations / generated
    steps = training.max_steps if training.max_steps > 0 else epoch_steps * training.num_train_epochs
    fixed = len({"Custom", *(args.baseline_workflows or [])})
    phases = [
        _phase("evaluation", len(eval_rows) * (2 + fixed), eval_rows, 1, recipe, reply_tokens),
        _phase("training", round(steps * generated), train_rows, training.num_generations, recipe, reply_tokens),
    ]
    if args.collapse_guard != "off":
        probes = args.probe_problems * (1 + int(steps) // args.probe_steps)
        phases.append(_phase("probes", probes, train_rows, 1, recipe, reply_tokens))
    if (settings := args.warm_start_settings) is not None:
        phases.insert(0, _search_phase(settings.max_calls, train_rows, recipe, reply_tokens))
        # The winner of every place is run on the held-out problems, and so is the policy once more.
        more = len(eval_rows) * (1 + settings.winners)
        phases[1] = _phase("evaluation", phases[1].completions + more, eval_rows, 1, recipe, reply_tokens)
    return [*phases, _sum(phases)]


def _phase(name: str, completions: int, rows: Sequence[Row], group: int, recipe: Recipe, reply_tokens: int) -> Phase:
    traces = _dry_run(recipe, rows[:DRY_RUN_PROBLEMS], group)
    nodes = [node for trace in traces for node in trace.nodes]
    calls, paid = sum(node.model_calls for node in nodes), sum(trace.paid_calls for trace in traces)
    prompt = sum(node.prompt_tokens for node in nodes) / max(1, calls)
    longest = max((node.prompt_tokens / node.model_calls for node in nodes if node.model_calls), default=prompt)
    low, expected = (completions * number / len(traces) for number in (paid, calls))
    worst = float(completions * Budget().max_calls)
    price, most = recipe.executor.price, recipe.executor.executor_max_tokens
    return Phase(
        name,
        completions,
        low,
        expected,
        worst,
        _usd(price, low, prompt, reply_tokens),
        _usd(price, expected, prompt, reply_tokens),
        _usd(price, worst, longest, most),
    )


def _search_phase(max_calls: int, rows: Sequence[Row], recipe: Recipe, reply_tokens: int) -> Phase:
    """The search of a warm start, which spends its whole budget."""
    own = _phase("warm start", 1, rows, recipe.training.num_generations, recipe, reply_tokens)
    usd = None if own.expected_usd is None else own.expected_usd * max_calls / max(1e-9, own.expected_calls)
    calls = float(max_calls)
    return Phase("warm start", 0, calls, calls, calls, usd, usd, usd)


def _usd(price: Price, calls: float, prompt_tokens: float, reply_tokens: float) -> float | None:
    one = price.cost(Usage(round(prompt_tokens), round(reply_tokens)))
    return None if one is None else calls * one


def _sum(phases: Sequence[Phase]) -> Phase:
    sums: dict[str, Any] = {}
    for item in fields(Phase)[1:]:
        values = [getattr(phase, item.name) for phase in phases]
        sums[item.name] = None if None in values else sum(values)
    return Phase("run", **sums)


def _dry_run(recipe: Recipe, rows: Sequence[Row], group: int) -> list[Trace]:
    words = vocabulary(recipe.workflow.operators)
    dice = random.Random(recipe.training.seed)
    texts = list(recipe.workflow.baseline_workflows or [])
    requests = []
    for row in rows:
        problem = Problem(row.question, row.domain, row.context, row.entry_point or None, row.public_tests)
        for _ in range(group):
            fixed = texts and dice.random() < 0.5
            text = dice.choice(texts) if fixed else format_workflow(sample_workflow(dice, vocabulary=words))
            requests.append(RolloutRequest(f"<workflow>{text}</workflow>", problem))
    config = replace(recipe.executor, executor_base_url=SIMULATED, executor_max_usd=None)

    async def run() -> list[Trace]:
        client = LLMClient(config, http_client=lambda: in_process(SimulatedApp()))
        try:
            return await Engine(client, vocabulary=words, share=recipe.workflow.share).run(requests)
        finally:
            await client.aclose()

    return asyncio.run(run())
