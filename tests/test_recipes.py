"""Recipes that ship: each loads, and each preset fits the class of GPU it is for."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from aflow_trl.cli import ON_ANY_MACHINE
from aflow_trl.errors import RecipeError
from aflow_trl.recipes import load_recipe

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))
PRESETS = {"t4-16gb": 16, "v100-16gb": 16, "a100-40gb": 40, "a100-80gb": 80, "h200": 141}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_loads_with_every_check(path: Path) -> None:
    recipe = load_recipe([path.name, *ON_ANY_MACHINE])
    assert recipe.training.num_generations >= 4
    assert recipe.workflow.task == yaml.safe_load(path.read_text()).get("task", "compose")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_where_the_memory_goes(name: str) -> None:
    text = next(path for path in RECIPES if path.stem == name).read_text()
    head = text[: text.index("# Policy")].replace("\n# ", " ")
    assert all(word in head for word in ("weights", "adapter", "KV cache", "activations"))
    used, size = (float(word) for word in head.partition("Together ")[2].split(" GB")[0].split(" of "))
    assert size == PRESETS[name] and used < 0.85 * size


@pytest.mark.parametrize("name", ["t4-16gb", "v100-16gb"])
def test_a_card_without_bf16_trains_in_fp16(name: str) -> None:
    recipe = yaml.safe_load(next(path for path in RECIPES if path.stem == name).read_text())
    assert (recipe["fp16"], recipe["bf16"], recipe["dtype"]) == (True, False, "float16")


@pytest.mark.parametrize("steps", [50, 1000])
def test_improve_has_eight_prompts_a_step_in_groups_of_four(steps: int) -> None:
    training = load_recipe([f"improve-{steps}.yaml", *ON_ANY_MACHINE]).training
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


def test_a_guard_that_yaml_read_as_false_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("model_name_or_path: tiny\ncollapse_guard: off\n")
    with pytest.raises(RecipeError, match="in quotes"):
        load_recipe([str(path)])
