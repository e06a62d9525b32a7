"""Secrets stay where they are: not in any file that a command writes, not on the console, not on the Hub."""

from __future__ import annotations

import gzip
import itertools
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from huggingface_hub import HfApi
from huggingface_hub.utils import filter_repo_objects

from aflow_trl.assets import asset_path
from aflow_trl.errors import RecipeError
from aflow_trl.llm import CallCache
from aflow_trl.recipes import load_recipe
from aflow_trl.simulator import SimulatedApp
from aflow_trl.storage import JsonLines, TraceFile
from aflow_trl.train import main as train
from aflow_trl.trainer import WorkflowGRPOConfig, WorkflowGRPOTrainer
from command_line import aflow
from thread_server import chat_endpoint
from trainers import build

KEY = "sk-planted-key-4711"
PLANTED = {
    "api key": KEY,
    "env": "planted-in-env-4712",
    "hub token": "hf_plantedtoken4713",
}


def contents(folder: Path) -> dict[str, str]:
    """Text of every file below a folder, decompressed."""
    texts = {}
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            data = gzip.decompress(data) if path.suffix == ".gz" else data
            texts[str(path.relative_to(folder))] = data.decode("utf-8", errors="replace")
    return texts


@pytest.mark.slow
def test_planted_secrets_are_in_nothing_that_a_run_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED_KEY", KEY)
    app, numbers = SimulatedApp(), itertools.count()

    async def chat(request: web.Request) -> web.StreamResponse:
        if next(numbers) % 7 == 6:
            # Proxies echo the request in their errors.
            echo = f"refused {request.headers.get('Authorization')}, key {KEY}"
            return web.json_response({"error": {"message": echo, "code": "content_filter"}}, status=400)
        status, body = await app.respond(await request.json())
        return web.json_response(body, status=status)

    with chat_endpoint(chat) as port:
        source = asset_path("recipes", "quickstart.yaml")
        assert source is not None
        recipe = yaml.safe_load(source.read_text()) | {
            "output_dir": str(tmp_path / "run"),
            "executor_base_url": f"http://127.0.0.1:{port}/v1",
            "executor_api_key_env": "PLANTED_KEY",
            "executor_input_usd_per_mtok": 1.0,
            "executor_output_usd_per_mtok": 1.0,
            "env": {"SOMETHING": PLANTED["env"]},
            "hub_token": PLANTED["hub token"],
            **{"max_steps": 2, "num_eval_problems": 6, "num_train_problems": 30, "per_device_train_batch_size": 16},
            **{"warm_start": None, "probe_problems": 4, "baseline_workflows": ["Programmer"]},
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        result = aflow(str(tmp_path / "recipe.yaml"), command=train)
    assert result.returncode == 0, result.stderr[-2000:]
    files = contents(tmp_path / "run") | {"stdout": result.stdout, "stderr": result.stderr}
    # transformers keeps all arguments for itself in this file, which is never uploaded.
    files.pop("training_args.bin")
    assert {"README.md", "summary.json", "traces.jsonl.gz", "calls.sqlite"} <= files.keys()
    found = [(name, kind) for name, text in files.items() for kind, secret in PLANTED.items() if secret in text]
    assert found == []


@pytest.mark.parametrize("url", ["https://user:planted-4714@host/v1", "https://host/v1?api_key=planted-4714"])
def test_an_address_with_a_secret_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(RecipeError, match="executor_api_key_env") as error:
        load_recipe(["quickstart.yaml", "--executor_base_url", url])
    assert "planted" not in str(error.value)


def test_a_recipe_is_published_without_what_names_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "model_name_or_path": "tiny",
                "executor_base_url": "simulated",
                "executor_max_tokens": 64,
                "executor_api_key_env": "NAME_OF_A_VARIABLE",
                "hub_token": "hf_x",
                "env": {"A": "secret"},
                "run_name": "https://u:p@host/v1?api_key=secret",
                "executor_extra_headers": {"X-Portal": "secret", "api-key": "$AZURE", "Ocp-Apim": "$AZURE"},
                "executor_query": {"api-version": "1", "key": "secret", "subscription-key": "secret"},
                "executor_extra_body": {"api_key": "secret", "enable_thinking": False},
            }
        )
    )
    monkeypatch.setenv("AZURE", "secret")
    public = load_recipe([str(path), "--bf16", "false", "--use_cpu", "true", "--hub_token", "hf_y"]).public_source
    assert public == {
        "bf16": False,
        "use_cpu": True,
        "model_name_or_path": "tiny",
        "executor_base_url": "simulated",
        "executor_max_tokens": 64,
        "executor_api_key_env": "NAME_OF_A_VARIABLE",
        "run_name": "https://host/v1",
        "executor_extra_headers": {"api-key": "$AZURE", "Ocp-Apim": "$AZURE"},
        "executor_query": {"api-version": "1"},
        "executor_extra_body": {"enable_thinking": False},
    }


PRIVATE = ["traces.jsonl.gz", "rewards.jsonl.gz", "calls.sqlite", "training_args.bin", "replay_settings.json"]
PRIVATE += ["warm_start/winners.json", "warm_start/policy/adapter_model.safetensors", "checkpoint-2/optimizer.pt"]


def test_uploads_follow_an_allow_list(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads: list[dict[str, Any]] = []
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **options: uploads.append(options))
    trainer = build(WorkflowGRPOTrainer, WorkflowGRPOConfig, tiny_model, tmp_path)
    trainer.hub_model_id = "someone/policy"
    for name in [*PRIVATE, "summary.json", "policy.json", "learning_curve.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    trainer.push_to_hub()
    trainer.args.hub_strategy = "every_save"
    trainer._push_from_checkpoint(str(tmp_path / "checkpoint-2"))
    assert [upload["repo_id"] for upload in uploads] == ["someone/policy"] * 2
    for upload in uploads:
        folder = Path(upload["folder_path"])
        names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        allowed = {"allow_patterns": upload["allow_patterns"], "ignore_patterns": upload["ignore_patterns"]}
        published = set(filter_repo_objects(names, **allowed))
        assert not published & {*PRIVATE, "optimizer.pt"}
        if folder == tmp_path:
            expected = {"README.md", "model.safetensors", "config.json", "tokenizer.json", "summary.json"}
            assert expected | {"policy.json", "learning_curve.png"} <= published


def test_a_strategy_that_uploads_the_arguments_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="hub_strategy"):
        build(
            WorkflowGRPOTrainer, WorkflowGRPOConfig, tiny_model, tmp_path, push_to_hub=True, hub_strategy="checkpoint"
        )


def test_traces_caches_and_journals_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    TraceFile(tmp_path / "traces.jsonl.gz").append([{"a": 1}])
    JsonLines(tmp_path / "search.jsonl").append([{"a": 1}])
    cache = CallCache(tmp_path / "calls.sqlite")
    cache.stats()
    cache.close()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) >= 3 and set(modes.values()) == {0o600}, modes
