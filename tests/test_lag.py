"""Rollouts that lag behind: equal to a plainly sequential loop that lags, whatever the executor does meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback

from aflow_trl.cli.main import build_parser
from aflow_trl.cli.recipe_commands import run_estimate
from aflow_trl.errors import FatalEndpointError, RecipeError
from aflow_trl.recipes import StepTime
from aflow_trl.rollouts import TRAIN, read_traces, trace_name
from aflow_trl.runs import plot_timeline, replay
from aflow_trl.trainer import (
    PARTS,
    CollapseGuard,
    Probe,
    Share,
    WorkflowGRPOConfig,
    WorkflowGRPOTrainer,
    mean_seconds,
)
from trainers import PROMPTS, build, parameters, simulated, text_of, train_until_stopped, workflow_trainer

LORA = {"peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=True)}
TIMES = ("step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second", "rollout/lag")
# 16 prompts, two a generation: an epoch is 8 generations.
CASES: dict[str, dict[str, Any]] = {
    "one epoch": {"max_steps": 5},
    "all of an epoch": {"max_steps": 8},
    "two epochs": {"max_steps": 11},
    "fewer steps than the lag": {"max_steps": 1},
    "with an adapter": {"max_steps": 4, **LORA},
    "two iterations": {"num_iterations": 2, "max_steps": 7},
    "four steps to a generation": {"steps_per_generation": 4, "max_steps": 9},
    "accumulation": {"gradient_accumulation_steps": 2, "max_steps": 5},
    "generations shorter than a step": {
        **{"gradient_accumulation_steps": 4, "steps_per_generation": 2, "max_steps": 5},
    },
    "a temperature schedule": {"max_steps": 5, "temperature_initial": 1.4, "temperature_warmup_steps": 5},
    "a reference model": {"max_steps": 4, "beta": 0.1},
    "dropout of truncated completions": {"max_steps": 4, "stop_strings": ["e"], "mask_truncated_completions": True},
}
# Checkpoints between generations, inside of one, at the end of an epoch, and one after which nothing is in flight.
RESUMED = [
    *((2, "one epoch"), (4, "one epoch"), (8, "two epochs"), (9, "two epochs"), (2, "with an adapter")),
    *((3, "two iterations"), (5, "four steps to a generation"), (2, "accumulation")),
    *((2, "generations shorter than a step"), (3, "a temperature schedule"), (2, "a reference model")),
    (2, "dropout of truncated completions"),
]
PROBE = [[{"role": "user", "content": text}] for text in PROMPTS[:4]]


class Evaluations(TrainerCallback):
    """What evaluations logged of the rewards."""

    def __init__(self, trainer: Any, rewards: list[Any]) -> None:
        self.trainer, self.rewards = trainer, rewards

    def on_evaluate(self, *args: Any, metrics: dict[str, Any], **kwargs: Any) -> None:
        self.rewards.append(self.trainer.state.log_history[-1].get("eval_reward"))


def reward(delays: random.Random | None, calls: list[int] | None = None) -> Any:
    """An async reward that depends on the completion and the step, and takes its time."""

    async def letters(completions: list[Any], trainer_state: Any, log_extra: Any, log_metric: Any, **_: Any) -> Any:
        step = trainer_state.global_step
        if calls is not None:
            calls.append(step)
        if delays is not None:
            await asyncio.sleep(delays.random() / 20)
        values = [float((text_of(item).count("e") + step) % 3) / 2 for item in completions]
        log_extra("letters", values)
        log_metric("letters/mean", sum(values) / len(values))
        return [None if value == 0.5 and step == 2 else value for value in values]

    return letters


def length(completions: list[Any], trainer_state: Any, **_: Any) -> list[float]:
    """A reward that is not asynchronous."""
    return [trainer_state.global_step / (1 + len(text_of(item))) for item in completions]


class Reference(WorkflowGRPOTrainer):
    """Plainly sequential: before a batch is trained on, the one `behind` batches later is generated and rewarded."""

    behind = 0

    def plan(self) -> None:
        """All generation batches, with the optimiser step that trains on each first."""
        every, accumulation = (
            self.args.steps_per_generation * self.num_iterations,
            self.args.gradient_accumulation_steps,
        )
        self.planned: list[tuple[int, int, Any]] = []
        step = 0
        for epoch in range(5):
            loader = self.get_train_dataloader()
            loader.set_epoch(epoch)
            with torch.random.fork_rng():
                rows = list(loader)
            self.planned += [
                (epoch, step + index // accumulation, rows[index]) for index in range(0, len(rows), every)
            ]
            step += -(-len(rows) // accumulation)
        self.done: dict[int, tuple[Any, Any, Any]] = {}
        self.number = -1

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)
        self.number += 1
        epoch = self.planned[self.number][0]
        now, shown, logged, cut = self.state.global_step, self._metrics["train"], self._logs, self._truncated
        for number in range(self.number, self.number + self.behind + 1):
            its_epoch, step, rows = self.planned[number]
            if number in self.done or its_epoch != epoch or (number > self.number and step >= self.state.max_steps):
                continue
            self.state.global_step, self._metrics["train"] = step, defaultdict(list)
            self._logs = {name: type(table)() for name, table in logged.items()}
            self._logs["rewards"], self._logs["extra"] = defaultdict(list), defaultdict(list)
            # Makes TRL keep the log-probabilities of the policy that generates.
            iterations, self.num_iterations = self.num_iterations, 1000
            output = super()._generate_and_score_completions(rows)
            self.num_iterations = iterations
            self.done[number] = (output, self._metrics["train"], self.temperature)
        self.state.global_step, self._metrics["train"], self._logs, self._truncated = now, shown, logged, cut
        output, metrics, temperature = self.done.pop(self.number)
        for name, values in metrics.items():
            # TRL keeps the latest number of tokens only.
            shown[name] = values if name == "num_tokens" else shown[name] + values
        if self.args.temperature_initial is not None:
            self.set_temperature(temperature)
        return output


def trainer(kind: type, lag: int, model: Path, folder: Path, delays: Any = None, **overrides: Any) -> Any:
    calls: list[int] = []
    options = {"reward_funcs": [reward(delays, calls), length], "rollout_lag": lag, **overrides}
    # trl 1.14 makes an adapter before it seeds.
    torch.manual_seed(0)
    built = build(kind, WorkflowGRPOConfig, model, folder, **options)
    built.calls = calls
    return built


def figures(own: Any) -> list[dict[str, Any]]:
    """What was logged at each step, but for durations and what only a lagged trainer measures."""
    kept = [
        {key: value for key, value in row.items() if key not in TIMES and not key.startswith(("rollout/", "time/"))}
        for row in own.state.log_history[:-1]
    ]
    assert kept
    return kept


@pytest.mark.parametrize("lag", [1, 2, 4])
@pytest.mark.parametrize("name", CASES)
def test_a_lagged_run_is_bit_equal_to_a_sequential_one_that_lags(
    name: str, lag: int, tiny_model: Path, tmp_path: Path
) -> None:
    options = CASES[name]
    lagged = trainer(WorkflowGRPOTrainer, lag, tiny_model, tmp_path / "a", random.Random(0), **options)
    lagged.train()
    reference = trainer(Reference, 0, tiny_model, tmp_path / "b", **options)
    reference.behind = lag
    reference.plan()
    reference.train()
    assert torch.equal(parameters(lagged), parameters(reference))
    assert figures(lagged) == figures(reference)
    assert sorted(lagged.calls) == sorted(reference.calls) and lagged.in_flight == {}


def test_the_reference_without_a_lag_is_the_ordinary_trainer(tiny_model: Path, tmp_path: Path) -> None:
    """The negative control of the reference, and of lag 0."""
    plain = trainer(WorkflowGRPOTrainer, 0, tiny_model, tmp_path / "a", max_steps=5)
    plain.train()
    reference = trainer(Reference, 0, tiny_model, tmp_path / "b", max_steps=5)
    reference.plan()
    reference.train()
    assert torch.allclose(parameters(plain), parameters(reference), atol=1e-6)
    lagged = trainer(WorkflowGRPOTrainer, 1, tiny_model, tmp_path / "c", max_steps=5)
    lagged.train()
    assert not torch.allclose(parameters(plain), parameters(lagged), atol=1e-4)


@pytest.mark.parametrize(("at", "name"), RESUMED)
def test_a_lagged_run_resumes_bit_equal_with_its_batches_in_flight(
    at: int, name: str, tiny_model: Path, tmp_path: Path
) -> None:
    options, lag = CASES[name], 2
    saving = {"save_strategy": "steps", "save_steps": at}
    whole = trainer(WorkflowGRPOTrainer, lag, tiny_model, tmp_path, random.Random(0), **saving, **options)
    whole.train()
    again = trainer(WorkflowGRPOTrainer, lag, tiny_model, tmp_path, random.Random(1), **options)
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
    assert torch.equal(parameters(again), parameters(whole))
    lags = [[row["rollout/lag"] for row in own.state.log_history if "rollout/lag" in row] for own in (again, whole)]
    assert figures(again) == figures(whole) and lags[0] == lags[1]


def test_a_run_may_resume_without_its_lag(tiny_model: Path, tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 3}
    trainer(WorkflowGRPOTrainer, 2, tiny_model, tmp_path, max_steps=6, **saving).train()
    again = trainer(WorkflowGRPOTrainer, 0, tiny_model, tmp_path, max_steps=6)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    # What was paid for is used up first.
    lags = [row.get("rollout/lag") for row in again.state.log_history if "loss" in row]
    assert lags == [0, 1, 2, 2, 2, None]


def test_what_the_rollouts_lag_by_is_logged(tiny_model: Path, tmp_path: Path) -> None:
    lagged = trainer(WorkflowGRPOTrainer, 2, tiny_model, tmp_path, max_steps=11)
    lagged.train()
    lags = [row["rollout/lag"] for row in lagged.state.log_history if "loss" in row]
    # The second epoch begins with step 8: nothing was read ahead of it.
    assert lags == [0, 1, 2, 2, 2, 2, 2, 2, 0, 1, 2]


def test_an_evaluation_does_not_see_the_batches_in_flight(tiny_model: Path, tmp_path: Path) -> None:
    options = {"max_steps": 5, "per_device_eval_batch_size": 2, "num_generations_eval": 1}
    plain = trainer(WorkflowGRPOTrainer, 2, tiny_model, tmp_path / "a", random.Random(0), **options)
    plain.train()
    evaluated = trainer(
        *(WorkflowGRPOTrainer, 2, tiny_model, tmp_path / "b", random.Random(1)),
        **{**options, "eval_strategy": "steps", "eval_steps": 1},
    )
    rewards = []
    evaluated.add_callback(Evaluations(evaluated, rewards))
    evaluated.train()
    assert len(rewards) == 5 and all(reward is not None for reward in rewards)
    training = [[row["letters/mean"] for row in own.state.log_history if "loss" in row] for own in (plain, evaluated)]
    # Evaluations draw random numbers, so that what follows the first differs, as it does without a lag.
    assert training[0][0] == training[1][0]


class Failing:
    """An executor that fails for good at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    async def __call__(self, completions: list[Any], trainer_state: Any, **_: Any) -> list[float]:
        if trainer_state.global_step == self.step:
            raise RuntimeError("the executor is gone")
        return [float(len(text_of(item)) % 2) for item in completions]


def test_an_error_of_a_reward_function_is_raised_where_its_batch_is_due(tiny_model: Path, tmp_path: Path) -> None:
    failing = Failing(3)
    failing.__name__ = "failing"
    lagged = trainer(WorkflowGRPOTrainer, 2, tiny_model, tmp_path, reward_funcs=[failing], max_steps=6)
    with pytest.raises(RuntimeError, match="the executor is gone"):
        lagged.train()
    assert lagged.state.global_step == 3 and lagged.in_flight == {}


REFUSED: dict[str, dict[str, Any]] = {
    "no reward function is asynchronous": {"reward_funcs": [length]},
    "rollout_lag must be one of 0, 1, 2, 4, got 3": {"rollout_lag": 3},
    "rollout_func is given": {"rollout_func": lambda prompts, trainer: {}},
}


@pytest.mark.filterwarnings("ignore:You are using 'rollout_func'")
@pytest.mark.parametrize("reason", REFUSED)
def test_a_lag_that_would_be_wrong_is_refused(reason: str, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason):
        trainer(WorkflowGRPOTrainer, 1, tiny_model, tmp_path, **REFUSED[reason])


def test_a_policy_far_from_the_one_that_wrote_its_batch_is_warned_of(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(WorkflowGRPOTrainer, 4, tiny_model, tmp_path, max_steps=6, learning_rate=0.3, warmup_steps=0).train()
    assert "Lower rollout_lag or learning_rate" in caplog.text


@pytest.mark.parametrize("lag", [1, 4])
def test_a_rollback_throws_the_batches_in_flight_away(lag: int, tiny_model: Path, tmp_path: Path) -> None:
    """What the collapsed policy wrote is never trained on, and its execution is not waited for."""
    cancelled: list[int] = []

    async def slow(completions: list[Any], trainer_state: Any, **_: Any) -> list[float]:
        try:
            # What was generated before the collapse is never done.
            await asyncio.sleep(0 if trainer_state.global_step < 3 or slow.calm else 60)  # type: ignore[attr-defined]
        except asyncio.CancelledError:
            cancelled.append(trainer_state.global_step)
            raise
        return [float(len(text_of(item)) % 2) for item in completions]

    slow.calm = False  # type: ignore[attr-defined]
    lagged = trainer(
        *(WorkflowGRPOTrainer, lag, tiny_model, tmp_path), reward_funcs=[slow], nonfinite="skip", max_steps=7
    )

    def probe() -> Probe:
        step = lagged.state.global_step
        slow.calm = step >= 3  # type: ignore[attr-defined]
        valid = Share(0.1 if step == 3 and not guard.rollbacks else 0.9, 50)
        return Probe(PROBE, lagged.sample(PROBE, seed=0), {"valid": valid})

    guard = CollapseGuard(lagged, probe, "rollback", probe_steps=1)
    lagged.add_callback(guard)
    lagged.train()
    assert guard.rollbacks == 1 and lagged.state.global_step == 7
    assert sorted(cancelled) == list(range(3, min(3 + lag, 7)))
    lags = [row["rollout/lag"] for row in lagged.state.log_history if "loss" in row]
    assert lags[3] == 0


# -- with an executor ------------------------------------------------------------------------------------------------


def executed(lag: int, model: Path, folder: Path, delays: random.Random | None = None, **overrides: Any) -> Any:
    """A trained run on the simulated executor, whose replies may arrive in any order."""
    client = simulated()
    if delays is not None:
        complete = client.complete

        async def late(*args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(delays.random() / 50)
            return await complete(*args, **kwargs)

        client.complete = late  # type: ignore[method-assign]
    built = workflow_trainer(client, model, folder, rollout_lag=lag, **{"max_steps": 5, **overrides})
    built.train()
    return built


def test_traces_rewards_and_accounts_of_a_lagged_run_belong_to_the_steps_that_train_on_them(
    tiny_model: Path, tmp_path: Path
) -> None:
    lagged = executed(2, tiny_model, tmp_path, random.Random(0))
    steps = list(replay(tmp_path))
    assert [step.step for step in steps] == list(range(5))
    for step in steps:
        assert torch.equal(step.old_rewards, step.new_rewards) and torch.equal(
            step.old_advantages, step.new_advantages
        )
    recorded = list(read_traces(tmp_path / trace_name(0)))
    assert sorted({(item.step, item.batch) for item in recorded if item.phase == TRAIN}) == [(n, n) for n in range(5)]
    rollouts = lagged._binding.rollouts
    assert rollouts.totals["model_calls"] == sum(item.rollout.trace.paid_calls for item in recorded)


def test_the_order_of_replies_changes_no_number(tiny_model: Path, tmp_path: Path) -> None:
    plain, late = (
        executed(2, tiny_model, tmp_path / name, delays) for name, delays in (("a", None), ("b", random.Random(1)))
    )
    assert torch.equal(parameters(plain), parameters(late))
    own = [
        [{key: row[key] for key in row if key.startswith(("accuracy", "rewards", "executor/calls"))} for row in rows]
        for rows in (plain.state.log_history, late.state.log_history)
    ]
    assert own[0] == own[1]


def test_a_lost_executor_ends_a_lagged_run_with_a_checkpoint(tiny_model: Path, tmp_path: Path) -> None:
    client = simulated()
    complete, calls = client.complete, 0

    async def lost(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 30:
            raise FatalEndpointError("the key was revoked")
        return await complete(*args, **kwargs)

    client.complete = lost  # type: ignore[method-assign]
    lagged = workflow_trainer(
        *(client, tiny_model, tmp_path), rollout_lag=2, max_steps=12, save_strategy="steps", save_steps=50
    )
    assert "the key was revoked" in train_until_stopped(lagged)
    assert (tmp_path / f"checkpoint-{lagged.state.global_step}").is_dir() and lagged.in_flight == {}


def test_the_profile_of_a_step_adds_up(tiny_model: Path, tmp_path: Path) -> None:
    lagged = executed(1, tiny_model, tmp_path, random.Random(0))
    for row in lagged.state.log_history[:-1]:
        parts = sum(row[f"time/{name}"] for name in PARTS)
        assert 0.5 * row["time/step"] - 0.1 < parts <= row["time/step"] + 1e-6
        assert row["time/execution"] >= row["execution/critical_path_s"]
    seconds = mean_seconds(lagged.state.log_history)
    assert seconds.keys() == {*PARTS, "step", "execution", "critical_path", "bound", "scoring"}
    path = tmp_path / "timeline.png"
    plot_timeline(list(lagged.timeline.spans), path)
    assert path.stat().st_size > 10_000


STEPS = {
    "a cheap executor": (StepTime(0.1, 3.0), 0),
    "as long as the trainer": (StepTime(3.0, 3.0), 1),
    "twice as long": (StepTime(6.0, 3.0), 2),
    "much longer": (StepTime(60.0, 3.0), 4),
}


@pytest.mark.parametrize(("step", "lag"), STEPS.values(), ids=STEPS)
def test_the_lag_that_pays(step: StepTime, lag: int) -> None:
    assert step.best_lag == lag
    assert all(step.at(lag) <= step.at(other) * 1.05 for other in (0, 1, 2, 4)) or lag == 0


FLAGS = {
    "--profile is used with --latency": ["--profile", "runs/quickstart"],
    "--latency must be positive, got 0": ["--latency", "0"],
    "holds no profile of a run": ["--latency", "1", "--profile", "no-such-run"],
}


@pytest.mark.parametrize("reason", FLAGS)
def test_an_estimate_of_time_that_cannot_be_made_is_refused(reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        run_estimate(build_parser().parse_args(["estimate", "quickstart.yaml", *FLAGS[reason]]))
