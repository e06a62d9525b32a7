"""Expected cost of a recipe before anything is spent: a dry run of its problems on the simulated executor."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers.trainer_utils import IntervalStrategy

from ..data import Row, load_rows
from ..dsl import MODEL, format_workflow, sample_workflow
from ..engine import Budget, Engine, NodeRecord, RolloutRequest, Trace
from ..event_loops import run_coroutine
from ..llm import SIMULATED, Price, Usage
from ..operators import Problem
from ..simulator import SimulatedApp, simulated_client
from ..trainer import WorkflowGRPOConfig
from .arguments import HELD_OUT_SHARE, IMPROVE, REASON, SAMPLED, SAMPLED_HELD_OUT_SHARE, ComposeArguments
from .recipe import Recipe

DRY_RUN_PROBLEMS = 16
DRY_RUN_LATENCY_S = 0.2
"""Latency of a call where the dry run measures which calls wait for each other."""
REPLY_TOKENS = 200
"""Tokens that a reply of a real executor is assumed to have; the simulated one is terse."""
JUDGE_PROMPT_TOKENS = 250
"""Tokens of a judge's prompt beside question and answer."""


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

    Expected: random workflows and the recipe's baselines, run on its problems by the simulated executor, each paying
    for all its calls, with replies of `reply_tokens`. Low: the same with the sharing of the recipe. Worst: every
    workflow spends its whole budget of calls, each with the longest prompt of the dry run, a reply of
    `executor_max_tokens` and the price of the dearest executor. A policy that learns to spend more, or less, moves
    between these and beyond.

    Args:
        recipe ([`Recipe`]):
            Checked recipe.
        num_processes (`int`, *optional*, defaults to `1`):
            Number of processes of the run.
        reply_tokens (`int`, *optional*, defaults to `200`):
            Tokens of a reply.

    Returns:
        `list[Phase]`: The phases and their sum. USD are `None` if a price is unknown; `task: reason` calls no model.
    """
    run, training = recipe.run, recipe.training
    train_rows, eval_rows = (
        load_rows(
            data,
            split=split,
            count=count,
            seed=training.seed,
            domains=run.domains,
            max_difficulty=run.max_difficulty,
        )
        for data, split, count in (
            (run.train_data, "train", run.num_train_problems),
            (run.eval_data, "test", run.num_eval_problems),
        )
    )
    if run.task == IMPROVE:
        return _of_improve(recipe, train_rows, num_processes, reply_tokens)
    plan = _plan(training, len(train_rows), num_processes)
    steps = plan.steps
    if run.task == REASON:
        evaluation = Phase("evaluation", 2 * len(eval_rows), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        phases = [evaluation, replace(evaluation, name="training", completions=plan.completions)]
        return [*phases, _sum(phases)]
    fixed = len({"Custom", *(recipe.compose.baseline_workflows or [])})
    # The untrained and the trained policy, and every fixed workflow.
    evaluations = 2 + fixed
    warm_start = recipe.compose.warm_start_settings
    if warm_start is not None:
        # The policy once more, and the first, second, ... winner of each group of problems; with targets for the cost,
        # what the search would run at each.
        evaluations += 1 + (warm_start.winners if training.cost_targets is None else max(1, len(training.budgets)))
    if training.budgets:
        # The trained policy, and that after the warm start, at every other budget.
        evaluations += (len(training.budgets) - 1) * (1 if warm_start is None else 2)
    dry_run = _DryRun(recipe, train_rows, training.num_generations, reply_tokens)
    single = _DryRun(recipe, eval_rows, 1, reply_tokens)
    phases = [single.phase("evaluation", len(eval_rows) * evaluations)]
    phases.append(dry_run.phase("training", plan.completions))
    if training.collapse_guard != "off":
        probes = training.probe_problems * (1 + int(steps) // training.probe_steps)
        phases.append(_DryRun(recipe, train_rows, 1, reply_tokens).phase("probes", probes))
    if evaluations_in_training := _evaluations_in_training(training, steps, plan.epochs):
        completions = evaluations_in_training * len(eval_rows) * (training.num_generations_eval or 1)
        group_phase = _DryRun(recipe, eval_rows, training.num_generations_eval or 1, reply_tokens)
        phases.append(group_phase.phase("evaluation in training", completions))
    if warm_start is not None:
        phases.insert(0, dry_run.search_phase(warm_start.max_calls))
    if recipe.compose.judge_domains:
        completions = sum(phase.completions for phase in phases)
        phases.append(dry_run.judge_phase(completions))
    return [*phases, _sum(phases)]


def estimate_execution(recipe: Recipe, latency_s: float) -> float:
    """
    Seconds that a batch of one process takes in the executor, as random workflows and the recipe's baselines do.

    Args:
        recipe ([`Recipe`]):
            Checked recipe.
        latency_s (`float`):
            Seconds of a call.
    """
    run, training = recipe.run, recipe.training
    rows = load_rows(
        run.train_data,
        split="train",
        count=DRY_RUN_PROBLEMS,
        seed=training.seed,
        domains=run.domains,
        max_difficulty=run.max_difficulty,
    )
    traces = _run(recipe, rows, training.num_generations, DRY_RUN_LATENCY_S)
    # Calls of the longest workflow that wait for each other.
    depth = round(max(trace.critical_path_s for trace in traces) / DRY_RUN_LATENCY_S)
    completions = training.per_device_train_batch_size * training.steps_per_generation
    calls = completions / len(traces) * sum(trace.paid_calls for trace in traces)
    return float(latency_s * max(depth, calls / recipe.executor.executor_concurrency))


@dataclass(frozen=True, slots=True)
class _Plan:
    """Length of a training."""

    steps: float
    epochs: float
    completions: int


def _plan(training: WorkflowGRPOConfig, num_prompts: int, num_processes: int) -> _Plan:
    batch = training.per_device_train_batch_size * num_processes * training.gradient_accumulation_steps
    completions_per_step = batch / training.num_iterations
    steps_per_epoch = num_prompts * training.num_generations / completions_per_step
    steps = training.max_steps if training.max_steps > 0 else steps_per_epoch * training.num_train_epochs
    return _Plan(steps, steps / steps_per_epoch, round(steps * completions_per_step))


def _of_improve(recipe: Recipe, rows: Sequence[Row], num_processes: int, reply_tokens: int) -> list[Phase]:
    """Every gain runs a new workflow and the present one, which a group shares, on `problems_per_gain` problems."""
    training, args = recipe.training, recipe.improve
    is_sampled = args.improvement_records == SAMPLED
    count = args.num_records if is_sampled else round(args.num_records * (1 - HELD_OUT_SHARE))
    held_out = round(args.num_records * (SAMPLED_HELD_OUT_SHARE if is_sampled else HELD_OUT_SHARE))
    plan = _plan(training, count, num_processes)
    dry_run = _DryRun(recipe, rows, training.num_generations, reply_tokens)
    runs = args.problems_per_gain
    phases = [
        dry_run.phase("evaluation", 2 * 2 * held_out * runs),
        dry_run.phase("training", round(plan.completions * (1 + 1 / training.num_generations) * runs)),
    ]
    if is_sampled:
        phases.insert(0, dry_run.phase("workflows to improve", (count + held_out) * runs))
    return [*phases, _sum(phases)]


def _evaluations_in_training(training: WorkflowGRPOConfig, steps: float, epochs: float) -> int:
    """Number of evaluations that `eval_strategy` asks for."""
    count = int(training.eval_on_start)
    if training.eval_strategy == IntervalStrategy.EPOCH:
        return count + int(epochs)
    if training.eval_strategy == IntervalStrategy.STEPS:
        every = training.eval_steps or training.logging_steps
        # transformers takes a value below 1 for a share of all steps.
        return count + int(steps // (every if every >= 1 else max(1, math.ceil(every * steps))))
    return count


class _DryRun:
    """Traces of random workflows on the first problems, and what their calls would cost."""

    def __init__(self, recipe: Recipe, rows: Sequence[Row], group_size: int, reply_tokens: int) -> None:
        self.recipe, self.rows, self.reply_tokens = recipe, rows[:DRY_RUN_PROBLEMS], reply_tokens
        self.traces = _run(recipe, self.rows, group_size)
        self.nodes = [node for trace in self.traces for node in trace.nodes]
        self.prices = {name: config.price for name, config in recipe.further_executors.items()}

    def phase(self, name: str, completions: int) -> Phase:
        scale = completions / len(self.traces)
        calls = sum(node.model_calls for node in self.nodes)
        paid_calls = sum(trace.paid_calls for trace in self.traces)
        worst_calls = float(completions * Budget().max_calls)
        prompt_tokens = max(
            (node.prompt_tokens / node.model_calls for node in self.nodes if node.model_calls), default=0
        )
        worst_usage = Usage(round(prompt_tokens), self.recipe.executor.executor_max_tokens)
        worst_usd = _largest(
            [price.cost(worst_usage) for price in (self.recipe.executor.price, *self.prices.values())]
        )
        return Phase(
            name,
            completions,
            scale * paid_calls,
            scale * calls,
            worst_calls,
            _times(scale, self._usd([node for node in self.nodes if not node.shared])),
            _times(scale, self._usd(self.nodes)),
            _times(worst_calls, worst_usd),
        )

    def search_phase(self, max_calls: int) -> Phase:
        """The search of a warm start, which spends its whole budget."""
        calls = sum(node.model_calls for node in self.nodes)
        usd = _times(max_calls / max(1, calls), self._usd(self.nodes))
        return Phase("warm start", 0, max_calls, max_calls, max_calls, usd, usd, usd)

    def judge_phase(self, completions: int) -> Phase:
        """Calls of the judge: one for each answer in its domains; equal answers to a problem share one."""
        domains = set(self.recipe.workflow.judge_domains or ())
        judged = [trace for trace in self.traces if trace.problem.domain in domains]
        distinct = {(trace.problem.statement, trace.answer) for trace in judged}
        calls, low_calls = (completions * count / len(self.traces) for count in (len(judged), len(distinct)))
        statement_tokens = sum(len(trace.problem.statement) for trace in judged) / max(1, len(judged)) / 4
        price = self.recipe.executor.price
        usage = Usage(round(JUDGE_PROMPT_TOKENS + statement_tokens + self.reply_tokens), self.reply_tokens)
        usd = price.cost(usage)
        return Phase(
            "judge", 0, low_calls, calls, calls, _times(low_calls, usd), _times(calls, usd), _times(calls, usd)
        )

    def _usd(self, nodes: Sequence[NodeRecord]) -> float | None:
        total = 0.0
        for node in nodes:
            named = self.prices.get(str(node.arguments.get(MODEL)))
            price: Price = named or self.prices.get(node.operator, self.recipe.executor.price)
            cost = price.cost(Usage(node.prompt_tokens, node.model_calls * self.reply_tokens))
            if cost is None:
                return None
            total += cost
        return total


def _times(factor: float, usd: float | None) -> float | None:
    return None if usd is None else factor * usd


def _largest(costs: Sequence[float | None]) -> float | None:
    priced = [cost for cost in costs if cost is not None]
    return max(priced) if len(priced) == len(costs) else None


def _sum(phases: Sequence[Phase]) -> Phase:
    def total(costs: Sequence[float | None]) -> float | None:
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    return Phase(
        "run",
        sum(phase.completions for phase in phases),
        sum(phase.low_calls for phase in phases),
        sum(phase.expected_calls for phase in phases),
        sum(phase.worst_calls for phase in phases),
        total([phase.low_usd for phase in phases]),
        total([phase.expected_usd for phase in phases]),
        total([phase.worst_usd for phase in phases]),
    )


def _run(recipe: Recipe, rows: Sequence[Row], group_size: int, latency_s: float = 0.0) -> list[Trace]:
    vocabulary = recipe.operators.vocabulary
    rng = random.Random(recipe.training.seed)
    arguments = recipe.arguments
    texts = list(arguments.baseline_workflows or []) if isinstance(arguments, ComposeArguments) else []
    requests = []
    for row in rows:
        problem = Problem(row.question, row.domain, row.context, row.entry_point or None, row.public_tests)
        for _ in range(group_size):
            fixed = texts and rng.random() < 0.5
            text = rng.choice(texts) if fixed else format_workflow(sample_workflow(rng, vocabulary=vocabulary))
            requests.append(RolloutRequest(f"<workflow>{text}</workflow>", problem))
    config = replace(recipe.executor, executor_base_url=SIMULATED, executor_max_usd=None)

    async def run() -> list[Trace]:
        client = simulated_client(config, app=SimulatedApp(latency_s=latency_s))
        try:
            models = dict.fromkeys(recipe.further_executors, client)
            engine = Engine(client, operators=recipe.operators, share=recipe.workflow.share, models=models)
            return await engine.run(requests)
        finally:
            await client.aclose()

    return run_coroutine(run())
