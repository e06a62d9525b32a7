"""The trainer: TRL's own where it says so, the right advantages where it does not, and generation as it must be."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from aflow_trl.data import build_dataset, load_rows
from aflow_trl.engine import Engine
from aflow_trl.errors import FatalEndpointError, UnavailableError
from aflow_trl.llm import LLMClient
from aflow_trl.rewards import DEFAULT_WEIGHTS, workflow_rewards
from aflow_trl.rollouts import EVAL, TRAIN, Rollouts, read_traces, trace_name
from aflow_trl.runs import replay
from aflow_trl.simulator import simulated_client
from aflow_trl.trainer import CardContent, WorkflowGRPOConfig, WorkflowGRPOTrainer
from aflow_trl.trainer.advantages import wa_grpo
from aflow_trl.trainer.callbacks import unchecked_because
from trainers import (
    build,
    dataset,
    options,
    parameters,
    primary_reward,
    simulated,
    train_until_stopped,
    workflow_trainer,
)


@pytest.mark.parametrize(
    ("estimator", "trl_options"),
    [
        ("grpo", {"scale_rewards": "group"}),
        ("dr_grpo", {"scale_rewards": "none", "loss_type": "dr_grpo"}),
        ("batch", {"scale_rewards": "batch"}),
    ],
)
def test_trl_estimators_are_trls_own_bit_for_bit(
    estimator: str, trl_options: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    # 16 prompts, two a step: 10 steps go into a second epoch.
    theirs = build(GRPOTrainer, GRPOConfig, tiny_model, tmp_path / "a", max_steps=10, **trl_options)
    theirs.train()
    ours = build(
        WorkflowGRPOTrainer,
        WorkflowGRPOConfig,
        tiny_model,
        tmp_path / "b",
        advantage_estimator=estimator,
        max_steps=10,
    )
    before = parameters(ours)
    ours.train()
    assert torch.equal(parameters(ours), parameters(theirs))
    assert not torch.equal(parameters(ours), before)


def test_wa_grpo_with_alpha_zero_and_one_reward_is_batch_scaled_grpo(tiny_model: Path, tmp_path: Path) -> None:
    theirs = build(
        GRPOTrainer, GRPOConfig, tiny_model, tmp_path / "a", scale_rewards="none", reward_funcs=primary_reward
    )
    theirs.train()
    ours = build(
        WorkflowGRPOTrainer,
        WorkflowGRPOConfig,
        tiny_model,
        tmp_path / "b",
        advantage_scale="none",
        tie_break_alpha=0.0,
        stop_strings=[],
        reward_funcs=primary_reward,
    )
    ours.train()
    assert torch.equal(parameters(ours), parameters(theirs))


def test_loss_and_log_hold_the_same_advantages(tiny_model: Path, tmp_path: Path) -> None:
    trainer = build(WorkflowGRPOTrainer, WorkflowGRPOConfig, tiny_model, tmp_path, max_steps=1)
    seen: list[torch.Tensor] = []
    original = trainer._generate_and_score_completions

    def spy(inputs: Any) -> Any:
        output = original(inputs)
        seen.append(output["advantages"].clone())
        return output

    trainer._generate_and_score_completions = spy
    trainer.train()
    assert list(trainer._logs["advantages"]) == pytest.approx(seen[0].tolist())
    rewards = trainer._logs["rewards"]
    primary = torch.tensor(list(rewards["primary_reward"]))
    expected = wa_grpo(primary, torch.tensor(list(rewards["secondary_reward"])), 4)
    torch.testing.assert_close(seen[0], expected)


def test_primary_reward_may_be_named(tiny_model: Path, tmp_path: Path) -> None:
    trainer = build(
        WorkflowGRPOTrainer,
        WorkflowGRPOConfig,
        tiny_model,
        tmp_path,
        primary_reward="secondary_reward",
        max_steps=1,
    )
    trainer.train()
    rewards = trainer._logs["rewards"]
    expected = wa_grpo(
        torch.tensor(list(rewards["secondary_reward"])), torch.tensor(list(rewards["primary_reward"])), 4
    )
    torch.testing.assert_close(torch.tensor(list(trainer._logs["advantages"])), expected)


def test_unscored_step_moves_nothing(tiny_model: Path, tmp_path: Path) -> None:
    trainer = build(
        WorkflowGRPOTrainer,
        WorkflowGRPOConfig,
        tiny_model,
        tmp_path,
        max_steps=1,
        reward_funcs=lambda completions, **_: [None] * len(completions),
    )
    before = parameters(trainer)
    trainer.train()
    assert torch.equal(parameters(trainer), before)


def test_progress_column_breaks_ties_among_wrong_members(tiny_model: Path, tmp_path: Path) -> None:
    def wrong(completions: list[Any], log_extra: Any, **_: Any) -> list[float]:
        log_extra("rollout/progress", [index / 10 for index in range(len(completions))])
        return [0.0] * len(completions)

    trainer = build(WorkflowGRPOTrainer, WorkflowGRPOConfig, tiny_model, tmp_path, max_steps=1, reward_funcs=wrong)
    trainer.train()
    advantages = torch.tensor(list(trainer._logs["advantages"])).view(-1, 4)
    assert (advantages.diff(dim=1) > 0).all()


def test_group_metrics_are_logged_and_reward_is_the_reward(tiny_model: Path, tmp_path: Path) -> None:
    trainer = build(WorkflowGRPOTrainer, WorkflowGRPOConfig, tiny_model, tmp_path, max_steps=2)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert logs[0]["groups/total"] == 2
    assert {"groups/decisive", "groups/tie_broken", "groups/dead", "advantage/tie_mass"} <= set(logs[0])
    rewards = trainer._logs["rewards"]
    total = [a + b for a, b in zip(rewards["primary_reward"], rewards["secondary_reward"], strict=True)]
    assert logs[-1]["reward"] == pytest.approx(sum(total) / len(total))


def test_lora_trains_the_adapter_alone(tiny_model: Path, tmp_path: Path) -> None:
    lora = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=["q_proj", "v_proj"])
    trainer = build(WorkflowGRPOTrainer, WorkflowGRPOConfig, tiny_model, tmp_path, peft_config=lora)
    base = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if "lora" not in n}
    adapter = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if "lora" in n}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in base.items())
    assert any(not torch.equal(after[name], value) for name, value in adapter.items())
    trainer.save_model(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "adapter_model.safetensors").is_file()


def test_model_card_carries_the_sections(tiny_model: Path, tmp_path: Path) -> None:
    trainer = build(WorkflowGRPOTrainer, WorkflowGRPOConfig, tiny_model, tmp_path)
    trainer.card_content = CardContent(sections="## Results\n\nmeasured")
    trainer.create_model_card(model_name="x")
    card = (tmp_path / "README.md").read_text()
    assert "WA-GRPO" in card and "## Results\n\nmeasured" in card


BAD_CONFIGS = [
    ({"advantage_estimator": "ppo"}, "advantage_estimator"),
    ({"advantage_scale": "std"}, "advantage_scale"),
    ({"max_sampling_logp_difference": 0.0}, "max_sampling_logp_difference"),
    ({"tie_break_alpha": -1.0}, "tie_break_alpha"),
    ({"num_generations": 3}, "divisible"),
    ({"temperature_final": 0.5}, "temperature_initial"),
    ({"temperature_initial": 0.0}, "positive"),
    ({"temperature_initial": 1.0, "temperature_warmup_steps": -1}, "temperature_warmup_steps"),
]


@pytest.mark.parametrize(("overrides", "names"), BAD_CONFIGS, ids=[row[1] for row in BAD_CONFIGS])
def test_bad_configuration_is_refused_by_name(overrides: dict[str, Any], names: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=names):
        WorkflowGRPOConfig(**options(tmp_path, **overrides))


def test_unknown_primary_reward_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="primary_reward"):
        build(WorkflowGRPOTrainer, WorkflowGRPOConfig, tiny_model, tmp_path, primary_reward="speed")


def test_temperature_schedule_is_linear(tmp_path: Path) -> None:
    config = WorkflowGRPOConfig(
        **options(tmp_path, temperature=0.7, temperature_initial=1.5, temperature_warmup_steps=4)
    )
    assert [config.temperature_at(step) for step in (0, 2, 4, 9)] == pytest.approx([1.5, 1.1, 0.7, 0.7])
    assert not math.isnan(config.temperature_at(0))


def test_workflow_rewards_work_with_trls_own_trainer(tiny_model: Path, tmp_path: Path) -> None:
    rollouts = Rollouts(Engine(simulated_client()))
    rows = load_rows("synthetic", split="train", count=8, seed=0)
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model),
        reward_funcs=workflow_rewards(rollouts),
        args=GRPOConfig(**options(tmp_path, max_steps=1, reward_weights=list(DEFAULT_WEIGHTS.values()))),
        train_dataset=build_dataset(rows),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
    )
    inputs = [row.columns() for row in rows]
    texts = ["<workflow>[Programmer, Programmer, Programmer] -> ScEnsemble</workflow>"] * 7 + ["nonsense"]
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    rewards = trainer._calculate_rewards(inputs, [row.question for row in rows], completions, [[1]] * 8)
    assert rewards.shape == (8, 5) and rollouts.totals["rollouts"] == 8
    math_rows = [index for index, row in enumerate(rows[:7]) if row.domain == "math"]
    assert rewards[math_rows, 0].sum() >= 1 and (rewards[7] == 0).all()
    trainer._pending_extra_logs.clear()
    trainer.train()
    logged = next(entry for entry in trainer.state.log_history if "reward" in entry)
    assert "workflows/valid" in logged and "rewards/correctness_reward/mean" in logged


# -- conditions that stop a run --------------------------------------------------------------------------------------


async def _never(*_: Any, **__: Any) -> Any:
    raise UnavailableError("the endpoint is down")


STOPPABLE = {"max_steps": 8, "save_strategy": "steps", "save_steps": 100, "collapse_guard": "off"}


def test_run_stops_with_a_checkpoint_after_consecutive_lost_steps(tiny_model: Path, tmp_path: Path) -> None:
    client = simulated()
    client.complete = _never
    trainer = workflow_trainer(client, tiny_model, tmp_path, max_lost_steps=2, **STOPPABLE)
    message = train_until_stopped(trainer)
    assert trainer.state.global_step == 2 and "max_unscored_share" in message
    assert (tmp_path / "checkpoint-2").is_dir() and f"{tmp_path / 'checkpoint-2'}" in message


def test_only_consecutive_lost_steps_stop_a_run(tiny_model: Path, tmp_path: Path) -> None:
    client, answer, calls = simulated(), LLMClient.complete, itertools.count()

    async def every_other_step(*arguments: Any, **keywords: Any) -> Any:
        # Two prompts a step; the completions of each share one call.
        return await (_never if next(calls) // 2 % 2 else answer)(client, *arguments, **keywords)

    client.complete = every_other_step
    trainer = workflow_trainer(client, tiny_model, tmp_path, max_unscored_share=0.4, max_lost_steps=2, **STOPPABLE)
    trainer.train()
    assert trainer.state.global_step == 8


PRICES = {"executor_input_usd_per_mtok": 1.0, "executor_output_usd_per_mtok": 1.0}


def test_run_stops_with_a_checkpoint_when_its_budget_is_spent(tiny_model: Path, tmp_path: Path) -> None:
    client = simulated(executor_max_usd=2e-4, **PRICES)
    trainer = workflow_trainer(client, tiny_model, tmp_path, **STOPPABLE)
    message = train_until_stopped(trainer)
    assert 0 < trainer.state.global_step < 8 and "executor_max_usd" in message
    assert (tmp_path / f"checkpoint-{trainer.state.global_step}").is_dir()
    assert client.spending.usd < 3e-4


def test_revoked_key_stops_a_run_of_the_python_api_at_once(tiny_model: Path, tmp_path: Path) -> None:
    client = simulated()

    async def revoked(*_: Any, **__: Any) -> Any:
        raise FatalEndpointError("401: the key was revoked")

    client.complete = revoked
    trainer = workflow_trainer(client, tiny_model, tmp_path, **STOPPABLE)
    assert "the key was revoked" in train_until_stopped(trainer)
    assert trainer.state.global_step == 1


# -- defaults that follow from the reward functions ------------------------------------------------------------------


def test_workflow_rewards_bring_their_weights_and_stop_string(tiny_model: Path, tmp_path: Path) -> None:
    trainer = workflow_trainer(simulated(), tiny_model, tmp_path)
    assert trainer.reward_weights.tolist() == pytest.approx(list(DEFAULT_WEIGHTS.values()))
    assert trainer.args.stop_strings == ["</workflow>"]


def test_configuration_of_the_user_is_left_as_it_is(tiny_model: Path, tmp_path: Path) -> None:
    args = WorkflowGRPOConfig(**options(tmp_path))
    before = dict(vars(args))
    dataset = Dataset.from_list([{"prompt": "p", "question": "q", "answer": "a"}] * 16)
    trainer = WorkflowGRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model),
        reward_funcs=workflow_rewards(Rollouts(Engine(simulated()))),
        args=args,
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
    )
    assert vars(args) == before and trainer.args.generation_kwargs != args.generation_kwargs


def test_truncated_completions_may_be_masked_where_nothing_executes_workflows(
    tiny_model: Path, tmp_path: Path
) -> None:
    trainer = build(
        WorkflowGRPOTrainer, WorkflowGRPOConfig, tiny_model, tmp_path, mask_truncated_completions=True, max_steps=1
    )
    trainer.train()
    assert trainer.state.global_step == 1


def test_plain_grpo_config_gives_trls_run_bit_for_bit(tiny_model: Path, tmp_path: Path) -> None:
    theirs = build(GRPOTrainer, GRPOConfig, tiny_model, tmp_path / "a")
    theirs.train()
    ours = build(WorkflowGRPOTrainer, GRPOConfig, tiny_model, tmp_path / "b")
    ours.train()
    assert torch.equal(parameters(ours), parameters(theirs))


def test_evaluation_is_recorded_as_an_evaluation(tiny_model: Path, tmp_path: Path) -> None:
    trainer = workflow_trainer(simulated(), tiny_model, tmp_path, max_steps=1, collapse_guard="off")
    trainer.train()
    trainer.evaluate(trainer.train_dataset.select(range(4)))
    phases = {recorded.phase for recorded in read_traces(tmp_path / trace_name(0))}
    assert phases == {TRAIN, EVAL}


def test_fresh_training_sets_the_traces_of_an_earlier_one_aside(tiny_model: Path, tmp_path: Path) -> None:
    for _ in range(2):
        workflow_trainer(simulated(), tiny_model, tmp_path, max_steps=1, collapse_guard="off").train()
    assert len(list(read_traces(tmp_path / trace_name(0)))) == 8
    assert len(list(read_traces(tmp_path / "earlier-1" / trace_name(0)))) == 8
    assert len(list(replay(tmp_path))) == 1


def test_rollouts_recorded_before_the_training_belong_to_the_run(tiny_model: Path, tmp_path: Path) -> None:
    trainer = workflow_trainer(simulated(), tiny_model, tmp_path, max_steps=1, collapse_guard="off")
    trainer.evaluate(trainer.train_dataset.select(range(4)))
    trainer.train()
    assert {recorded.phase for recorded in read_traces(tmp_path / trace_name(0))} == {TRAIN, EVAL}


@pytest.mark.parametrize("scale", ["group", True])
def test_option_of_trl_that_agrees_with_the_estimator_is_accepted(scale: str | bool, tmp_path: Path) -> None:
    config = WorkflowGRPOConfig(**options(tmp_path, scale_rewards=scale, advantage_estimator="grpo"))
    assert config.scale_rewards == "group"


@pytest.mark.parametrize("name", ["nonfinite", "collapse_guard"])
def test_off_of_yaml_is_off(name: str, tmp_path: Path) -> None:
    assert getattr(WorkflowGRPOConfig(**options(tmp_path, **{name: False})), name) == "off"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({}, "primary_reward decides; where it is at least 1, ties are broken by 1 × secondary_reward"),
        ({"correct_from": 0.5, "reward_weights": [-1.0, -2.0]}, "at most 0.5, ties are broken by -2 × secondary"),
        ({"tie_break_alpha": 0.0}, "primary_reward decides; ties stay ties"),
        ({"primary_reward": "secondary_reward"}, "secondary_reward decides"),
        ({"advantage_estimator": "grpo"}, "TRL's (grpo) of 1 × primary_reward + 1 × secondary_reward"),
    ],
)
def test_the_trainer_says_which_reward_decides(
    overrides: dict[str, Any], words: str, tiny_model: Path, tmp_path: Path
) -> None:
    assert words in build(WorkflowGRPOTrainer, WorkflowGRPOConfig, tiny_model, tmp_path, **overrides).reward_roles


def test_a_primary_reward_of_weight_zero_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reward_weights gives 0 to 'primary_reward'"):
        build(WorkflowGRPOTrainer, WorkflowGRPOConfig, tiny_model, tmp_path, reward_weights=[0.0, 1.0])


def test_balanced_batches_of_a_stream_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train_dataset is iterable"):
        WorkflowGRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(tiny_model),
            reward_funcs=primary_reward,
            args=WorkflowGRPOConfig(**options(tmp_path, balance_domains=True)),
            train_dataset=dataset().to_iterable_dataset(),
            processing_class=AutoTokenizer.from_pretrained(tiny_model),
        )


# -- comparison of the log-probabilities of vLLM and trainer ---------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({}, None),
        ({"generation_kwargs": {"stop": ["x"], "include_stop_str_in_output": True}}, None),
        ({"generation_kwargs": {"top_k": 5}}, "top_k"),
        ({"generation_kwargs": {"logit_bias": {"5": -100}}}, "logit_bias"),
        ({"min_p": 0.1}, "min_p"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"vllm_structured_outputs_regex": "a+"}, "vllm_structured_outputs_regex"),
        ({"vllm_importance_sampling_correction": False}, "vllm_importance_sampling_correction"),
    ],
)
def test_log_probabilities_are_compared_unless_the_distribution_was_changed(
    overrides: dict[str, Any], reason: str | None, tmp_path: Path
) -> None:
    because = unchecked_because(WorkflowGRPOConfig(**options(tmp_path, **overrides)))
    assert because is None if reason is None else reason in str(because)


@pytest.mark.parametrize("adapted", [True, False], ids=["adapter", "model"])
def test_the_divergence_is_from_the_policy_that_was_loaded(adapted: bool, tiny_model: Path, tmp_path: Path) -> None:
    lora = LoraConfig(r=4, target_modules=["v_proj", "o_proj"]) if adapted else None

    def trainer(name: str, **overrides: Any) -> Any:
        return build(
            WorkflowGRPOTrainer, WorkflowGRPOConfig, tiny_model, tmp_path / name, peft_config=lora, **overrides
        )

    def divergence(name: str, load: str) -> float:
        after = trainer(name, beta=0.1, max_steps=1)
        getattr(after, load)(tmp_path / "taught")
        after.train()
        return float(next(log["kl"] for log in after.state.log_history if "kl" in log))

    taught = trainer("taught")
    for parameter in taught.model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * (1.0 if adapted else 0.2)
    taught.save_model()
    assert divergence("after", "load_policy") == pytest.approx(0.0, abs=1e-6)
    assert divergence("without", "_load_from_checkpoint") > 1e-4, "from the model that the trainer was built with"
