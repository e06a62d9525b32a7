"""`aflow-trl doctor`: what stands in the way of a run, with remedies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import Qwen2Config

from aflow_trl.cli.options import ANY_MACHINE
from aflow_trl.recipes import estimate_memory, load_recipe
from aflow_trl.train import main as train
from command_line import aflow
from providers import KEY, PROVIDERS, serving

QUICKSTART = yaml.safe_load((Path(__file__).parents[1] / "recipes" / "quickstart.yaml").read_text(encoding="utf-8"))


def doctor(folder: Path, **changes: Any) -> tuple[int, dict[str, str]]:
    """Exit code, and the rows of the table by name."""
    path = folder / "recipe.yaml"
    path.write_text(
        yaml.safe_dump(QUICKSTART | {"output_dir": str(folder / "run"), "num_train_problems": 8} | changes)
    )
    result = aflow("doctor", str(path))
    cells = [[cell.strip() for cell in line.split("│")[1:4]] for line in result.stdout.splitlines() if "│" in line]
    rows: dict[str, str] = {}
    for name, state, text in cells:
        last = name or list(rows)[-1]
        rows[last] = f"{rows.get(last, '')} {state} {text}".strip()
    return result.returncode, rows


def test_a_sound_machine_and_recipe(tmp_path: Path) -> None:
    code, rows = doctor(tmp_path)
    assert code == 0 and all(text.startswith("ok") for text in rows.values()), rows
    assert {
        "system",
        "packages",
        "sandbox",
        "accelerator",
        "recipe",
        "disk",
        "data",
        "executor simulated-executor",
    } <= set(rows)
    assert not (tmp_path / "run").exists()


def test_without_a_recipe_the_machine_is_checked() -> None:
    result = aflow("doctor")
    assert result.returncode == 0 and "packages" in result.stdout and "tier" in result.stdout


@pytest.mark.parametrize(
    ("changes", "row", "words"),
    [
        ({"learning_rate": "abc"}, "recipe", ["learning_rate"]),
        ({"train_data": "none.jsonl"}, "data", ["none.jsonl", "does not exist"]),
        ({"report_to": "comet_ml"}, "tracker comet_ml", ["pip install comet_ml"]),
        ({"executor_base_url": "http://127.0.0.1:9/v1"}, "executor simulated-executor", ["refused"]),
        (
            {"executor_base_url": "https://executor.invalid/v1", "executor_api_key_env": "NO_KEY"},
            "executor simulated-executor",
            ["NO_KEY"],
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_remedy(
    changes: dict[str, Any], row: str, words: list[str], tmp_path: Path
) -> None:
    code, rows = doctor(tmp_path, **changes)
    assert code == 1 and "FAILED" in rows[row] and all(word in rows[row] for word in words), rows


async def test_endpoint_is_tried_and_its_price_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("AFLOW_TRL_CACHE", str(tmp_path / "cache"))
    async with serving(PROVIDERS["OpenAI"]()) as address:
        changes = {"executor_base_url": f"{address}/v1", "executor_model": "gpt-4.1-mini"}
        unpriced = {"executor_input_usd_per_mtok": None, "executor_output_usd_per_mtok": None}
        import asyncio

        code, rows = await asyncio.to_thread(doctor, tmp_path, **changes, **unpriced)
    assert code == 0 and "json_schema" in rows["executor gpt-4.1-mini"] and "unknown" in rows["price"], rows


def test_memory_is_the_arithmetic_of_the_recipe(tmp_path: Path) -> None:
    # Qwen2.5-7B-Instruct; the recipe's comment counts 15.2, 36, 2.6 and 5 GB on a card of 80 GB.
    Qwen2Config(
        vocab_size=152_064,
        hidden_size=3_584,
        intermediate_size=18_944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        architectures=["Qwen2ForCausalLM"],
    ).save_pretrained(tmp_path)
    flags = ["--model_name_or_path", str(tmp_path), *ANY_MACHINE, "--tf32", "false"]
    recipe = load_recipe(["a100-80gb.yaml", *flags])
    recipe.training.bf16 = True
    memory = estimate_memory(recipe, 80)
    assert (memory.weights, memory.optimizer, memory.vllm) == pytest.approx((15.2, 2.6, 36), rel=0.02)
    assert memory.activations == pytest.approx(5, rel=0.2)


def test_a_policy_that_does_not_fit_is_a_warning(tmp_path: Path) -> None:
    config = Qwen2Config(vocab_size=150_000, hidden_size=16_384, num_hidden_layers=100, num_attention_heads=64)
    config.save_pretrained(tmp_path / "huge")
    code, rows = doctor(tmp_path, model_name_or_path=str(tmp_path / "huge"), use_peft=False)
    assert code == 0 and rows["memory"].startswith("warning") and "likely too" in rows["memory"]


def test_training_says_first_what_the_doctor_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aflow_trl.tasks.doctor.MIN_FREE_GB", 1e9)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(QUICKSTART | {"output_dir": str(tmp_path / "run"), "train_data": "none.jsonl"}))
    result = aflow(str(path), command=train)
    assert result.returncode == 2 and "warning: disk: only" in result.stdout


@pytest.mark.parametrize("task", ["quickstart.yaml", "improve-quickstart.yaml", "reason-quickstart.yaml"])
def test_a_missing_tracker_is_refused_before_the_data_are_read(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aflow_trl.tasks.doctor.TRACKERS", ("tensorbored",))
    flags = ["--report_to", "tensorbored", "--train_data", "none.jsonl", "--output_dir", str(tmp_path / "run")]
    result = aflow(task, *flags, command=train)
    assert result.returncode == 2 and "tensorbored" in result.stderr, result.stderr
