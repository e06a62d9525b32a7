"""Recipes: those that ship load and fit their class of GPU; options that contradict each other are refused."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import pytest
import yaml

from aflow_trl.cli.options import ANY_MACHINE
from aflow_trl.errors import RecipeError
from aflow_trl.recipes import Recipe, load_recipe
from aflow_trl.tasks.compose import run_compose
from aflow_trl.tasks.preflight import check_trainer

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))
PRESETS = {
    "smollm2-135m-gpu": 8,
    "qwen2.5-1.5b-t4": 16,
    "v100-16gb": 16,
    "local-executor-24gb": 24,
    "qwen3-4b-24gb": 24,
    "a100-40gb": 40,
    "a100-80gb": 80,
    "qwen3-8b-a100": 80,
    "h200": 141,
}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_loads_with_every_check(path: Path) -> None:
    recipe = load_recipe([path.name, *ANY_MACHINE])
    assert recipe.training.num_generations >= 4
    assert recipe.run.task == yaml.safe_load(path.read_text()).get("task", "compose")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_what_the_memory_is_used_for(name: str) -> None:
    text = next(path for path in RECIPES if path.stem == name).read_text()
    head = text[: text.index("# Policy")].replace("\n# ", " ")
    assert all(part in head for part in ("weights", "adapter", "KV cache", "activations"))
    used, size = (float(number) for number in head.partition("Together ")[2].split(" GB")[0].split(" of "))
    assert size == PRESETS[name] and used < 0.85 * size


@pytest.mark.parametrize("name", ["qwen2.5-1.5b-t4", "v100-16gb"])
def test_a_card_without_bf16_trains_in_fp16(name: str) -> None:
    recipe = yaml.safe_load(next(path for path in RECIPES if path.stem == name).read_text())
    assert (recipe["fp16"], recipe["bf16"], recipe["dtype"]) == (True, False, "float16")


@pytest.mark.parametrize("steps", [50, 1000])
def test_improve_has_eight_prompts_a_step_in_groups_of_four(steps: int) -> None:
    training = load_recipe([f"improve-{steps}.yaml", *ANY_MACHINE]).training
    assert training.max_steps == steps and training.num_generations == 4
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == 8 * 4


SHARDED = [("collapse_guard", "rollback"), ("warm_start", "true")]


@pytest.mark.parametrize(("key", "value"), SHARDED, ids=[row[0] for row in SHARDED])
def test_what_needs_whole_parameters_is_refused_where_they_are_sharded(
    key: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    flags = {"warm_start": "false", "collapse_guard": "stop"} | {key: value}
    with pytest.raises(RecipeError, match=key):
        load_recipe(["quickstart.yaml", *(text for pair in flags.items() for text in (f"--{pair[0]}", pair[1]))])


def test_resume_needs_whole_checkpoints() -> None:
    with pytest.raises(RecipeError, match="save_only_model"):
        load_recipe(["quickstart.yaml", "--resume", "--save_only_model", "true"])


CONSTRAINED = [(["2"], "needs use_vllm"), (["4"], "Use 1 to 3")]


@pytest.mark.parametrize(("value", "message"), CONSTRAINED)
def test_constrained_decoding_is_checked_before_anything_starts(value: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(["quickstart.yaml", "--constrained_depth", *value])


def test_options_of_another_task_are_refused_with_the_task_they_belong_to() -> None:
    with pytest.raises(RecipeError, match="num_records is for task: improve"):
        load_recipe(["quickstart.yaml", "--num_records", "3"])


# -- `off`, which YAML 1.1 reads as false ------------------------------------------------------------------------------


def option(recipe: Recipe, name: str) -> object:
    return getattr(recipe.training if hasattr(recipe.training, name) else recipe.workflow, name)


TURNED_OFF = ["collapse_guard", "nonfinite", "share", "call_cache"]


@pytest.mark.parametrize("name", TURNED_OFF)
@pytest.mark.parametrize("text", ["off", "'off'"], ids=["bare", "quoted"])
def test_an_option_is_turned_off_with_and_without_quotes(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"model_name_or_path: tiny\n{name}: {text}\n")
    assert option(load_recipe([str(path), *ANY_MACHINE]), name) == "off"


@pytest.mark.parametrize("name", TURNED_OFF)
def test_an_option_is_turned_off_by_a_flag(name: str) -> None:
    assert option(load_recipe(["quickstart.yaml", f"--{name}", "off"]), name) == "off"


@pytest.mark.parametrize("name", TURNED_OFF)
def test_turning_an_option_on_asks_for_a_value(name: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"model_name_or_path: tiny\n{name}: on\n")
    with pytest.raises(RecipeError, match=name):
        load_recipe([str(path), *ANY_MACHINE])


def test_a_warm_start_that_is_off_is_none(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("model_name_or_path: tiny\nwarm_start: off\n")
    assert load_recipe([str(path), *ANY_MACHINE]).compose.warm_start_settings is None


LISTS = [
    ("stop_strings", ["</a>", "</b>"]),
    ("reward_weights", [1, 0.5, 0.1, 0.1, 0.1]),
    ("reward_funcs", ["correctness_reward", "efficiency_reward"]),
    ("domains", ["math", "qa"]),
    ("baseline_workflows", ["Custom", "[Custom, Programmer] -> ScEnsemble"]),
    ("judge_domains", ["qa"]),
    ("lora_target_modules", ["q_proj", "v_proj"]),
]
MAPPINGS = [
    ("generation_kwargs", {"top_k": 5}),
    ("chat_template_kwargs", {"enable_thinking": False}),
    ("models", {"Review": {"executor_model": "small"}}),
    ("lr_scheduler_kwargs", {"num_cycles": 2}),
    ("gradient_checkpointing_kwargs", {"use_reentrant": False}),
]


def value_of(recipe: Recipe, name: str) -> object:
    parts = (recipe.run, recipe.arguments, recipe.executor, recipe.training, recipe.model)
    return next(getattr(part, name) for part in parts if hasattr(part, name))


@pytest.mark.parametrize(("name", "value"), LISTS + MAPPINGS, ids=[row[0] for row in LISTS + MAPPINGS])
def test_lists_and_mappings_are_read_from_yaml_and_from_flags(name: str, value: object, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    base = {"model_name_or_path": "tiny", "executor_base_url": "simulated"}
    path.write_text(yaml.safe_dump(base | {name: value}))
    assert value_of(load_recipe([str(path), *ANY_MACHINE]), name) == value
    path.write_text(yaml.safe_dump(base))
    assert value_of(load_recipe([str(path), *ANY_MACHINE, f"--{name}", json.dumps(value)]), name) == value
    assert value_of(load_recipe([str(path), *ANY_MACHINE, f"--{name}={json.dumps(value)}"]), name) == value


def test_a_list_is_empty_in_json_only() -> None:
    assert load_recipe(["quickstart.yaml", "--stop_strings", "[]"]).training.stop_strings == []


def test_a_workflow_in_a_flag_is_no_list() -> None:
    workflow = "[Custom, Programmer] -> ScEnsemble"
    assert load_recipe(["quickstart.yaml", "--baseline_workflows", workflow]).compose.baseline_workflows == [workflow]


REFUSED_BY_TRL = [
    (["--sync_ref_model", "true"], "sync_ref_model"),
    (["--use_vllm", "true"], "vLLM is not installed"),
    (["--model_init_kwargs", '{"attn_implementation": "nonsense"}'], "nonsense"),
]


@pytest.mark.parametrize(("flags", "message"), REFUSED_BY_TRL, ids=[row[0][0][2:] for row in REFUSED_BY_TRL])
def test_what_trl_refuses_is_refused_before_anything_is_paid_for(
    flags: list[str], message: str, tmp_path: Path
) -> None:
    recipe = load_recipe(["quickstart.yaml", "--output_dir", str(tmp_path), *flags])
    with pytest.raises(RecipeError, match=message):
        run_compose(recipe)
    assert not list(tmp_path.iterdir()), "nothing has been started"


@pytest.mark.parametrize("name", ["quickstart.yaml", "improve-quickstart.yaml"])
def test_the_trainer_of_a_recipe_that_ships_is_accepted(name: str, tmp_path: Path) -> None:
    check_trainer(load_recipe([name, "--output_dir", str(tmp_path)]))


@pytest.mark.parametrize("name", ["train_data", "eval_data", "output_dir"])
def test_hidden_tests_where_programs_can_read_are_refused(name: str) -> None:
    path = f"{sysconfig.get_paths()['purelib']}/rows.jsonl"
    with pytest.raises(RecipeError, match=f"{name} is .*could read the answers"):
        load_recipe(["quickstart.yaml", f"--{name}", path])
