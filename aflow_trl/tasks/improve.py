"""The training that improves workflows: its reward is what a new one gains over the current one, measured live."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from accelerate.utils import gather_object
from datasets import Dataset
from rich.console import Console

from ..data import DOMAINS, Row
from ..dsl import extract, format_workflow, sample_workflow
from ..errors import DataError, RecipeError
from ..evaluation import sample_policy, share_of
from ..improvement import Attempt, Failure, Improvement, improvement_messages, load_improvements
from ..operators import describe, vocabulary
from ..recipes import Recipe
from ..rewards import Gain, Improvements, improvement_rewards
from ..rollouts import Rollouts, ScoredRollout, valid_share, workflow_counts
from ..runs import plot_gains, print_gains, task_card_sections
from ..scoring.statistics import mean_interval
from ..storage import versions
from ..trainer import CollapseGuard, Share, WorkflowGRPOTrainer
from .session import (
    close,
    connect,
    executor_name,
    gathered_share,
    guard_facts,
    load_problems,
    make_rollouts,
    make_trainer,
    policy_facts,
    probe_size,
    prompt_arguments,
    publish,
    say,
    totals,
    train_to_the_end,
    watch,
)

SAMPLED = "sampled"
HELD_OUT_SHARE = 0.25
"""Part of the records that the policy is measured on and never trained on."""
SAMPLED_HELD_OUT_SHARE = 0.75
"""Workflows sampled beside those to train on, to measure on: they cost little, and few of them say little."""
LAST_LOGS = 10
"""Logged steps that `last_steps` of the summary is the mean of."""
KNOWN_ATTEMPTS = 2
"""Other workflows of the task that a sampled record tells of."""


def run_improve(recipe: Recipe) -> dict[str, Any]:
    """
    Run a recipe with `task: improve` from start to end.

    Args:
        recipe ([`~aflow_trl.recipe.Recipe`]):
            Checked recipe.

    Returns:
        `dict[str, Any]`: The summary, as written to `summary.json`.

    Raises:
        [`AflowError`]: Something the user has to mend; see `errors.py`.
    """
    started = time.monotonic()
    args, seed = recipe.workflow, recipe.training.seed
    eval_rows, train_rows = load_problems(recipe)
    given = _given_records(recipe)
    engine, _ = connect(recipe)
    rollouts = make_rollouts(recipe, engine)
    train_records, eval_records = given or _sampled_records(recipe, rollouts, train_rows, eval_rows)
    # A prompt may tell the gold of a failure: no gain is measured on such a problem.
    shown = {failure.question for one in (*train_records, *eval_records) for failure in one.failures}
    train_rows, eval_rows = ([row for row in rows if row.question not in shown] for rows in (train_rows, eval_rows))
    _check_problems(train_records, train_rows, "train_data")
    _check_problems(eval_records, eval_rows, "eval_data")
    scales = {"reward_scale": args.reward_scale, "reward_clip": args.reward_clip}
    improvements = Improvements(rollouts, _by_domain(train_rows), args.problems_per_gain, **scales)
    held_out = Improvements(rollouts, _by_domain(eval_rows), args.problems_per_gain, **scales)
    trainer = make_trainer(
        recipe,
        improvement_rewards(improvements, recipe.reward_names),
        improvement_dataset(train_records, **prompt_arguments(recipe)),
    )
    prompts = list(improvement_dataset(eval_records, **prompt_arguments(recipe))["prompt"])

    def measure(phase: str) -> list[Gain]:
        texts = sample_policy(trainer, prompts, seed=seed)
        own = share_of(trainer, list(enumerate(eval_records)))
        return _gathered_gains(trainer, held_out, own, texts, f"{seed} evaluation", phase)

    say(f"{len(train_records)} workflows to improve, {len(eval_records)} held out")
    untrained = measure("untrained")
    guard = _watch(recipe, trainer, rollouts, train_records)
    train_to_the_end(recipe, trainer, rollouts, guard)
    say("held-out evaluation of the trained policy")
    trained = measure("trained")
    close(engine, trainer)
    last = [entry["gain/mean"] for entry in trainer.state.log_history if "gain/mean" in entry][-LAST_LOGS:]
    summary = {
        "task": "improve",
        "gain": {
            "untrained": _gain(untrained),
            "trained": _gain(trained),
            "last_steps": asdict(mean_interval(last)),
        },
        "valid_share": {"untrained": valid_share(_first(untrained)), "trained": valid_share(_first(trained))},
        "top_workflows": {
            "untrained": workflow_counts(_first(untrained)),
            "trained": workflow_counts(_first(trained)),
        },
        "records": {"train": len(train_records), "held_out": len(eval_records)},
        "executor": executor_name(recipe),
        **totals(rollouts),
        "policy": policy_facts(recipe),
        "seed": seed,
        "versions": versions(),
        "recipe": recipe.source,
        "collapse": guard_facts(guard),
        "wall_s": time.monotonic() - started,
    }
    figures = {name: summary["gain"][name] for name in ("untrained", "trained")}
    card = task_card_sections(
        "This policy reads a workflow, how it did and what was tried, and writes a better one between `<workflow>` "
        "tags. The figures are what its workflows gained on held-out tasks, as a share of problems solved.",
        figures,
        describe(list(vocabulary(args.operators))),
        yaml.safe_dump(recipe.source, sort_keys=False),
    )

    def show(output_dir: Path) -> None:
        plot_gains(trainer.state.log_history, summary, output_dir / "learning_curve.png")
        print_gains(summary, Console(width=max(Console().width, 110)))
        say(f"adapter, model card, summary.json, learning_curve.png and the traces are in {output_dir}")

    publish(recipe, trainer, summary, card, show)
    return summary


def improvement_dataset(
    records: Sequence[Improvement], *, prompt: str, operators: Sequence[str], descriptions: str
) -> Dataset:
    """Records as the dataset TRL trains on. `performance_gain` is there for analysis; no reward reads it."""
    return Dataset.from_list(
        [
            {
                "prompt": improvement_messages(record, prompt=prompt, operators=operators, descriptions=descriptions),
                "domain": record.domain,
                "parent_workflow": record.parent_workflow,
                "parent_score": record.parent_score,
                "performance_gain": record.performance_gain,
                "id": record.id,
            }
            for record in records
        ]
    )


def _given_records(recipe: Recipe) -> tuple[list[Improvement], list[Improvement]] | None:
    """Records of the file that the recipe names, split in two by tasks that share no workflow."""
    args = recipe.workflow
    if args.improvement_records == SAMPLED:
        return None
    words = vocabulary(args.operators)
    records = load_improvements(Path(args.improvement_records), words)
    records = [one for one in records if args.domains is None or one.domain in args.domains][: args.num_records]
    parents = sorted({(one.domain, one.parent_workflow) for one in records})
    if len(parents) < 2:
        raise DataError(
            f"{args.improvement_records}: there are {len(parents)} workflows to improve. Give at least two, one to "
            "train on and one to hold out."
        )
    random.Random(recipe.training.seed).shuffle(parents)
    held_out = set(parents[: max(1, round(HELD_OUT_SHARE * len(parents)))])
    split: tuple[list[Improvement], list[Improvement]] = ([], [])
    for one in records:
        split[(one.domain, one.parent_workflow) in held_out].append(one)
    return split


def _sampled_records(
    recipe: Recipe, rollouts: Rollouts, train_rows: Sequence[Row], eval_rows: Sequence[Row]
) -> tuple[list[Improvement], list[Improvement]]:
    """Random workflows of every domain, measured by the main process; no workflow is in both lists."""
    args, seed = recipe.workflow, recipe.training.seed
    words = vocabulary(args.operators)
    dice = random.Random(seed)
    domains = [name for name in DOMAINS if any(row.domain == name for row in train_rows)]
    held_out = max(len(domains), round(SAMPLED_HELD_OUT_SHARE * args.num_records))
    drawn: dict[tuple[str, str], None] = {}
    while len(drawn) < args.num_records + held_out:
        drawn[domains[len(drawn) % len(domains)], format_workflow(sample_workflow(dice, vocabulary=words))] = None
    pairs = list(drawn)
    split: tuple[list[Improvement], list[Improvement]] = ([], [])
    if recipe.training.process_index == 0:
        say(f"measuring {len(pairs)} random workflows to be improved")

        async def measure() -> None:
            try:
                for own, rows, target in (
                    (pairs[held_out:], train_rows, split[0]),
                    (pairs[:held_out], eval_rows, split[1]),
                ):
                    target += await _measured(own, _by_domain(rows), rollouts, args.problems_per_gain, seed)
            finally:
                for client in rollouts.engine.clients.values():
                    await client.aclose()

        asyncio.run(measure())
    return gather_object(split[0]), gather_object(split[1])


async def _measured(
    pairs: Sequence[tuple[str, str]],
    problems: dict[str, list[dict[str, Any]]],
    rollouts: Rollouts,
    count: int,
    seed: int,
) -> list[Improvement]:
    dice = random.Random(seed)
    chosen = {domain: dice.sample(rows, min(count, len(rows))) for domain, rows in problems.items()}
    jobs = [(domain, text, row) for domain, text in pairs for row in chosen[domain]]
    scored = await rollouts.execute(
        [text for _, text, _ in jobs], [row for *_, row in jobs], salt=f"{seed} records", phase="records", step=0
    )
    ended: dict[tuple[str, str], list[tuple[dict[str, Any], ScoredRollout]]] = {}
    for (domain, text, row), rollout in zip(jobs, scored, strict=True):
        ended.setdefault((domain, text), []).append((row, rollout))
    scores = {}
    for pair, own in ended.items():
        known = [rollout.correctness for _, rollout in own if rollout.correctness is not None]
        if known:
            scores[pair] = sum(known) / len(known)
    if not scores:
        raise RecipeError("no workflow could be measured: the executor or a scorer keeps failing, see the traces.")
    records: list[Improvement] = []
    for (domain, text), score in scores.items():
        failures = [(row, one) for row, one in ended[domain, text] if one.correctness == 0.0]
        others = [(other, value) for (name, other), value in scores.items() if name == domain and other != text]
        attempts = dice.sample(others, min(KNOWN_ATTEMPTS, len(others)))
        records.append(
            Improvement(
                domain,
                text,
                score,
                tuple(Failure(row["question"], one.trace.answer, _gold(row)) for row, one in failures[:1]),
                tuple(Attempt(other, value - score) for other, value in attempts),
                source="sampled",
                id=f"sampled/{domain}/{len(records)}",
            )
        )
    return records


def _watch(
    recipe: Recipe, trainer: WorkflowGRPOTrainer, rollouts: Rollouts, records: Sequence[Improvement]
) -> CollapseGuard | None:
    own = records[: probe_size(recipe)]
    prompts = list(improvement_dataset(own, **prompt_arguments(recipe))["prompt"])
    words, limits = rollouts.engine.vocabulary, rollouts.engine.limits

    def judge(texts: list[str]) -> dict[str, Share]:
        found = [extract(text, vocabulary=words, limits=limits).workflow for text in texts]
        return {"valid": gathered_share([workflow is not None for workflow in found])}

    return watch(recipe, trainer, prompts, judge)


def _gathered_gains(
    trainer: WorkflowGRPOTrainer,
    improvements: Improvements,
    own: Sequence[tuple[int, Improvement]],
    texts: Sequence[str],
    salt: str,
    phase: str,
) -> list[Gain]:
    records = [record for _, record in own]
    work = improvements.measure(
        texts[: len(own)],
        [record.domain for record in records],
        [record.parent_workflow for record in records],
        draws=[record.id or record.parent_workflow for record in records],
        salt=salt,
        phase=phase,
        step=trainer.state.global_step,
    )
    gains = asyncio.run_coroutine_threadsafe(work, trainer.async_loop).result()
    gathered = gather_object([(index, gain) for (index, _), gain in zip(own, gains, strict=True)])
    for fatal in gather_object([improvements.rollouts.engine.fatal]):
        if fatal is not None:
            raise fatal
    return [gain for _, gain in sorted(gathered, key=lambda pair: pair[0])]


def _gain(gains: Sequence[Gain]) -> dict[str, Any]:
    known = [gain.value for gain in gains if gain.value is not None]
    by_domain: dict[str, list[float]] = {}
    for gain in gains:
        if gain.value is not None:
            by_domain.setdefault(gain.new[0].domain, []).append(gain.value)
    means = {domain: sum(values) / len(values) for domain, values in sorted(by_domain.items())}
    return asdict(mean_interval(known)) | {"unscored": len(gains) - len(known), "by_domain": means}


def _first(gains: Sequence[Gain]) -> list[ScoredRollout]:
    return [gain.new[0] for gain in gains]


def _by_domain(rows: Sequence[Row]) -> dict[str, list[dict[str, Any]]]:
    own: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        own.setdefault(row.domain, []).append(row.columns())
    return own


def _check_problems(records: Sequence[Improvement], rows: Sequence[Row], name: str) -> None:
    counts = Counter(row.domain for row in rows)
    for record in records:
        if not counts[record.domain]:
            raise DataError(
                f"{name} holds no {record.domain} problem, but a workflow for {record.domain} is improved."
            )


def _gold(row: dict[str, Any]) -> str:
    return str(row["answer"][0]) if row["answer"] else "what its tests want"
