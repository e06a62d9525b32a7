"""A target for the mean cost: the price that holds it, what is charged, and the trainer with it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from aflow_trl import run
from aflow_trl.data import PolicyPrompt, Row, with_budgets
from aflow_trl.errors import DataError, RecipeError
from aflow_trl.llm import ExecutorConfig
from aflow_trl.policies import choose_budget
from aflow_trl.recipes import load_recipe
from aflow_trl.rollouts import RolloutRow
from aflow_trl.runs import replay
from aflow_trl.simulator import simulated_client
from aflow_trl.tasks.session import load_problems
from aflow_trl.trainer import WorkflowGRPOConfig, WorkflowGRPOTrainer, wa_grpo
from aflow_trl.trainer.cost_dial import MAX_PRICE, CostDial
from aflow_trl.trainer.reward_roles import charges_of, rollout_costs
from trainers import build, options, parameters, workflow_trainer


def rollout(**changes: Any) -> RolloutRow:
    fields = {"workflow": "Custom", "outcome": "ok", "invalid_label": "", "answer": "", "score": 1.0, "model_calls": 1}
    fields |= {"usd": 0.1, "progress": 0.0, "executed": 1.0, "revise_gain": 0.0, "domain": "math", "repaired": False}
    return RolloutRow(**fields | {"operators": []} | changes)


# -- the price -------------------------------------------------------------------------------------------------------


def test_the_price_rises_above_the_target_and_falls_below_it() -> None:
    dial, prices = CostDial("model_calls", {"": 2.0}), []
    for cost in [4.0] * 250 + [1.0] * 450:
        dial.update(torch.full((8,), cost), [""] * 8)
        prices.append(dial.prices[""])
    assert prices[0] > 0 and prices[249] == MAX_PRICE == max(prices) and prices[-1] == 0 == min(prices)


def test_an_unscored_completion_moves_no_price() -> None:
    dial, other = CostDial("model_calls", {"": 2.0}), CostDial("model_calls", {"": 2.0})
    dial.update(torch.tensor([3.0, math.nan]), ["", ""])
    other.update(torch.tensor([3.0]), [""])
    assert dial.state_dict() == other.state_dict()
    assert dial.update(torch.tensor([math.nan]), [""]) == {}


@pytest.mark.parametrize("target", [3.0, 6.0])
def test_a_policy_is_held_at_its_target(target: float) -> None:
    """Four workflows that get better and dearer, and policy gradient on their advantages."""
    accuracy, cost = torch.tensor([0.5, 0.7, 0.8, 0.82]), torch.tensor([1.0, 3.0, 6.0, 10.0])
    generator, logits, dial, means = (
        torch.Generator().manual_seed(0),
        torch.zeros(4),
        CostDial("model_calls", {"": target}),
        [],
    )
    for _ in range(200):
        policy = torch.softmax(logits, 0)
        drawn = torch.multinomial(policy, 64, replacement=True, generator=generator)
        right = (torch.rand(64, generator=generator) < accuracy[drawn]).float()
        costs = cost[drawn]
        advantages = wa_grpo(right, -costs / 20, 8, charges=costs * dial.prices[""] / target)
        dial.update(costs, [""] * 64)
        logits = logits + (advantages.unsqueeze(1) * (torch.nn.functional.one_hot(drawn, 4) - policy)).mean(dim=0)
        means.append(float(policy @ cost))
    assert sum(means[-50:]) / 50 == pytest.approx(target, rel=0.05)


# -- what is charged -------------------------------------------------------------------------------------------------


def test_completions_are_charged_for_what_they_use() -> None:
    rows = [rollout(model_calls=calls, usd=calls / 10) for calls in (1, 2, 4, 3)]
    assert charges_of(rows, "model_calls", {"": 2.0}, {"": 1.0}, 2).tolist() == [0.5, 1.0, 2.0, 1.5]
    assert charges_of(rows, "usd", {"": 0.1}, {"": 1.0}, 2).tolist() == pytest.approx([1.0, 2.0, 4.0, 3.0])


def test_an_invalid_workflow_is_charged_the_most_of_its_group() -> None:
    rows = [rollout(model_calls=3), rollout(outcome="invalid", model_calls=0), rollout(model_calls=1), rollout()]
    assert charges_of(rows, "model_calls", {"": 1.0}, {"": 1.0}, 2).tolist() == [3.0, 3.0, 1.0, 1.0]


def test_usd_without_a_price_are_refused() -> None:
    with pytest.raises(ValueError, match="target_calls_per_problem"):
        rollout_costs([rollout(usd=None)], "usd")


# -- budgets ----------------------------------------------------------------------------------------------------------


def test_each_budget_has_a_price_of_its_own() -> None:
    dial = CostDial("model_calls", {"low": 1.0, "high": 4.0})
    metrics = dial.update(torch.tensor([2.0, 2.0, 4.0, 2.0]), ["low", "high", "low", "high"])
    assert metrics["cost/mean/low"] == 3.0 and metrics["cost/mean/high"] == 2.0
    assert dial.prices["low"] > 0 == dial.prices["high"]


def test_a_completion_is_charged_at_the_price_of_its_budget() -> None:
    rows = [rollout(model_calls=2, budget=budget) for budget in ("low", "low", "high", "high")]
    charges = charges_of(rows, "model_calls", {"low": 1.0, "high": 4.0}, {"low": 0.1, "high": 0.2}, 2)
    assert charges.tolist() == pytest.approx([0.2, 0.2, 0.1, 0.1])


def test_a_problem_whose_budget_has_no_target_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'huge'.*low, high"):
        charges_of([rollout(budget="huge")] * 2, "model_calls", {"low": 1.0, "high": 2.0}, {"low": 0, "high": 0}, 2)


def test_problems_get_budgets_at_random_and_keep_their_own() -> None:
    rows = [Row(str(number), ("1",), "math", budget="low" if number == 7 else "") for number in range(300)]
    budgets = [row.budget for row in with_budgets(rows, ["low", "high"], seed=0)]
    assert budgets[7] == "low" and 100 < budgets.count("high") < 200
    # Suites go round their domains: a budget by position would belong to one domain.
    assert budgets != [row.budget for row in with_budgets(rows, ["low", "high"], seed=1)]
    with pytest.raises(DataError, match=r"'huge'.*high, low"):
        with_budgets([Row("1", ("1",), "math", budget="huge")], ["low", "high"], seed=0)


def test_the_prompt_ends_with_the_budget() -> None:
    row = Row("How many?", ("1",), "math", budget="low")
    assert PolicyPrompt("compact").messages(row)[-1]["content"].endswith("How many?\nBudget: low")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"low": 1.0, "high": -1.0}, "budget 'high' must be positive"),
        ({}, "holds no budget"),
        ({"not one word": 1.0}, "Use a word"),
        ("cheap", "JSON"),
    ],
)
def test_targets_of_budgets_are_checked(value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        WorkflowGRPOConfig(**options(tmp_path, target_calls_per_problem=value))


def test_targets_on_a_command_line_are_json(tmp_path: Path) -> None:
    config = WorkflowGRPOConfig(**options(tmp_path, target_calls_per_problem='{"high": 6, "low": 1.5}'))
    assert config.cost_targets == ("model_calls", {"high": 6.0, "low": 1.5}) and config.budgets == ["low", "high"]


def test_a_policy_is_asked_for_a_budget_that_it_was_trained_for() -> None:
    assert choose_budget(None, ["low", "high"]) == "high" and choose_budget(None, []) == ""
    assert choose_budget("low", ["low", "high"]) == "low"
    with pytest.raises(RecipeError, match=r"'huge'.*low, high"):
        choose_budget("huge", ["low", "high"])


def test_a_budget_without_a_policy_is_refused() -> None:
    with pytest.raises(RecipeError, match="no policy to ask for it"):
        run("What is 6 * 7?", executor=ExecutorConfig(executor_base_url="simulated"), budget="low")


# -- the trainer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_calls_per_problem": 3.0, "target_usd_per_problem": 0.1}, "both given"),
        ({"target_calls_per_problem": 0.0}, "must be positive"),
        ({"target_usd_per_problem": 0.1, "advantage_estimator": "dr_grpo"}, "which TRL computes"),
    ],
)
def test_a_target_that_cannot_be_held_is_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        WorkflowGRPOConfig(**options(tmp_path, **settings))


def test_a_target_is_refused_where_no_workflows_are_composed() -> None:
    with pytest.raises(RecipeError, match="target_calls_per_problem holds the cost of composed workflows"):
        load_recipe(["improve-quickstart.yaml", "--target_calls_per_problem", "3"])


def test_a_recipe_tells_the_policy_its_budgets() -> None:
    recipe = load_recipe(["quickstart.yaml", "--target_calls_per_problem", '{"high": 6, "low": 1.5}'])
    assert recipe.policy_spec.budgets == ("low", "high")
    eval_rows, train_rows = load_problems(recipe)
    assert {row.budget for row in train_rows} == {"low", "high"} and {row.budget for row in eval_rows} == {""}


def test_a_target_needs_rollouts(tiny_model: Path, tmp_path: Path) -> None:
    trainer = build(WorkflowGRPOTrainer, WorkflowGRPOConfig, tiny_model, tmp_path, target_calls_per_problem=2.0)
    with pytest.raises(ValueError, match="workflow_rewards"):
        trainer.train()


def test_cost_and_price_are_logged_and_a_replay_charges_the_same(tiny_model: Path, tmp_path: Path) -> None:
    trainer = workflow_trainer(simulated_client(), tiny_model, tmp_path, target_calls_per_problem=0.5)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "cost/mean" in entry]
    assert [entry["cost/mean"] for entry in logs] == [1.0] * 3
    prices = [entry["cost/price"] for entry in logs]
    assert prices[0] == 0.0 < prices[1] < prices[2]
    steps = list(replay(tmp_path))
    assert len(steps) == 3 and all(torch.equal(step.old_advantages, step.new_advantages) for step in steps)


def test_a_policy_trains_at_several_budgets_and_a_replay_charges_the_same(tiny_model: Path, tmp_path: Path) -> None:
    targets = {"low": 0.5, "high": 2.0}
    trainer = workflow_trainer(simulated_client(), tiny_model, tmp_path, target_calls_per_problem=targets, max_steps=4)
    words = ["low", "high"]
    trainer.train_dataset = trainer.train_dataset.map(lambda _, index: {"budget": words[index % 2]}, with_indices=True)
    trainer.train()
    prices = {name: value for log in trainer.state.log_history for name, value in log.items() if "cost/price" in name}
    assert prices["cost/price/low"] > 0 == prices["cost/price/high"], "one call is more than 0.5, and less than 2"
    steps = list(replay(tmp_path))
    assert steps and all(torch.equal(step.old_advantages, step.new_advantages) for step in steps)


def test_a_resumed_run_goes_on_at_its_price(tiny_model: Path, tmp_path: Path) -> None:
    settings = {"target_calls_per_problem": 0.8, "max_steps": 4}
    whole = workflow_trainer(simulated_client(), tiny_model, tmp_path, save_strategy="steps", save_steps=2, **settings)
    whole.train()
    again = workflow_trainer(simulated_client(), tiny_model, tmp_path, **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert again.cost_dial.state_dict() == whole.cost_dial.state_dict()
    assert torch.equal(parameters(again), parameters(whole))


def test_usd_of_an_executor_without_a_price_stop_the_first_step(tiny_model: Path, tmp_path: Path) -> None:
    client = simulated_client(ExecutorConfig(executor_base_url="simulated", executor_model="no-price"))
    trainer = workflow_trainer(client, tiny_model, tmp_path, target_usd_per_problem=0.1)
    with pytest.raises(ValueError, match="executor_input_usd_per_mtok"):
        trainer.train()
