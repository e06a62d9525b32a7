"""`task: compose`: evaluate the untrained policy, warm start, train, evaluate, report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..console import report_console
from ..data import build_dataset, with_budgets
from ..errors import FatalEndpointError, RunStoppedError
from ..evaluation import HeldOutEvaluator
from ..recipes import ADDRESS, Recipe
from ..rewards import workflow_rewards
from ..rollouts import Rollouts, ScoredRollout, accuracy, valid_share, workflow_counts
from ..runs import (
    compose_card,
    learning_report,
    plot_frontier,
    plot_learning_curve,
    print_summary,
)
from .preflight import check_trainer
from .prompt_length import leave_out_what_does_not_fit
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
from .warm_start import at_budget, warm_start, winner_name, winners_for

SINGLE_CALL = "Custom"
"""The workflow that asks the executor once."""


def run_compose(recipe: Recipe) -> dict[str, Any]:
    """
    Run a recipe with `task: compose` from start to end.

    Args:
        recipe ([`~aflow_trl.recipes.Recipe`]):
            Checked recipe.

    Returns:
        `dict[str, Any]`: The summary, as written to `summary.json`.

    Raises:
        [`AflowError`]: A user error, or a run that had to be stopped; see `errors.py`.
    """
    started = time.monotonic()
    eval_rows, train_rows = load_problems(recipe)
    earlier = earlier_rollouts(recipe)
    engine, layers = build_engine(recipe, earlier)
    if recipe.compose.warm_start_settings is not None:
        check_trainer(recipe)
    begin_record(recipe)
    train_rows, eval_rows, left_out = leave_out_what_does_not_fit(recipe, train_rows, eval_rows)
    rollouts = build_rollouts(recipe, engine, earlier)
    found = warm_start(recipe, rollouts, train_rows) if recipe.compose.warm_start_settings is not None else None
    rewards = workflow_rewards(rollouts, recipe.reward_names)
    training, budgets = recipe.training, recipe.training.budgets
    with_budget = with_budgets(eval_rows, budgets, seed=training.seed) if budgets else eval_rows
    train_data, eval_data = (build_dataset(rows, recipe.prompt) for rows in (train_rows, with_budget))
    trainer = build_trainer(recipe, rewards, train_data, eval_data)
    evaluators = {
        budget: HeldOutEvaluator(
            trainer,
            rollouts,
            eval_rows,
            [recipe.prompt.messages(replace(row, budget=budget)) for row in eval_rows],
            seed=training.seed,
        )
        for budget in budgets or [""]
    }
    # The largest budget: what a policy is asked for where nobody names one.
    evaluator = list(evaluators.values())[-1]

    def evaluate(stage: str) -> dict[str, list[ScoredRollout]]:
        """Rollouts of the policy with the largest budget, and with each of the others."""
        others = {at_budget(stage, budget): evaluators[budget] for budget in budgets[:-1]}
        return {stage: evaluator.policy(stage)} | {name: item.policy(name) for name, item in others.items()}

    enter_phase(f"held-out evaluation on {len(eval_rows)} problems")
    stages = {"untrained": evaluator.policy("untrained")}
    fixed = {text: evaluator.workflow(text) for text in _fixed_workflows(recipe)}
    chosen: dict[str, list[ScoredRollout]] = {}
    if found is not None:
        trainer.load_policy(found.policy)
        enter_phase("held-out evaluation of the policy after the warm start")
        stages |= evaluate("warm start")
        share = trainer.local_share(eval_rows)
        chosen = {name: evaluator.run(texts, name) for name, texts in winners_for(found, share, training).items()}
    train(recipe, trainer)
    enter_phase("held-out evaluation of the trained policy")
    try:
        stages |= evaluate("trained")
    except FatalEndpointError as error:
        raise RunStoppedError(
            f"{error}. The trained adapter is in {recipe.training.output_dir}; only its evaluation is missing."
        ) from None
    close_executors(engine, trainer)

    summary = summarize(recipe, rollouts, stages, fixed) | run_metadata(recipe, trainer)
    summary["left_out"] = left_out
    summary["learning"] = learning_report(stages, fixed | chosen)
    if budgets:
        names = {budget: at_budget("trained", budget) for budget in budgets[:-1]} | {budgets[-1]: "trained"}
        summary["budgets"] = {budget: accuracy(stages[name]).to_json() for budget, name in names.items()}
    if found is not None:
        summary["warm_start"] = found.metadata
        summary["valid_share"]["warm_start"] = valid_share(stages["warm start"])
        summary["accuracy"]["warm_start"] = accuracy(stages["warm start"]).to_json()
        first_winners = chosen[at_budget(winner_name(0), list(evaluators)[-1])]
        summary["accuracy"]["best_per_group"] = accuracy(first_winners).to_json()
    summary["sandbox"] = asdict(layers) | {"tier": layers.tier.value}
    summary["wall_s"] = time.monotonic() - started
    card = compose_card(
        summary,
        policy=policy_name(recipe, trainer),
        system_prompt=recipe.prompt.system,
        operators=recipe.operators.descriptions,
        executor={name: recipe.public_executor[name] for name in ADDRESS if recipe.public_executor[name]},
        data=recipe.run.eval_data,
    )

    def plot(output_dir: Path) -> None:
        plot_learning_curve(trainer.state.log_history, summary, output_dir / "learning_curve.png")
        plot_frontier(summary["learning"], output_dir / "frontier.png", summary["executor"])

    def show() -> None:
        print_summary(summary, report_console())
        print_rank0(f"adapter, model card, summary.json, learning_curve.png and the traces are in {recipe.output_dir}")

    publish(recipe, trainer, summary, card, plot, show)
    return summary


def summarize(
    recipe: Recipe,
    rollouts: Rollouts,
    stages: Mapping[str, Sequence[ScoredRollout]],
    fixed: Mapping[str, Sequence[ScoredRollout]],
) -> dict[str, Any]:
    """
    Results of a run.

    The best fixed workflow is chosen on the problems that it is reported on, which favours it over the policy.
    """
    untrained, trained = stages["untrained"], stages["trained"]
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
        "problems_by_domain": {domain: sum(in_domain.values()) for domain, in_domain in counts.items()},
        "executor": recipe.executor_name,
        **totals(rollouts),
    }


def _fixed_workflows(recipe: Recipe) -> list[str]:
    return list(dict.fromkeys([SINGLE_CALL, *(recipe.compose.baseline_workflows or [])]))
