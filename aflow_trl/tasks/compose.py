"""The training that composes workflows: evaluation of the untrained policy, training, evaluation, report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from ..data import Row, build_dataset
from ..errors import FatalEndpointError, RunStoppedError
from ..evaluation import Evaluator
from ..operators import describe, vocabulary
from ..recipes import Recipe
from ..rewards import workflow_rewards
from ..rollouts import Rollouts, ScoredRollout, accuracy, valid_share, workflow_counts
from ..runs import (
    SETTINGS_FILE,
    learning_report,
    model_card_sections,
    plot_frontier,
    plot_learning_curve,
    print_summary,
    settings_of,
)
from ..storage import versions, write_json
from ..trainer import CollapseGuard, Share, WorkflowGRPOTrainer
from .session import (
    close,
    connect,
    executor_name,
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
from .warm_start import warm_start, winner_name, winners_for

SINGLE_CALL = "Custom"
"""The workflow that stands for asking the executor once."""


def run_compose(recipe: Recipe) -> dict[str, Any]:
    """
    Run a recipe with `task: compose` from start to end.

    Args:
        recipe ([`~aflow_trl.recipe.Recipe`]):
            Checked recipe.

    Returns:
        `dict[str, Any]`: The summary, as written to `summary.json`.

    Raises:
        [`AflowError`]: Something the user has to mend; see `errors.py`.
    """
    started = time.monotonic()
    eval_rows, train_rows = load_problems(recipe)
    engine, layers = connect(recipe)
    rollouts = make_rollouts(recipe, engine)
    arguments = prompt_arguments(recipe)
    start = warm_start(recipe, rollouts, train_rows) if recipe.workflow.warm_start_settings is not None else None
    trainer = make_trainer(
        recipe, workflow_rewards(rollouts, recipe.reward_names), build_dataset(train_rows, **arguments)
    )
    prompts = list(build_dataset(eval_rows, **arguments)["prompt"])
    evaluator = Evaluator(trainer, rollouts, eval_rows, prompts, seed=recipe.training.seed)

    say(f"held-out evaluation on {len(eval_rows)} problems")
    untrained = evaluator.policy("untrained")
    fixed = {text: evaluator.workflow(text) for text in _fixed_workflows(recipe)}
    warm, chosen = None, {}
    if start is not None:
        trainer.load_policy(start.model)
        say("held-out evaluation of the policy after the warm start")
        warm = evaluator.policy("warm start")
        chosen = {name: evaluator.run(own, name) for name, own in winners_for(recipe, start, eval_rows).items()}
    if trainer.is_world_process_zero():
        write_json(Path(recipe.training.output_dir) / SETTINGS_FILE, settings_of(recipe))
    trainer.record_rewards = True
    guard = _watch(recipe, trainer, rollouts, train_rows)
    train_to_the_end(recipe, trainer, rollouts, guard)
    say("held-out evaluation of the trained policy")
    try:
        trained = evaluator.policy("trained")
    except FatalEndpointError as error:
        raise RunStoppedError(
            f"{error}. The trained adapter is in {recipe.training.output_dir}; only its evaluation is missing."
        ) from None
    stages = {"untrained": untrained, **({"warm start": warm} if warm is not None else {}), "trained": trained}
    close(engine, trainer)

    summary = summarize(recipe, rollouts, untrained, fixed, trained)
    summary["learning"] = learning_report(stages, fixed | chosen)
    if start is not None and warm is not None:
        summary["warm_start"] = start.facts
        summary["accuracy"]["warm_start"] = accuracy(warm).to_json()
        summary["accuracy"]["best_per_group"] = accuracy(chosen[winner_name(0)]).to_json()
    summary["sandbox"] = asdict(layers) | {"tier": layers.tier.value}
    summary["collapse"] = guard_facts(guard)
    summary["wall_s"] = time.monotonic() - started
    card = model_card_sections(
        summary, describe(list(vocabulary(recipe.workflow.operators))), yaml.safe_dump(recipe.source, sort_keys=False)
    )

    def show(output_dir: Path) -> None:
        plot_learning_curve(trainer.state.log_history, summary, output_dir / "learning_curve.png")
        plot_frontier(summary["learning"], output_dir / "frontier.png", summary["executor"])
        print_summary(summary, Console(width=max(Console().width, 110)))
        say(f"adapter, model card, summary.json, learning_curve.png and the traces are in {output_dir}")

    publish(recipe, trainer, summary, card, show)
    return summary


def _watch(
    recipe: Recipe, trainer: WorkflowGRPOTrainer, rollouts: Rollouts, rows: Sequence[Row]
) -> CollapseGuard | None:
    """Guard the training with a probe of the first training problems, which no held-out figure depends on."""
    own = rows[: probe_size(recipe)]
    prompts = list(build_dataset(own, **prompt_arguments(recipe))["prompt"])
    evaluator = Evaluator(trainer, rollouts, own, prompts, seed=recipe.training.seed)

    def judge(texts: list[str]) -> dict[str, Share]:
        batch = evaluator.run(texts, "probe")
        right = accuracy(batch)
        shares = {"valid": Share(valid_share(batch), len(batch))}
        return shares | ({"accuracy": Share(right.mean, right.n)} if right.n else {})

    return watch(recipe, trainer, prompts, judge)


def summarize(
    recipe: Recipe,
    rollouts: Rollouts,
    untrained: Sequence[ScoredRollout],
    fixed: dict[str, list[ScoredRollout]],
    trained: Sequence[ScoredRollout],
) -> dict[str, Any]:
    """
    Everything `summary.json` says but the wall time.

    The best fixed workflow is chosen on the very problems it is reported on, which favours it over the policy.
    """
    results = {text: accuracy(batch).to_json() for text, batch in fixed.items()}
    best = max(results, key=lambda text: (results[text]["mean"], -results[text]["calls_per_problem"]))
    counts = workflow_counts(trained)
    return {
        "accuracy": {
            "untrained": accuracy(untrained).to_json(),
            "custom": results[SINGLE_CALL],
            "best_fixed": results[best],
            "trained": accuracy(trained).to_json(),
        },
        "best_fixed_workflow": best,
        "fixed": results,
        "valid_share": {"untrained": valid_share(untrained), "trained": valid_share(trained)},
        "top_workflows": {"untrained": workflow_counts(untrained), "trained": counts},
        "domains": sorted(counts),
        "problems_by_domain": {domain: sum(own.values()) for domain, own in counts.items()},
        "executor": executor_name(recipe),
        **totals(rollouts),
        "policy": policy_facts(recipe),
        "seed": recipe.training.seed,
        "versions": versions(),
        "recipe": recipe.source,
    }


def _fixed_workflows(recipe: Recipe) -> list[str]:
    return list(dict.fromkeys([SINGLE_CALL, *(recipe.workflow.baseline_workflows or [])]))
