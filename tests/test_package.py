"""The package as it is installed: small public surface, data files inside, recipes that load."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

import aflow_trl
from aflow_trl.cli import main
from aflow_trl.cli.options import ANY_MACHINE
from aflow_trl.operators import DEFAULT_OPERATORS
from aflow_trl.policies import tiny
from aflow_trl.recipes import load_recipe

ROOT = Path(__file__).parent.parent
RECIPES = sorted(path.name for path in (ROOT / "recipes").glob("*.yaml"))
ROOMS = sorted(module.name for module in pkgutil.iter_modules(aflow_trl.__path__) if module.ispkg)


def test_public_surface_is_small_and_importable() -> None:
    assert sorted(aflow_trl.__all__) == [
        "WorkflowGRPOConfig",
        "WorkflowGRPOTrainer",
        "__version__",
        "evaluate",
        "run",
        "train",
    ]
    assert all(getattr(aflow_trl, name) for name in aflow_trl.__all__)


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_names_what_it_exports(room: str) -> None:
    module = importlib.import_module(f"aflow_trl.{room}")
    assert len(set(module.__all__)) == len(module.__all__) > 0
    assert all(hasattr(module, name) for name in module.__all__)
    assert module.__doc__ and len(module.__doc__) > len(room) + 5


def test_names_others_rely_on() -> None:
    from aflow_trl.dsl import analyze, extract, format, parse
    from aflow_trl.engine import Engine, RolloutRequest, Trace
    from aflow_trl.errors import DSLError
    from aflow_trl.rewards import (
        correctness_reward,
        efficiency_reward,
        format_reward,
        repetition_reward,
        simplicity_reward,
    )
    from aflow_trl.sandbox import run
    from aflow_trl.scoring import score_code, score_math, score_qa
    from aflow_trl.trainer.advantages import wa_grpo

    names = [DSLError, analyze, extract, format, parse, Engine, RolloutRequest, Trace, run, score_code, score_math]
    names += [score_qa, wa_grpo, correctness_reward, efficiency_reward, format_reward]
    assert all(callable(name) for name in [*names, repetition_reward, simplicity_reward])


def test_data_files_are_reachable_as_resources() -> None:
    root = files("aflow_trl.assets")
    assert root.joinpath("configs", "operators.yaml").is_file()
    assert root.joinpath("recipes", "quickstart.yaml").is_file()
    assert root.joinpath("accelerate_configs", "single_gpu.yaml").is_file()
    assert files("aflow_trl.dsl").joinpath("grammar.lark").is_file()


@pytest.mark.slow
def test_wheel_holds_recipes_and_configs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, timeout=240)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("configs", "recipes", "accelerate_configs"):
        for path in (ROOT / folder).glob("*.yaml"):
            assert f"aflow_trl/assets/{folder}/{path.name}" in names
    assert {"aflow_trl/py.typed", "aflow_trl/dsl/grammar.lark", "aflow_trl/export/standalone.py.template"} <= names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "aflow_trl").rglob("*.py")}
    assert modules <= names
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)
    (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    description = zipfile.ZipFile(wheel).read(metadata).decode().partition("\n\n")[2]
    assert "# aflow_trl" in description and "```" in description
    assert not re.findall(r"\]\((?!https://|#)[^)]*\)", description)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_passes_every_check_that_needs_no_machine(name: str) -> None:
    # What only a machine with a GPU accepts is turned off; everything else is as written.
    recipe = load_recipe([name, *ANY_MACHINE, "--tf32", "false", "--use_vllm", "false"])
    assert recipe.training.num_generations >= 2
    assert set(recipe.source) >= set(yaml.safe_load((ROOT / "recipes" / name).read_text()))


@pytest.mark.parametrize("path", sorted((ROOT / "accelerate_configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_accelerate_config_loads(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    config = load_config_from_file(str(path))
    arguments = launch_command_parser().parse_args(
        ["--config_file", str(path), "-m", "aflow_trl.train", "recipe.yaml"]
    )
    # As `accelerate launch` does before it starts the processes: what it takes from the file is what the file says.
    launched = _validate_launch_command(arguments)[0]
    kind = config.distributed_type.value
    assert launched.num_processes == config.num_processes >= 1
    assert launched.mixed_precision == config.mixed_precision
    assert launched.use_deepspeed == (kind == "DEEPSPEED")
    assert launched.use_fsdp == (kind == "FSDP")
    assert launched.multi_gpu == (kind == "MULTI_GPU")
    if launched.use_fsdp:
        assert launched.fsdp_version == 2
    if launched.use_deepspeed:
        assert str(launched.zero_stage) == path.stem[-1]


def test_the_console_script_is_the_command() -> None:
    (script,) = entry_points(group="console_scripts", name="aflow-trl")
    assert script.load() is main


def test_an_interrupted_build_of_the_tiny_policy_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(examples: object, tokenizer: object, seed: int, folder: Path, start: object) -> None:
        folder.mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(tiny, "_train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tiny._build(0, "compact", DEFAULT_OPERATORS, "compose", tmp_path / "policy")
    assert list(tmp_path.iterdir()) == []
