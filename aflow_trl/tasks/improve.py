"""`task: improve`: the reward is what a new workflow gains over the current one, measured during training."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from accelerate.utils import gather_object
from datasets import Dataset

from ..console import report_console
from ..data import PolicyPrompt, Row
from ..dsl import format_workflow, sample_workflow
from ..errors import DataError, RecipeError
from ..event_loops import run_coroutine
from ..improvement import Attempt, Failure, Improvement, improvement_messages, load_improvements
from ..recipes import HELD_OUT_SHARE, SAMPLED, SAMPLED_HELD_OUT_SHARE, Recipe
from ..rewards import Gain, Improvements, improvement_rewards
from ..rollouts import Rollouts, RowColumns, ScoredRollout, valid_share, workflow_counts
from ..runs import chat_usage, plot_gains, print_gains, task_card
from ..scoring import known_domains
from ..scoring.statistics import mean_interval
from ..trainer import WorkflowGRPOTrainer
from .preflight import check_trainer
from .run_folder import begin_record, enter_phase, print_rank0
from .session import (
    build_engine,
    build_rollouts,
    build_trainer,
    close_executors,
    earlier_rollouts,
    load_problems,
    policy_name,
    publish,
    run_metadata,
    totals,
    train,
)

LAST_LOGS = 10
"""Number of logged steps that `last_steps` of the summary is the mean of."""
SHOWN_ATTEMPTS = 2
"""Number of other workflows of the task that a sampled record mentions."""
ABOUT = (
    "This policy reads a workflow, its score and earlier attempts, and writes a better one between `<workflow>` tags. "
    "The figures are what its workflows gained on held-out tasks, as a share of problems solved."
)


def run_improve(recipe: Recipe) -> dict[str, Any]:
    """
    Run a recipe with `task: improve` from start to end.

    Args:
        recipe ([`~aflow_trl.recipes.Recipe`]):
            Checked recipe.

    Returns:
        `dict[str, Any]`: The summary, as written to `summary.json`.

    Raises:
        [`AflowError`]: A user error, or a run that had to be stopped; see `errors.py`.
    """
    started = time.monotonic()
    args, seed = recipe.improve, recipe.training.seed
    eval_rows, train_rows = load_problems(recipe)
    records_of_file = _records_of_file(recipe)
    earlier = earlier_rollouts(recipe)
    engine, _ = build_engine(recipe, earlier)
    if not recipe.is_sharded:
        check_trainer(recipe)
    begin_record(recipe)
    rollouts = build_rollouts(recipe, engine, earlier)
    train_records, eval_records = records_of_file or _sampled_records(recipe, rollouts, train_rows, eval_rows)
    # A prompt may show the gold of a failure: no gain is measured on such a problem.
    shown = {failure.question for record in (*train_records, *eval_records) for failure in record.failures}
    train_rows, eval_rows = ([row for row in rows if row.question not in shown] for rows in (train_rows, eval_rows))
    _check_problems(train_records, train_rows, "train_data")
    _check_problems(eval_records, eval_rows, "eval_data")
    training_gains, held_out_gains = (
        Improvements(
            rollouts,
            _by_domain(rows),
            args.problems_per_gain,
            reward_scale=args.reward_scale,
            reward_clip=args.reward_clip,
        )
        for rows in (train_rows, eval_rows)
    )
    trainer = build_trainer(
        recipe,
        improvement_rewards(training_gains, recipe.reward_names),
        improvement_dataset(train_records, recipe.prompt),
        improvement_dataset(eval_records, recipe.prompt),
    )
    prompts = [improvement_messages(record, recipe.prompt) for record in eval_records]

    def measure(phase: str) -> list[Gain]:
        return _held_out_gains(trainer, held_out_gains, eval_records, prompts, seed, phase)

    print_rank0(f"{len(train_records)} workflows to improve, {len(eval_records)} held out")
    enter_phase("held-out evaluation")
    untrained = measure("untrained")
    train(recipe, trainer)
    enter_phase("held-out evaluation of the trained policy")
    trained = measure("trained")
    close_executors(engine, trainer)
    last = [entry["gain/mean"] for entry in trainer.state.log_history if "gain/mean" in entry][-LAST_LOGS:]
    first_untrained, first_trained = ([gain.new[0] for gain in gains] for gains in (untrained, trained))
    summary = {
        "task": recipe.run.task,
        "gain": {
            "untrained": _summarize(untrained),
            "trained": _summarize(trained),
            # No interval: successive steps of one policy are correlated, so their spread says too little.
            "last_steps": {"mean": fmean(last) if last else None, "n": len(last)},
        },
        "valid_share": {"untrained": valid_share(first_untrained), "trained": valid_share(first_trained)},
        "top_workflows": {"untrained": workflow_counts(first_untrained), "trained": workflow_counts(first_trained)},
        "records": {"train": len(train_records), "held_out": len(eval_records)},
        "executor": recipe.executor_name,
        **totals(rollouts),
        **run_metadata(recipe, trainer),
        "wall_s": time.monotonic() - started,
    }
    figures = {name: summary["gain"][name] for name in ("untrained", "trained")}
    example = improvement_messages(Improvement("math", "Custom", 0.5), recipe.prompt)
    card = task_card(
        summary,
        about=ABOUT,
        usage=chat_usage(policy_name(recipe, trainer), example, recipe.sampling_at(0).max_completion_length),
        metric="gain",
        figures=figures,
        operators=recipe.operators.descriptions,
        data=recipe.run.eval_data,
    )

    def plot(output_dir: Path) -> None:
        plot_gains(trainer.state.log_history, summary, output_dir / "learning_curve.png")

    def show() -> None:
        print_gains(summary, report_console())
        print_rank0(f"adapter, model card, summary.json, learning_curve.png and the traces are in {recipe.output_dir}")

    publish(recipe, trainer, summary, card, plot, show)
    return summary


def improvement_dataset(records: Sequence[Improvement], prompt: PolicyPrompt) -> Dataset:
    """Records as the dataset TRL trains on. `performance_gain` is there for analysis; no reward reads it."""
    return Dataset.from_list(
        [
            {
                "prompt": improvement_messages(record, prompt),
                "domain": record.domain,
                "parent_workflow": record.parent_workflow,
                "parent_score": record.parent_score,
                "performance_gain": record.performance_gain,
                "id": record.id,
            }
            for record in records
        ]
    )


def _records_of_file(recipe: Recipe) -> tuple[list[Improvement], list[Improvement]] | None:
    """Records of the file that the recipe names, split into training and held-out tasks that share no workflow."""
    args = recipe.improve
    if args.improvement_records == SAMPLED:
        return None
    domains = recipe.run.domains
    records = load_improvements(Path(args.improvement_records), recipe.operators.vocabulary)
    records = [record for record in records if domains is None or record.domain in domains][: args.num_records]
    parents = sorted({(record.domain, record.parent_workflow) for record in records})
    if len(parents) < 2:
        raise DataError(
            f"{args.improvement_records}: there are {len(parents)} workflows to improve. Give at least two, one to "
            "train on and one to hold out."
        )
    random.Random(recipe.training.seed).shuffle(parents)
    held_out = set(parents[: max(1, round(HELD_OUT_SHARE * len(parents)))])
    split: tuple[list[Improvement], list[Improvement]] = ([], [])
    for record in records:
        split[(record.domain, record.parent_workflow) in held_out].append(record)
    return split


def _sampled_records(
    recipe: Recipe, rollouts: Rollouts, train_rows: Sequence[Row], eval_rows: Sequence[Row]
) -> tuple[list[Improvement], list[Improvement]]:
    """Random workflows of every domain, measured by the main process; no workflow is in both lists."""
    args, seed = recipe.improve, recipe.training.seed
    vocabulary = recipe.operators.vocabulary
    rng = random.Random(seed)
    domains = [name for name in known_domains() if any(row.domain == name for row in train_rows)]
    num_held_out = max(len(domains), round(SAMPLED_HELD_OUT_SHARE * args.num_records))
    sampled: dict[tuple[str, str], None] = {}
    while len(sampled) < args.num_records + num_held_out:
        text = format_workflow(sample_workflow(rng, vocabulary=vocabulary))
        sampled[domains[len(sampled) % len(domains)], text] = None
    pairs = list(sampled)
    split: tuple[list[Improvement], list[Improvement]] = ([], [])
    if recipe.training.process_index == 0:
        enter_phase(f"measuring {len(pairs)} random workflows to be improved")

        async def measure() -> None:
            try:
                for part, rows, records in (
                    (pairs[num_held_out:], train_rows, split[0]),
                    (pairs[:num_held_out], eval_rows, split[1]),
                ):
                    records += await _measured(part, _by_domain(rows), rollouts, args.problems_per_gain, seed)
            finally:
                await rollouts.engine.aclose()

        run_coroutine(measure())
    return gather_object(split[0]), gather_object(split[1])


async def _measured(
    pairs: Sequence[tuple[str, str]],
    problems: Mapping[str, Sequence[RowColumns]],
    rollouts: Rollouts,
    count: int,
    seed: int,
) -> list[Improvement]:
    """Records of workflows, by domain and text, each measured on the same problems of its domain."""
    rng = random.Random(seed)
    chosen = {domain: rng.sample(list(rows), min(count, len(rows))) for domain, rows in problems.items()}
    jobs = [(domain, text, row) for domain, text in pairs for row in chosen[domain]]
    scored = await rollouts.execute(
        [text for _, text, _ in jobs], [row for *_, row in jobs], salt=f"{seed} records", phase="records", step=0
    )
    runs: dict[tuple[str, str], list[tuple[RowColumns, ScoredRollout]]] = {}
    for (domain, text, row), rollout in zip(jobs, scored, strict=True):
        runs.setdefault((domain, text), []).append((row, rollout))
    scores = {}
    for pair, results in runs.items():
        correctness = [rollout.correctness for _, rollout in results if rollout.correctness is not None]
        if correctness:
            scores[pair] = sum(correctness) / len(correctness)
    if not scores:
        raise RecipeError("no workflow could be measured: the executor or a scorer keeps failing, see the traces.")
    records: list[Improvement] = []
    for (domain, text), score in scores.items():
        failures = [(row, rollout) for row, rollout in runs[domain, text] if rollout.correctness == 0.0]
        others = [(other, value) for (name, other), value in scores.items() if name == domain and other != text]
        attempts = rng.sample(others, min(SHOWN_ATTEMPTS, len(others)))
        records.append(
            Improvement(
                domain,
                text,
                score,
                tuple(Failure(row["question"], rollout.trace.answer, _gold(row)) for row, rollout in failures[:1]),
                tuple(Attempt(other, value - score) for other, value in attempts),
                source="sampled",
                id=f"sampled/{domain}/{len(records)}",
            )
        )
    return records


def _held_out_gains(
    trainer: WorkflowGRPOTrainer,
    improvements: Improvements,
    records: Sequence[Improvement],
    prompts: Sequence[Any],
    seed: int,
    phase: str,
) -> list[Gain]:
    """Gains of the current policy on held-out records, over all processes."""
    share = trainer.local_share(list(enumerate(records)))
    texts = trainer.sample(prompts, seed=seed)[: len(share)]
    gains = trainer.run_async(
        improvements.measure(
            texts,
            [record.domain for _, record in share],
            [record.parent_workflow for _, record in share],
            draws=[record.id or record.parent_workflow for _, record in share],
            salt=f"{seed} evaluation",
            phase=phase,
            step=trainer.state.global_step,
        )
    )
    gathered = gather_object([(index, gain) for (index, _), gain in zip(share, gains, strict=True)])
    trainer.raise_fatal()
    return [gain for _, gain in sorted(gathered, key=lambda pair: pair[0])]


def _summarize(gains: Sequence[Gain]) -> dict[str, Any]:
    measured = [gain.value for gain in gains if gain.value is not None]
    by_domain: dict[str, list[float]] = {}
    for gain in gains:
        if gain.value is not None:
            by_domain.setdefault(gain.new[0].domain, []).append(gain.value)
    means = {domain: sum(values) / len(values) for domain, values in sorted(by_domain.items())}
    return asdict(mean_interval(measured)) | {"unscored": len(gains) - len(measured), "by_domain": means}


def _by_domain(rows: Sequence[Row]) -> dict[str, list[RowColumns]]:
    by_domain: dict[str, list[RowColumns]] = {}
    for row in rows:
        by_domain.setdefault(row.domain, []).append(row.columns())
    return by_domain


def _check_problems(records: Sequence[Improvement], rows: Sequence[Row], name: str) -> None:
    counts = Counter(row.domain for row in rows)
    for record in records:
        if not counts[record.domain]:
            raise DataError(
                f"{name} holds no {record.domain} problem, but a workflow for {record.domain} is to be improved. Add "
                "problems of that domain, or restrict domains."
            )


def _gold(row: RowColumns) -> str:
    return str(row["answer"][0]) if row["answer"] else "what its tests want"
