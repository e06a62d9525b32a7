"""The reward of an improved workflow: measured live, on the same problems with the same executor randomness."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from aflow_trl.data import PolicyPrompt, synthetic_rows
from aflow_trl.engine import Engine
from aflow_trl.improvement import Attempt, Failure, Improvement, improvement_messages, write_improvements
from aflow_trl.operators import DEFAULT_OPERATORS
from aflow_trl.rewards import Gain, Improvements, improvement_rewards
from aflow_trl.rollouts import Rollouts
from aflow_trl.simulator import simulated_client
from aflow_trl.tasks.improve import improvement_dataset
from aflow_trl.train import main as train
from command_line import aflow, is_drawn, read_strictly
from conftest import ScriptedEndpoint, chat_response

ROOT = Path(__file__).parent.parent
ROWS = list(itertools.islice(synthetic_rows(3, "train"), 90))
PROBLEMS = {name: [row.columns() for row in ROWS if row.domain == name] for name in ("math", "code", "qa")}


def simulated(share: str = "step") -> Engine:
    return Engine(simulated_client(), share=share)


def improvements(engine: Engine | None = None, count: int = 12, **options: Any) -> Improvements:
    return Improvements(Rollouts(engine or simulated()), PROBLEMS, count, **options)


async def rewards(
    texts: list[str], current: list[str], measured: Improvements | None = None, domain: str = "math", **columns: Any
) -> list[float | None]:
    completions = [[{"role": "assistant", "content": f"<workflow>{text}</workflow>"}] for text in texts]
    (function,) = improvement_rewards(measured or improvements(), ["improvement_reward"])
    return await function(
        [""] * len(texts), completions, domain=[domain] * len(texts), parent_workflow=current, **columns
    )


async def test_two_different_responses_get_different_rewards() -> None:
    better, worse = await rewards(["Programmer", "CustomCodeGenerate"], ["Custom", "Custom"])
    assert better is not None and worse is not None and better > 0 > worse


async def test_a_precomputed_gain_changes_nothing() -> None:
    texts, current = ["Programmer", "Review", "Custom -> Review ? Revise : done"], ["Custom"] * 3
    gains = [0.5, -0.25, 0.125]
    in_order = await rewards(texts, current, performance_gain=gains)
    shuffled = await rewards(texts, current, performance_gain=gains[::-1])
    assert in_order == shuffled == await rewards(texts, current)


@pytest.mark.parametrize("share", ["step", "off"])
@pytest.mark.parametrize("text", ["[Custom, Custom] -> ScEnsemble", "[Custom,Custom]->ScEnsemble"])
async def test_an_unchanged_workflow_earns_exactly_zero(text: str, share: str) -> None:
    current = "[Custom, Custom] -> ScEnsemble"
    assert await rewards([text], [current], improvements(simulated(share)), domain="qa") == [0.0]


@settings(max_examples=12, deadline=None)
@given(pair=st.lists(st.sampled_from(["Custom", "Programmer", "AnswerGenerate", "Review"]), min_size=2, max_size=2))
async def test_there_and_back_again_adds_up_to_zero(pair: list[str]) -> None:
    there, back = await rewards(pair, pair[::-1], improvements(reward_clip=100.0))
    assert there is not None and back is not None and there + back == pytest.approx(0.0, abs=1e-9)


async def test_invalid_text_loses_what_the_current_workflow_had() -> None:
    measured = improvements(reward_clip=100.0)
    (lost,) = await rewards(["Custom -> ("], ["Programmer"], measured)
    (gain,) = await measured.measure(["Custom -> ("], ["math"], ["Programmer"], salt="0 0", phase="", step=0)
    assert lost is not None and lost < 0 and lost == pytest.approx(10 * gain.value)
    assert gain.value == -sum(rollout.correctness for rollout in gain.current) / len(gain.current)


async def test_rewards_are_scaled_and_clamped() -> None:
    measured = improvements(reward_scale=10.0, reward_clip=2.0)
    assert [measured.reward(value) for value in (0.1, 0.5, -0.5, 0.0, None)] == [1.0, 2.0, -2.0, 0.0, None]


def questions(gain: Gain) -> tuple[str, ...]:
    return tuple(rollout.trace.problem.question for rollout in gain.new)


async def test_all_workflows_of_a_domain_meet_the_same_problems() -> None:
    measured = improvements(count=4)
    gains = await measured.measure(
        ["Custom", "Programmer", "Review"], ["math"] * 3, ["Format"] * 3, salt="s", phase="", step=0
    )
    samples = {questions(gain) for gain in gains}
    assert len(samples) == 1 and len(next(iter(samples))) == 4
    later = await measured.measure(["Custom"], ["math"], ["Format"], salt="t", phase="", step=1)
    assert questions(later[0]) not in samples


async def test_an_evaluation_draws_problems_for_each_workflow_independently() -> None:
    measured = improvements(count=3)
    gains = await measured.measure(
        ["Custom"] * 3, ["math"] * 3, ["Format"] * 3, draws=["a", "b", "a"], salt="s", phase="", step=0
    )
    samples = [questions(gain) for gain in gains]
    assert samples[0] == samples[2] != samples[1]


async def test_a_failing_endpoint_leaves_the_reward_unscored(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = lambda prompt, number: web.Response(status=500)
    measured = improvements(endpoint.engine_of_short_calls(), count=2)
    assert await rewards(["Programmer"], ["Custom"], measured) == [None]


async def test_a_problem_that_either_workflow_lost_does_not_count(endpoint: ScriptedEndpoint) -> None:
    def script(prompt: str, number: int) -> Any:
        return web.Response(status=500) if "Review" in prompt or "verdict" in prompt else chat_response("no idea")

    endpoint.script = script
    measured = improvements(endpoint.engine_of_short_calls(), count=2)
    (gain,) = await measured.measure(["Custom -> Review"], ["math"], ["Custom"], salt="", phase="", step=0)
    assert gain.value is None and measured.reward(gain.value) is None


CUSTOM_ONLY = DEFAULT_OPERATORS.select(["Custom"])
RECORD = Improvement(
    "math",
    "Custom -> Review",
    0.25,
    (Failure("What is 6 * 7?", "41", "42"),),
    (Attempt("Programmer", 0.5),),
    child_workflow="Format",
    child_score=0.9,
)


@pytest.mark.parametrize("prompt", ["full", "compact"])
def test_the_prompt_holds_task_workflow_score_failures_and_experience(prompt: str) -> None:
    text = improvement_messages(RECORD, PolicyPrompt(prompt, CUSTOM_ONLY))[-1]["content"]
    for part in ("math", "Custom -> Review", "0.250", "6 * 7", "41", "42", "Programmer", "+0.500"):
        assert part in text
    assert "Format" not in text and "0.9" not in text, "the result of the attempt is not shown"


def test_braces_in_a_failure_are_not_filled_in() -> None:
    record = Improvement("math", "Custom", 0.5, (Failure("What is {experience}?", "{score}", "7"),))
    text = improvement_messages(record, PolicyPrompt("full", CUSTOM_ONLY))[-1]["content"]
    assert "What is {experience}?" in text and "'{score}'" in text


def test_the_dataset_carries_the_gain_for_analysis_only() -> None:
    (row,) = improvement_dataset([RECORD], PolicyPrompt("compact", CUSTOM_ONLY))
    assert row["performance_gain"] == pytest.approx(0.65)
    assert "Format" not in json.dumps(row["prompt"])


SHORT = {
    "max_steps": 2,
    "per_device_train_batch_size": 8,
    "num_train_problems": 30,
    "num_eval_problems": 30,
    "problems_per_gain": 2,
    "num_records": 8,
    "use_peft": False,
    "max_completion_length": 8,
}


def run(model: Path, folder: Path, **changes: Any) -> subprocess.CompletedProcess[str]:
    recipe = yaml.safe_load((ROOT / "recipes" / "improve-quickstart.yaml").read_text())
    recipe |= {"model_name_or_path": str(model), "output_dir": str(folder / "run")} | SHORT | changes
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return aflow(str(folder / "recipe.yaml"), command=train)


@pytest.mark.slow
def test_a_run_on_sampled_workflows_writes_its_results(tiny_model: Path, tmp_path: Path) -> None:
    finished = run(tiny_model, tmp_path)
    assert finished.returncode == 0, finished.stderr[-2000:]
    summary = read_strictly(tmp_path / "run")["summary.json"]
    assert summary["records"]["train"] == 8 and summary["gain"]["trained"]["n"] > 0
    assert summary["recipe"]["task"] == "improve" and "Gain on held-out workflows" in finished.stdout
    assert is_drawn(tmp_path / "run" / "learning_curve.png")
    assert "improv" in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.slow
def test_a_run_on_imported_records_holds_some_out(tiny_model: Path, tmp_path: Path) -> None:
    records = [Improvement("math", text, 0.5) for text in ("Custom", "Programmer", "Review", "Custom -> Format")]
    write_improvements(tmp_path / "records.jsonl", records, CUSTOM_ONLY)
    finished = run(tiny_model, tmp_path, improvement_records=str(tmp_path / "records.jsonl"), domains=["math"])
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["records"] == {"train": 3, "held_out": 1}


def test_a_single_workflow_is_not_enough(tiny_model: Path, tmp_path: Path) -> None:
    write_improvements(tmp_path / "r.jsonl", [RECORD], CUSTOM_ONLY)
    refused = run(tiny_model, tmp_path, improvement_records=str(tmp_path / "r.jsonl"))
    assert refused.returncode == 2 and "hold out" in refused.stderr and not (tmp_path / "run").exists()
