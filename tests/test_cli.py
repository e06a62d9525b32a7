"""The command line: what a user types and what comes back, for good input and bad."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from huggingface_hub import ModelCard

from aflow_trl.cli.main import build_parser
from aflow_trl.recipes import Phase, estimate, load_recipe
from aflow_trl.rollouts import EVAL, read_traces, trace_name
from aflow_trl.simulator import SimulatedApp
from aflow_trl.train import EXIT_STOPPED
from aflow_trl.train import main as train
from command_line import aflow, is_drawn, read_strictly
from thread_server import chat_endpoint
from upstream import write_upstream
from workspace import write_workspace

RECIPES = Path(__file__).parent.parent / "recipes"
MATH = "Ana has 20 apples. Ana gets 5 more. How many apples does Ana have now?"


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A process, for what depends on being one."""
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=240)


# -- single commands ---------------------------------------------------------------------------------------------------


def test_check_shows_canonical_form_bounds_and_drawing() -> None:
    result = aflow("check", "(Custom)->Review?Revise:done")
    assert result.returncode == 0
    assert "Custom -> Review ? Revise : done" in result.stdout
    assert "at most 3 model calls" in result.stdout and "flowchart LR" in result.stdout


def test_a_user_error_is_exit_code_2_with_the_position_and_no_traceback() -> None:
    result = python("aflow_trl.cli", "check", "Custom -> (Review")
    assert result.returncode == 2
    assert "unclosed" in result.stderr and "^" in result.stderr and "Traceback" not in result.stderr


def test_run_answers_and_prints_the_trace() -> None:
    result = aflow(
        "run", MATH, "--simulated", "--workflow", "[Programmer, Programmer, Programmer] -> ScEnsemble", "--trace"
    )
    assert result.returncode == 0, result.stderr
    assert "Programmer" in result.stdout and "answer  25" in result.stdout


def test_run_prints_json() -> None:
    trace = json.loads(aflow("run", MATH, "--simulated", "--workflow", "Custom -> Review", "--json").stdout)
    assert [node["operator"] for node in trace["nodes"]] == ["Custom", "Review"]


def test_any_key_of_the_executor_can_be_set() -> None:
    assert aflow("run", MATH, "--simulated", "--workflow", "Custom", "--set", "executor_max_tokens=77").returncode == 0
    for text in ("max_tokens=77", "executor_max_tokens"):
        result = aflow("run", MATH, "--simulated", "--workflow", "Custom", "--set", text)
        assert result.returncode == 2 and "KEY=VALUE" in result.stderr
    result = aflow("run", MATH, "--simulated", "--workflow", "Custom", "--set", "executor_omit=[seeds]")
    assert result.returncode == 2 and "'seeds'" in result.stderr


def test_run_without_a_key_names_the_variable() -> None:
    result = aflow("run", MATH, "--base-url", "https://executor.invalid/v1", "--api-key-env", "NO_SUCH_VARIABLE")
    assert result.returncode == 2 and "NO_SUCH_VARIABLE" in result.stderr and "Traceback" not in result.stderr


def test_data_prepare_writes_every_benchmark_by_default(tmp_path: Path) -> None:
    upstream = write_upstream(tmp_path / "upstream")
    result = aflow("data", "prepare", str(tmp_path / "data"), "--from", str(upstream), "--ratio", "4:1:4")
    assert result.returncode == 0, result.stderr
    written = {path.name for path in (tmp_path / "data").iterdir()}
    assert written == {"train.jsonl", "valid.jsonl", "test.jsonl", "data_card.json"}
    rows = [json.loads(line) for line in (tmp_path / "data" / "test.jsonl").read_text().splitlines()]
    assert {row["domain"] for row in rows} == {"math", "code", "qa"}


def test_data_prepare_names_an_unknown_benchmark(tmp_path: Path) -> None:
    result = aflow("data", "prepare", str(tmp_path), "--benchmark", "gsm9k", "--from", str(tmp_path))
    assert result.returncode == 2 and "gsm9k" in result.stderr and "gsm8k" in result.stderr


def test_data_import_writes_the_records_of_a_workspace(tmp_path: Path) -> None:
    out = tmp_path / "records.jsonl"
    result = aflow("data", "import-aflow", str(write_workspace(tmp_path / "workspace")), "--out", str(out))
    assert result.returncode == 0, result.stderr
    assert f"{len(out.read_text().splitlines())} records" in result.stdout and "graphs translated" in result.stdout


def test_export_writes_a_script_that_python_reads() -> None:
    result = aflow("export", "Custom -> Review ? Revise : done", "--to", "python")
    assert result.returncode == 0, result.stderr
    compile(result.stdout, "workflow.py", "exec")


def test_cache_names_a_file_that_does_not_exist(tmp_path: Path) -> None:
    result = aflow("cache", "stats", str(tmp_path / "calls.sqlite"))
    assert result.returncode == 2 and "calls.sqlite" in result.stderr and not (tmp_path / "calls.sqlite").exists()


def commands(
    parser: argparse.ArgumentParser, name: str = "aflow-trl"
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, child in action.choices.items():
                yield from commands(child, f"{name} {word}")


@pytest.mark.parametrize(("name", "parser"), commands(build_parser()), ids=lambda value: str(value)[:40])
def test_every_option_of_every_command_is_explained(name: str, parser: argparse.ArgumentParser) -> None:
    groups = argparse._SubParsersAction
    unexplained = [action.dest for action in parser._actions if not action.help and not isinstance(action, groups)]
    assert not unexplained, name
    subcommands = [action for action in parser._actions if isinstance(action, groups)]
    for action in subcommands:
        assert {choice.dest for choice in action._choices_actions} == set(action.choices)


def test_an_unknown_flag_is_refused() -> None:
    result = aflow("check", "Custom", "--verbose")
    assert result.returncode == 2 and "--verbose" in result.stderr


def test_simulate_serves_the_protocol() -> None:
    command = [sys.executable, "-m", "aflow_trl.cli", "simulate", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        # From this line on, the server accepts connections.
        address = re.search(r"http://\S+/v1", server.stdout.readline())
        assert address is not None
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": MATH}]}).encode()
        with urllib.request.urlopen(
            urllib.request.Request(f"{address[0]}/chat/completions", body), timeout=30
        ) as reply:
            assert "The answer is" in json.load(reply)["choices"][0]["message"]["content"]
    finally:
        server.terminate()
        server.communicate()


# -- the estimate ------------------------------------------------------------------------------------------------------

PRICES = (
    *("--executor_input_usd_per_mtok", "1", "--executor_output_usd_per_mtok", "2", "--executor_max_tokens", "500"),
)
SMALL_RUN = ("--max_steps", "10", "--num_eval_problems", "30", "--warm_start", "false", "--collapse_guard", "off")


def test_estimate_prints_calls_and_usd_before_anything_is_spent() -> None:
    result = aflow("estimate", "quickstart.yaml", *SMALL_RUN, *PRICES)
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


def phases(*flags: str) -> dict[str, Phase]:
    return {phase.name: phase for phase in estimate(load_recipe(["quickstart.yaml", *SMALL_RUN, *PRICES, *flags]))}


@pytest.fixture(scope="module")
def plain_phases() -> dict[str, Phase]:
    return phases()


def test_estimate_counts_the_search_and_the_probes(plain_phases: dict[str, Phase]) -> None:
    warm_start = '{"max_calls": 5000, "winners": 2}'
    flags = ("--max_steps", "20", "--probe_problems", "8", "--warm_start", warm_start, "--collapse_guard", "stop")
    counted = phases(*flags)
    assert set(counted) - set(plain_phases) == {"warm start", "probes"}
    assert counted["evaluation"].completions == 30 * (2 + 8 + 1 + 2) and counted["probes"].completions == 8 * 3
    assert counted["warm start"].expected_calls == 5_000 and counted["run"].expected_calls > 5_000


def test_estimate_pays_the_separate_executor_of_an_operator(plain_phases: dict[str, Phase]) -> None:
    dear = {"executor_model": "dear", "executor_input_usd_per_mtok": 100.0, "executor_output_usd_per_mtok": 100.0}
    counted = phases("--models", json.dumps({"Review": dear}))
    for name, phase in plain_phases.items():
        assert counted[name].expected_calls == phase.expected_calls
        for field in ("low_usd", "expected_usd", "worst_usd"):
            assert getattr(counted[name], field) > 2 * getattr(phase, field)


def test_estimate_without_the_price_of_a_separate_executor_is_unknown(plain_phases: dict[str, Phase]) -> None:
    counted = phases("--models", '{"Review": {"executor_model": "no-price", "executor_base_url": "http://h/v1"}}')
    assert plain_phases["run"].worst_usd is not None
    assert counted["run"].expected_usd is None and counted["run"].worst_usd is None


def test_estimate_counts_the_calls_of_the_judge(plain_phases: dict[str, Phase]) -> None:
    counted = phases("--judge_domains", "math", "qa")
    judge = counted["judge"]
    completions = plain_phases["run"].completions
    assert 0 < judge.low_calls <= judge.expected_calls <= judge.worst_calls <= completions
    assert judge.expected_usd is not None and judge.expected_usd > 0
    assert counted["run"].expected_calls == pytest.approx(plain_phases["run"].expected_calls + judge.expected_calls)
    assert counted["run"].expected_usd == pytest.approx(plain_phases["run"].expected_usd + judge.expected_usd)


def test_estimate_of_improving_counts_both_workflows_of_a_gain() -> None:
    flags = ("--max_steps", "2", "--num_records", "8", "--problems_per_gain", "3", "--num_generations", "4")
    recipe = load_recipe(
        ["improve-quickstart.yaml", *flags, "--per_device_train_batch_size", "8", "--use_cpu", "true"]
    )
    phases = {phase.name: phase for phase in estimate(recipe)}
    # 8 workflows to train on and 6 held out; 16 new workflows and the 4 they are compared with; all twice at the end.
    counts = {name: phases[name].completions for name in ("workflows to improve", "training", "evaluation")}
    assert counts == {"workflows to improve": 14 * 3, "training": 20 * 3, "evaluation": 2 * 2 * 6 * 3}
    assert phases["run"].expected_calls > 0


def test_estimate_of_reasoning_calls_nobody() -> None:
    result = aflow("estimate", "reason-quickstart.yaml", "--max_steps", "2")
    assert result.returncode == 0 and "the policy answers itself" in result.stdout
    recipe = load_recipe(["reason-quickstart.yaml", "--max_steps", "2", "--use_cpu", "true", "--bf16", "false"])
    assert {phase.expected_calls for phase in estimate(recipe)} == {0.0}


def test_estimate_says_that_a_price_is_unknown() -> None:
    local = ("--executor_base_url", "http://localhost:9/v1", "--executor_input_usd_per_mtok", "null")
    result = aflow("estimate", "a100-80gb.yaml", *local, "--train_data", "synthetic", "--eval_data", "synthetic")
    assert result.returncode == 0 and "unknown" in result.stdout, result.stderr


# -- bad recipes: each is refused before anything is loaded ------------------------------------------------------------

BAD_RECIPES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("unknown key", {"num_generation": 8}, ["num_generation", "num_generations"]),
    ("unknown operator", {"operators": ["Custom", "Solver"]}, ["Solver", "Available operators"]),
    ("K does not divide", {"num_generations": 7}, ["num_generations", "7"]),
    ("unknown estimator", {"advantage_estimator": "ppo"}, ["ppo", "wa_grpo"]),
    ("unknown reward", {"reward_funcs": ["speed_reward"]}, ["speed_reward", "correctness_reward"]),
    ("weights do not fit", {"reward_weights": [1.0]}, ["reward_weights", "5 reward functions"]),
    ("unknown prompt", {"policy_prompt": "short"}, ["short", "compact"]),
    ("unquoted workflow", {"baseline_workflows": [{"Review ? Revise": "done"}]}, ["quotes"]),
    ("wrong workflow", {"baseline_workflows": ["Custom -> Solve"]}, ["unknown_operator", "Solve"]),
    ("missing operator module", {"operator_modules": ["no_such_module"]}, ["no_such_module", "path of a .py file"]),
    ("missing data", {"train_data": "none.jsonl"}, ["none.jsonl", "does not exist"]),
    (
        "no key",
        {"executor_base_url": "https://executor.invalid/v1", "executor_api_key_env": "NO_KEY"},
        ["NO_KEY", "Export"],
    ),
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


@pytest.mark.parametrize(("name", "changes", "texts"), BAD_RECIPES, ids=[row[0] for row in BAD_RECIPES])
def test_bad_recipe_is_refused_early_with_value_and_remedy(
    name: str, changes: dict[str, Any], texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AFLOW_TRL_CACHE", str(tmp_path / "cache"))
    result = aflow(write_recipe(tmp_path, **changes), command=train)
    assert result.returncode == 2
    assert all(text in result.stderr for text in texts), result.stderr[-600:]
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "cache").exists() and not (tmp_path / "run").exists(), "nothing was built or written"


def test_bad_row_is_refused_with_file_line_and_field(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "q", "answer": "1"}\n{"question": "q2"}\n')
    result = aflow(write_recipe(tmp_path, train_data=str(tmp_path / "rows.jsonl")), command=train)
    assert result.returncode == 2
    assert "rows.jsonl, line 2" in result.stderr and "'answer'" in result.stderr


def test_problem_in_both_splits_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "q", "answer": "1"}\n')
    data = str(tmp_path / "rows.jsonl")
    result = aflow(write_recipe(tmp_path, train_data=data, eval_data=data), command=train)
    assert result.returncode == 2 and "held-out problems are training problems" in result.stderr


def test_unknown_recipe_names_those_that_ship() -> None:
    result = aflow("train", "fastest.yaml")
    assert result.returncode == 2 and "quickstart.yaml" in result.stderr


# -- a run from start to end -------------------------------------------------------------------------------------------

SHORT = {
    "max_steps": 2,
    "per_device_train_batch_size": 16,
    "num_eval_problems": 9,
    "num_train_problems": 60,
    "baseline_workflows": ["Programmer"],
    "logging_steps": 1,
    "warm_start": None,
    "probe_problems": 4,
    "eval_strategy": "steps",
    "eval_steps": 2,
}


@dataclass
class ShortRuns:
    """Two runs of one recipe in one folder: the first as a process, the second in this one."""

    recipe: str
    output_dir: Path
    outputs: list[subprocess.CompletedProcess[str]]
    summaries: list[dict[str, Any]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> ShortRuns:
    folder = tmp_path_factory.mktemp("short-run")
    recipe, output_dir = write_recipe(folder, **SHORT), folder / "run"
    outputs, summaries = [], []
    for start in (lambda: python("aflow_trl.train", recipe), lambda: aflow(recipe, command=train)):
        outputs.append(start())
        assert outputs[-1].returncode == 0, outputs[-1].stderr[-2000:]
        summaries.append(json.loads((output_dir / "summary.json").read_text()))
    return ShortRuns(recipe, output_dir, outputs, summaries)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_summary(runs: ShortRuns) -> None:
    first, second = (
        {key: value for key, value in s.items() if key not in ("wall_s", "seconds")} for s in runs.summaries
    )
    assert first == second


@pytest.mark.slow
def test_a_run_writes_adapter_traces_and_plots(runs: ShortRuns) -> None:
    names = {path.name for path in runs.output_dir.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= names
    assert {"traces.jsonl.gz", "rewards.jsonl.gz", "replay_settings.json", "README.md"} <= names
    assert is_drawn(runs.output_dir / "learning_curve.png") and is_drawn(runs.output_dir / "frontier.png")


@pytest.mark.slow
def test_eval_strategy_evaluates_the_held_out_problems_in_training(runs: ShortRuns) -> None:
    evaluated = [item.rollout for item in read_traces(runs.output_dir / trace_name(0)) if item.phase == EVAL]
    statements = {rollout.trace.problem.statement for rollout in evaluated}
    assert len(statements) == SHORT["num_eval_problems"]
    assert len(evaluated) % SHORT["num_eval_problems"] == 0


@pytest.mark.slow
def test_a_summary_says_what_the_run_reached_and_what_it_cost(runs: ShortRuns) -> None:
    summary = runs.summaries[0]
    for name in ("untrained", "custom", "best_fixed", "trained"):
        assert {"mean", "low", "high", "n", "calls_per_problem"} <= set(summary["accuracy"][name])
    assert {"valid_share", "wall_s", "model_calls", "usd", "seed", "versions"} <= set(summary)
    assert summary["accuracy"]["custom"]["calls_per_problem"] == 1.0


@pytest.mark.slow
def test_a_run_reports_sandbox_progress_and_results(runs: ShortRuns) -> None:
    tier = runs.summaries[0]["sandbox"]["tier"]
    assert tier in ("A", "B")
    for output in runs.outputs:
        assert f"sandbox: tier {tier}" in output.stdout
        assert "step    2/2" in output.stdout and "Held-out accuracy" in output.stdout


@pytest.mark.slow
def test_a_fresh_run_sets_the_traces_of_an_earlier_one_aside(runs: ShortRuns) -> None:
    earlier = runs.output_dir / "earlier-1"
    assert f"is now in {earlier}" in runs.outputs[1].stdout and "is now in" not in runs.outputs[0].stdout
    assert {"traces.jsonl.gz", "rewards.jsonl.gz", "summary.json", "run.json"} <= {
        path.name for path in earlier.iterdir()
    }
    phases = [[item.phase for item in read_traces(d / "traces.jsonl.gz")] for d in (earlier, runs.output_dir)]
    assert phases[0] == phases[1], "one run in each file"


@pytest.mark.slow
def test_a_strict_parser_reads_every_json_file_of_a_run(runs: ShortRuns) -> None:
    contents = read_strictly(runs.output_dir)
    assert contents["summary.json"] == runs.summaries[1]
    assert len(contents["rewards.jsonl.gz"]) == 2


@pytest.mark.slow
def test_the_model_card_shows_recipe_and_results(runs: ShortRuns) -> None:
    card = (runs.output_dir / "README.md").read_text()
    assert "Programmer" in card and "## Recipe" in card and "## Results" in card
    assert "num_train_problems: 60" in card


@pytest.mark.slow
def test_the_model_card_is_valid_metadata_with_intervals(runs: ShortRuns) -> None:
    card = ModelCard.load(runs.output_dir / "README.md")
    accuracy = runs.summaries[1]["accuracy"]["trained"]
    (result,) = card.data.eval_results
    assert result.metric_value == pytest.approx(accuracy["mean"], abs=1e-4)
    assert result.metric_args["low"] == pytest.approx(accuracy["low"], abs=1e-4)
    assert card.data.library_name == "peft" and card.data.base_model is None and card.data.license is None
    assert "None" not in card.text.split("```")[0] and str(runs.output_dir.parent) not in card.content


@pytest.mark.slow
def test_the_usage_of_the_model_card_runs(
    runs: ShortRuns, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(runs.output_dir.parent)
    card = (runs.output_dir / "README.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(snippet, {})
    assert capsys.readouterr().out


@pytest.mark.slow
def test_a_replay_changes_nothing(runs: ShortRuns) -> None:
    result = aflow("replay", str(runs.output_dir))
    assert result.returncode == 0 and "largest change of an advantage: 0\n" in result.stdout, result.stderr[-2000:]
    assert re.findall(r"^│ +(\d) │", result.stdout, re.MULTILINE) == ["0", "1"]


@pytest.mark.slow
def test_a_replay_with_another_recipe_shows_its_advantages(runs: ShortRuns, tmp_path: Path) -> None:
    result = aflow("replay", str(runs.output_dir), "--recipe", write_recipe(tmp_path, **SHORT, tie_break_alpha=0.0))
    assert result.returncode == 0 and "advantage: 0\n" not in result.stdout, result.stderr[-2000:]


@pytest.mark.slow
def test_the_trained_policy_answers_a_question(runs: ShortRuns) -> None:
    result = aflow("run", MATH, "--simulated", "--model", str(runs.output_dir), "--json")
    trace = json.loads(result.stdout)
    # Whether the workflow of a policy that was hardly trained succeeds, and leaves an answer, is another question.
    is_answered = trace["outcome"] == "ok" and trace["answer"].strip()
    assert trace["workflow"] and result.returncode == (0 if is_answered else 1), result.stderr[-2000:]


@pytest.mark.slow
def test_evaluation_at_temperature_0_is_greedy(runs: ShortRuns, tmp_path: Path) -> None:
    def workflows(temperature: str) -> list[list[str]]:
        out = tmp_path / temperature
        command = ["eval", "synthetic", "--model", str(runs.output_dir), "--workflow", "Custom", "--limit", "6"]
        result = aflow(*command, "--seeds", "0", "1", "--temperature", temperature, "--out", str(out))
        assert result.returncode == 0, result.stderr[-2000:]
        by_seed = {0: [], 1: []}
        for path, rows in read_strictly(out / "test").items():
            seed = int(path.removesuffix(".jsonl")[-1])
            by_seed[seed].append([row["workflow"] for row in rows])
        assert len(by_seed[0]) == len(by_seed[1]) > 4
        return [sorted(texts) for texts in by_seed.values()]

    first, second = workflows("0")
    # All systems but the random one decode the same for both seeds, the policies among them.
    assert sum(texts in second for texts in first) == len(first) - 1
    first, second = workflows("1")
    assert sum(texts in second for texts in first) == len(first) - 3


@pytest.fixture
def revocable_endpoint() -> Iterator[tuple[str, threading.Event]]:
    """An endpoint that answers at first and later refuses the key, as long as the event is set."""
    app, revoked = SimulatedApp(), threading.Event()
    revoked.set()

    async def chat(request: web.Request) -> web.Response:
        if app.calls > 110 and revoked.is_set():
            return web.json_response({"error": {"message": "key revoked", "code": "invalid_api_key"}}, status=401)
        status, body = await app.respond(await request.json())
        return web.json_response(body, status=status)

    with chat_endpoint(chat) as port:
        yield f"http://127.0.0.1:{port}/v1", revoked


@pytest.mark.slow
def test_a_run_stops_with_a_checkpoint_when_the_key_is_revoked_and_resumes_from_it(
    revocable_endpoint: tuple[str, threading.Event], tmp_path: Path
) -> None:
    base_url, revoked = revocable_endpoint
    changes = SHORT | {
        "executor_base_url": base_url,
        "executor_api_key_env": "AFLOW_TEST_KEY",
        "num_eval_problems": 6,
        "max_steps": 4,
        "collapse_guard": "off",
        "save_strategy": "steps",
        "save_steps": 100,
    }
    recipe = write_recipe(tmp_path, **changes)
    stopped = aflow(recipe, command=train)
    assert stopped.returncode == EXIT_STOPPED, stopped.stderr[-2000:]
    (adapter,) = (tmp_path / "run").glob("checkpoint-*/adapter_model.safetensors")
    assert "key revoked" in stopped.stdout and f"saved in {adapter.parent}" in stopped.stdout
    finished = int(adapter.parent.name.split("-")[1])
    assert finished < 4
    revoked.clear()
    resumed = aflow(recipe, "--resume", command=train)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    steps = re.findall(r"^step +(\d+)/4", resumed.stdout, re.MULTILINE)
    assert [int(step) for step in steps] == list(range(finished + 1, 5)), resumed.stdout
    planted = os.environ["AFLOW_TEST_KEY"]
    texts = [path.read_text(errors="replace") for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not any(planted in text for text in [stopped.stdout, stopped.stderr, *texts])
