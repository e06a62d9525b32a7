"""The command line as a process: what a user types and what comes back, good input and bad."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

RECIPES = Path(__file__).parent.parent / "recipes"
MATH = "Ana has 20 apples. Ana gets 5 more. How many apples does Ana have now?"


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "140"} | (env or {})
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=240, env=environment
    )


def cli(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return run("aflow_trl.cli", *arguments, env=env)


def test_check_shows_canonical_form_bounds_and_drawing() -> None:
    result = cli("check", "(Custom)->Review?Revise:done")
    assert result.returncode == 0
    assert "Custom -> Review ? Revise : done" in result.stdout
    assert "at most 3 model calls" in result.stdout and "flowchart LR" in result.stdout


def test_check_shows_the_caret_and_fails() -> None:
    result = cli("check", "Custom -> (Review")
    assert result.returncode == 2
    assert "unclosed" in result.stderr and "^" in result.stderr and "Traceback" not in result.stderr


def test_run_answers_and_prints_the_trace() -> None:
    result = cli("run", MATH, "--workflow", "[Programmer, Programmer, Programmer] -> ScEnsemble")
    assert result.returncode == 0, result.stderr
    assert "Programmer" in result.stdout and "answer  25" in result.stdout


def test_run_prints_json() -> None:
    trace = json.loads(cli("run", MATH, "--workflow", "Custom -> Review", "--json").stdout)
    assert [node["operator"] for node in trace["nodes"]] == ["Custom", "Review"]


def test_estimate_tells_calls_and_usd_before_anything_is_spent() -> None:
    prices = (
        "--executor_input_usd_per_mtok",
        "1",
        "--executor_output_usd_per_mtok",
        "2",
        "--executor_max_tokens",
        "500",
    )
    plain = ("--max_steps", "10", "--num_eval_problems", "30", "--warm_start", "false", "--collapse_guard", "off")
    result = cli("estimate", "quickstart.yaml", *plain, *prices)
    assert result.returncode == 0, result.stderr
    rows = {
        cells[0]: cells[1:] for line in result.stdout.splitlines() if len(cells := re.findall(r"[\w.,]+", line)) == 8
    }
    # 30 problems: the policy twice and the fixed workflows; 10 steps of 64 completions.
    evaluation, training, whole = (
        [float(cell.replace(",", "")) for cell in rows[name]] for name in ("evaluation", "training", "run")
    )
    assert (evaluation[0], training[0], whole[0]) == (300, 640, 940)
    for _, low, expected, worst, low_usd, expected_usd, worst_usd in (evaluation, training):
        assert 0 < low <= expected < worst and 0 < low_usd <= expected_usd < worst_usd
    assert training[3] == 640 * 40 and training[6] > training[3] * 500 * 2 / 1e6
    assert whole[2] == pytest.approx(evaluation[2] + training[2], abs=2)


def test_estimate_counts_the_search_and_the_probes() -> None:
    search = '{"max_calls": 5000, "winners": 2}'
    flags = ("--max_steps", "20", "--num_eval_problems", "30", "--probe_problems", "8", "--warm_start", search)
    result = cli("estimate", "quickstart.yaml", *flags)
    assert result.returncode == 0, result.stderr
    found = re.findall(r"^│ ([a-z ]+?) +│ +([\d,]+)", result.stdout, re.MULTILINE)
    rows = {name: int(number.replace(",", "")) for name, number in found}
    assert rows["evaluation"] == 30 * (2 + 8 + 1 + 2) and rows["probes"] == 8 * 3
    assert "5,000" in result.stdout and "warm start" in result.stdout


def test_estimate_says_that_a_price_is_unknown() -> None:
    local = ("--executor_base_url", "http://localhost:9/v1", "--executor_input_usd_per_mtok", "null")
    result = cli("estimate", "a100-80gb.yaml", *local, "--train_data", "synthetic", "--eval_data", "synthetic")
    assert result.returncode == 0 and "unknown" in result.stdout, result.stderr


def test_run_without_a_key_names_the_variable() -> None:
    result = cli("run", MATH, "--base-url", "http://127.0.0.1:9/v1", "--api-key-env", "NO_SUCH_VARIABLE")
    assert result.returncode == 2 and "NO_SUCH_VARIABLE" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("command", [[], ["check"], ["run"], ["simulate"]])
def test_help_says_what_there_is(command: list[str]) -> None:
    result = cli(*command, "--help")
    assert result.returncode == 0 and len(result.stdout) > 200


def test_simulate_serves_the_protocol() -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "aflow_trl.cli", "simulate", "--port", "18377"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None and "18377" in server.stdout.readline()
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": MATH}]}).encode()
        request = urllib.request.Request("http://127.0.0.1:18377/v1/chat/completions", body)
        for _ in range(50):
            try:
                with urllib.request.urlopen(request, timeout=5) as response:
                    reply = json.load(response)
                break
            except OSError:
                time.sleep(0.1)
        assert "The answer is" in reply["choices"][0]["message"]["content"]
    finally:
        server.terminate()
        server.wait(10)


# -- bad recipes: each ends before anything is loaded ------------------------------------------------------------------

BAD_RECIPES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("unknown key", {"num_generation": 8}, ["num_generation", "num_generations"]),
    ("unknown operator", {"operators": ["Custom", "Solver"]}, ["Solver", "Known operators"]),
    ("K does not divide", {"num_generations": 7}, ["num_generations", "7"]),
    ("unknown estimator", {"advantage_estimator": "ppo"}, ["ppo", "wa_grpo"]),
    ("unknown reward", {"reward_funcs": ["speed_reward"]}, ["speed_reward", "correctness_reward"]),
    ("weights do not fit", {"reward_weights": [1.0]}, ["reward_weights", "5 reward functions"]),
    ("unknown prompt", {"policy_prompt": "short"}, ["short", "compact"]),
    ("unquoted workflow", {"baseline_workflows": [{"Review ? Revise": "done"}]}, ["quotes"]),
    ("wrong workflow", {"baseline_workflows": ["Custom -> Solve"]}, ["unknown_operator", "Solve"]),
    ("missing operator module", {"operator_modules": ["no_such_module"]}, ["no_such_module", "PYTHONPATH"]),
    ("missing data", {"train_data": "none.jsonl"}, ["none.jsonl", "does not exist"]),
    ("no key", {"executor_base_url": "http://127.0.0.1:9/v1", "executor_api_key_env": "NO_KEY"}, ["NO_KEY", "Export"]),
    (
        "endpoint refuses",
        {
            "executor_base_url": "http://127.0.0.1:9/v1",
            "executor_api_key_env": "AFLOW_TEST_KEY",
            "executor_call_timeout_s": 0.5,
        },
        ["127.0.0.1:9", "executor_base_url"],
    ),
    ("wrong type", {"max_steps": "many"}, ["max_steps", "many"]),
]


def write_recipe(folder: Path, **changes: Any) -> str:
    recipe = yaml.safe_load((RECIPES / "quickstart.yaml").read_text()) | {"output_dir": str(folder / "run")} | changes
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "changes", "words"), BAD_RECIPES, ids=[row[0] for row in BAD_RECIPES])
def test_bad_recipe_ends_early_with_value_and_remedy(
    name: str, changes: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    result = run(
        "aflow_trl.train", write_recipe(tmp_path, **changes), env={"AFLOW_TRL_CACHE": str(tmp_path / "cache")}
    )
    assert result.returncode not in (0, None)
    assert all(word in result.stderr for word in words), result.stderr[-600:]
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "cache").exists() and not (tmp_path / "run").exists(), "nothing was built or written"


@pytest.mark.slow
def test_bad_row_ends_early_with_file_line_and_field(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "q", "answer": "1"}\n{"question": "q2"}\n')
    recipe = write_recipe(tmp_path, train_data=str(tmp_path / "rows.jsonl"))
    result = run("aflow_trl.train", recipe)
    assert result.returncode == 2
    assert "rows.jsonl, line 2" in result.stderr and "'answer'" in result.stderr


@pytest.mark.slow
def test_problem_in_both_splits_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "q", "answer": "1"}\n')
    data = str(tmp_path / "rows.jsonl")
    result = run("aflow_trl.train", write_recipe(tmp_path, train_data=data, eval_data=data))
    assert result.returncode == 2 and "held-out problems are training problems" in result.stderr


@pytest.mark.slow
def test_unknown_recipe_names_those_that_ship() -> None:
    result = run("aflow_trl.train", "fastest.yaml")
    assert result.returncode == 2 and "quickstart.yaml" in result.stderr


# -- a run from start to end -------------------------------------------------------------------------------------------

SHORT = {
    "max_steps": 2,
    "per_device_train_batch_size": 16,
    "num_eval_problems": 15,
    "num_train_problems": 60,
    "baseline_workflows": ["Programmer"],
    "logging_steps": 1,
    "warm_start": None,
}


def volatile_removed(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if key not in ("wall_s", "recipe")}


@pytest.mark.slow
def test_run_writes_everything_and_the_same_seed_gives_the_same_summary(tmp_path: Path) -> None:
    summaries = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        result = run("aflow_trl.train", write_recipe(folder, **SHORT))
        assert result.returncode == 0, result.stderr[-2000:]
        output = folder / "run"
        summaries.append(json.loads((output / "summary.json").read_text()))
        for file in (
            "adapter_model.safetensors",
            "learning_curve.png",
            "traces.jsonl.gz",
            "rewards.jsonl.gz",
            "README.md",
        ):
            assert (output / file).stat().st_size > 0, file
    assert volatile_removed(summaries[0]) == volatile_removed(summaries[1])
    summary = summaries[0]
    for name in ("untrained", "custom", "best_fixed", "trained"):
        assert {"mean", "low", "high", "n", "calls_per_problem"} <= set(summary["accuracy"][name])
    assert {"valid_share", "wall_s", "model_calls", "usd", "seed", "versions"} <= set(summary)
    assert summary["accuracy"]["custom"]["calls_per_problem"] == 1.0
    assert summary["sandbox"]["tier"] in ("A", "B") and f"sandbox: tier {summary['sandbox']['tier']}" in result.stdout
    assert "step    2/2" in result.stdout and "Held-out accuracy" in result.stdout
    card = (tmp_path / "first" / "run" / "README.md").read_text()
    assert "Programmer" in card and "## Recipe" in card and "## Results" in card
    again = cli("replay", str(tmp_path / "first" / "run"))
    assert again.returncode == 0 and "largest change of an advantage: 0\n" in again.stdout, again.stderr[-2000:]
    assert len(re.findall(r"^│ +[01] │", again.stdout, re.MULTILINE)) == 2
    other = yaml.safe_load(Path(write_recipe(tmp_path, **SHORT)).read_text()) | {"tie_break_alpha": 0.0}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))
    changed = cli("replay", str(tmp_path / "first" / "run"), "--recipe", str(tmp_path / "other.yaml"))
    assert changed.returncode == 0 and "advantage: 0\n" not in changed.stdout, changed.stderr[-2000:]
    answer = cli("run", MATH, "--model", str(tmp_path / "first" / "run"))
    assert answer.returncode in (0, 1) and "Traceback" not in answer.stderr, answer.stderr[-2000:]


@pytest.mark.slow
def test_run_stops_with_a_checkpoint_when_the_key_is_revoked_and_goes_on_from_it(tmp_path: Path) -> None:
    """An endpoint that works at first and then refuses the key ends the run in good order; a good key resumes it."""
    import asyncio
    import threading

    from aiohttp import web

    from aflow_trl.simulator import SimulatedApp

    app, loop = SimulatedApp(), asyncio.new_event_loop()
    revoked = threading.Event()
    revoked.set()

    async def chat(request: web.Request) -> web.Response:
        if app.calls > 150 and revoked.is_set():
            return web.json_response({"error": {"message": "key revoked", "code": "invalid_api_key"}}, status=401)
        status, body = await app.respond(await request.json())
        return web.json_response(body, status=status)

    async def serve() -> int:
        server = web.Application()
        server.router.add_post("/v1/chat/completions", chat)
        runner = web.AppRunner(server)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return int(site._server.sockets[0].getsockname()[1])

    threading.Thread(target=loop.run_forever, daemon=True).start()
    port = asyncio.run_coroutine_threadsafe(serve(), loop).result()
    changes = SHORT | {
        "executor_base_url": f"http://127.0.0.1:{port}/v1",
        "executor_api_key_env": "AFLOW_TEST_KEY",
        "max_steps": 8,
        "save_strategy": "steps",
        "save_steps": 100,
    }
    recipe = write_recipe(tmp_path, **changes)
    result = run("aflow_trl.train", recipe)
    assert result.returncode == 3, result.stderr[-2000:]
    (adapter,) = (tmp_path / "run").glob("checkpoint-*/adapter_model.safetensors")
    assert "key revoked" in result.stdout and f"saved in {adapter.parent}" in result.stdout
    done = int(adapter.parent.name.split("-")[1])
    assert done < 8
    revoked.clear()
    resumed = run("aflow_trl.train", recipe, "--resume")
    loop.call_soon_threadsafe(loop.stop)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    steps = re.findall(r"^step +(\d+)/8", resumed.stdout, re.MULTILINE)
    assert [int(step) for step in steps] == list(range(done + 1, 9)), resumed.stdout
    planted = os.environ["AFLOW_TEST_KEY"]
    texts = [path.read_text(errors="replace") for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not any(planted in text for text in [result.stdout, result.stderr, *texts])
