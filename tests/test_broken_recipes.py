"""Broken recipes: one sentence with place, value and remedy, before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from aflow_trl.errors import RecipeError
from aflow_trl.recipes import load_recipe
from aflow_trl.train import main as train
from command_line import aflow

QUICKSTART = yaml.safe_load((Path(__file__).parents[1] / "recipes" / "quickstart.yaml").read_text(encoding="utf-8"))
NOT_A_NUMBER = (
    "learning_rate",
    "max_steps",
    "seed",
    "executor_concurrency",
    "weight_decay",
    "num_generations",
    "lora_r",
)
NOT_POSITIVE = (
    *("per_device_train_batch_size", "gradient_accumulation_steps", "logging_steps", "save_steps", "num_train_epochs"),
    *("max_completion_length", "temperature", "lora_r", "num_iterations", "steps_per_generation", "max_steps"),
    *("num_generations", "num_train_problems", "num_eval_problems", "executor_max_tokens", "executor_concurrency"),
)
NEGATIVE = ("learning_rate", "weight_decay", "max_grad_norm", "beta", "epsilon", "top_k", "warmup_steps", "min_p")
NO_CHOICE = (
    *("loss_type", "eval_strategy", "save_strategy", "optim", "lr_scheduler_type", "collapse_guard", "task"),
    *("advantage_estimator", "nonfinite", "executor_structured", "vllm_mode"),
)
SINGLE = ("model_name_or_path", "learning_rate", "output_dir", "policy_prompt", "executor_model", "seed", "train_data")
BOOLEAN = ("gradient_checkpointing", "bf16", "use_peft", "resume", "gate_secondary")
BROKEN: list[tuple[str, Any]] = [
    *((name, "abc") for name in NOT_A_NUMBER),
    *((name, 0) for name in NOT_POSITIVE),
    *((name, -3) for name in (*NOT_POSITIVE, *NEGATIVE)),
    *((name, "no-such-choice") for name in NO_CHOICE),
    *((name, ["a", "b"]) for name in SINGLE),
    *((name, "maybe") for name in BOOLEAN),
    *((name, 1.5) for name in ("top_p", "min_p", "lora_dropout")),
    *((name, None) for name in ("num_generations", "learning_rate", "max_steps")),
    ("domains", ["maths"]),
    ("reward_funcs", ["no_such_reward"]),
    ("reward_weights", [1.0, 2.0]),
    ("operators", ["NoSuchOperator"]),
    ("operator_modules", ["no_such_module"]),
    ("baseline_workflows", ["Custom ->"]),
    ("warm_start", {"max_call": 3}),
    ("warm_start", "yes please"),
    ("executor_base_url", "localhost:8000"),
    ("executor_omit", ["seeds"]),
    ("executor_extra_body", "not JSON"),
    ("num_generation", 4),
    ("policy_prompt", "no-such-prompt"),
    ("num_generations", 7),
]


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(QUICKSTART | {"output_dir": str(folder / "run")} | changes))
    return path


def line_of(path: Path, name: str) -> int:
    return next(n for n, line in enumerate(path.read_text().splitlines(), 1) if line.startswith(f"{name}:"))


@pytest.mark.parametrize(("name", "value"), BROKEN, ids=[f"{name}={value}" for name, value in BROKEN])
def test_broken_recipe_is_refused_in_one_sentence(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe([str(write(tmp_path, **{name: value}))])
    message = str(caught.value)
    assert name in message or str(value) in message or str(value[0]) in message, message
    assert "usage:" not in message and len(message.splitlines()) <= 4


@pytest.mark.parametrize("name", ["learning_rate", "temperature", "loss_type", "bf16", "num_generations", "lora_r"])
def test_message_names_file_and_line(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, **{name: "abc" if name != "temperature" else 0})
    with pytest.raises(RecipeError) as caught:
        load_recipe([str(path)])
    assert f"{path}:{line_of(path, name)}: " in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--learning_rate", "abc"], "--learning_rate: learning_rate"),
        (["--temperature", "0"], "--temperature: temperature is '0'; it must be greater than 0"),
        (["--max_steps=-5"], "--max_steps: max_steps is '-5'"),
        (["--loss_type", "foo"], "one of grpo, dr_grpo"),
        (["--no_such_key", "1"], "no_such_key"),
    ],
)
def test_flags_are_checked_as_recipes_are(flags: list[str], text: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe([str(write(tmp_path)), *flags])
    assert text in str(caught.value)


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text() + "seed: 1\n")
    with pytest.raises(RecipeError, match=r"'seed' stands twice, in lines \d+ and \d+"):
        load_recipe([str(path)])


def test_a_repository_is_private_unless_it_is_to_be_public(tmp_path: Path) -> None:
    path = str(write(tmp_path))
    assert load_recipe([path, "--push_to_hub", "true"]).training.hub_private_repo is True
    public = load_recipe([path, "--push_to_hub", "true", "--hub_private_repo", "false"])
    assert public.training.hub_private_repo is False


def test_a_single_value_of_a_list_is_meant(tmp_path: Path) -> None:
    recipe = load_recipe([str(write(tmp_path, domains="math", baseline_workflows="Custom"))])
    assert recipe.run.domains == ["math"] and recipe.compose.baseline_workflows == ["Custom"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"report_to": "no-such-tracker"}, "no-such-tracker"),
        ({"lora_target_modules": ["no_such_module"]}, "no_such_module"),
        ({"dtype": "float7"}, "float7"),
        ({"attn_implementation": "no-such-attention"}, "no-such-attention"),
        ({"model_name_or_path": "no/such-model"}, "the tokenizer of 'no/such-model' cannot be loaded"),
    ],
)
def test_what_only_the_trainer_knows_is_a_sentence_too(changes: dict[str, Any], text: str, tmp_path: Path) -> None:
    path = write(tmp_path, warm_start=None, num_train_problems=16, num_eval_problems=2, max_steps=1, **changes)
    result = aflow(str(path), command=train)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert text in result.stderr.strip().splitlines()[-1], result.stderr
