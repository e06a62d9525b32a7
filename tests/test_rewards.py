"""Reward functions: one execution for all five, truthful values, columns and metrics."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from aflow_trl.engine import Engine
from aflow_trl.errors import RecipeError, ScorerError
from aflow_trl.operators import DEFAULT_OPERATORS
from aflow_trl.rewards import DEFAULT_WEIGHTS, workflow_rewards
from aflow_trl.rollouts import RolloutBatch, Rollouts, execution_metrics
from aflow_trl.simulator import recognize
from conftest import ScriptedEndpoint, operator_script

GOOD = "<feedback>fine</feedback><verdict>correct</verdict>"
COLUMNS: dict[str, Any] = {"question": "What is 6 * 7?", "answer": ["42"], "domain": "math"}


async def test_rows_that_ask_the_same_and_want_different_things_are_scored_apart(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = lambda prompt, number: "The answer is 42."
    rows = [{"question": "What is 6 * 7?", "answer": [gold], "domain": "math"} for gold in ("42", "41", "42")]
    scored = await Rollouts(endpoint.engine()).execute(["Custom"] * 3, rows, salt="s", phase="", step=0)
    assert [one.correctness for one in scored] == [1.0, 0.0, 1.0]


async def rewards_of(
    endpoint: ScriptedEndpoint, completions: list[str], *, columns: dict[str, Any] | None = None, **options: Any
) -> dict[str, list[float | None]]:
    rollouts = Rollouts(endpoint.engine(), **options)
    wrapped = [[{"role": "assistant", "content": text}] for text in completions]
    repeated = {name: [value] * len(completions) for name, value in (COLUMNS | (columns or {})).items()}
    functions = workflow_rewards(rollouts)
    return {f.__name__: await f(prompts=[""] * len(wrapped), completions=wrapped, **repeated) for f in functions}


async def test_five_functions_share_one_execution(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(Custom="42", Review=GOOD)
    values = await rewards_of(endpoint, ["<workflow>Custom -> Review</workflow>"])
    assert list(values) == list(DEFAULT_WEIGHTS)
    assert len(endpoint.payloads) == 2


async def test_right_answer_earns_and_wrong_does_not(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = lambda prompt, number: "42" if recognize(prompt)[0] == "Custom" else GOOD.replace("c", "x")
    values = await rewards_of(endpoint, ["Custom", "nonsense"])
    assert values["correctness_reward"] == [1.0, 0.0]
    assert values["format_reward"] == [1.0, 0.0]


async def test_secondary_rewards_count_only_where_the_answer_is_right(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(Custom="41")
    gated = await rewards_of(endpoint, ["Custom"])
    assert {name: value[0] for name, value in gated.items()} == dict.fromkeys(DEFAULT_WEIGHTS, 0.0)
    free = await rewards_of(endpoint, ["Custom"], gate_secondary=False)
    assert free["correctness_reward"] == [0.0] and free["efficiency_reward"][0] > 0.9


async def test_cheap_wrong_never_outranks_costly_right(endpoint: ScriptedEndpoint) -> None:
    def script(prompt: str, number: int) -> str:
        name, _ = recognize(prompt)
        return {"Custom": "41", "Review": GOOD, "Revise": "<solution>42</solution>"}[name]

    endpoint.script = script
    costly = "Custom -> Review -> Revise -> Review -> Revise -> Review -> Revise -> Review -> Revise"
    values = await rewards_of(endpoint, ["Custom", costly])
    total = [sum(DEFAULT_WEIGHTS[name] * value[i] for name, value in values.items()) for i in range(2)]
    assert total[1] > total[0] == 0


async def test_cheaper_simpler_cleaner_right_answers_earn_more(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(Custom="42", Review=GOOD, Format="<answer>42</answer>")
    completions = ["Custom", "custom", "Custom -> Review", "Custom -> Format -> Format", "(Custom -> Review) * 2"]
    values = await rewards_of(endpoint, completions)
    assert values["correctness_reward"] == [1.0] * 5
    assert values["efficiency_reward"][0] > values["efficiency_reward"][2] > values["efficiency_reward"][4]
    assert values["simplicity_reward"][0] > values["simplicity_reward"][2] > values["simplicity_reward"][4]
    assert values["format_reward"][:2] == [1.0, 0.5]
    assert values["repetition_reward"][3] < values["repetition_reward"][2] == 1.0


async def test_infrastructure_failure_is_none_for_every_function(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = lambda prompt, number: web.Response(status=503)
    rollouts = Rollouts(Engine(endpoint.client(executor_call_timeout_s=0.3)))
    columns = {name: [value] for name, value in COLUMNS.items()}
    completions = ["Custom"]
    for function in workflow_rewards(rollouts):
        assert await function(prompts=[""], completions=completions, **columns) == [None]
    assert rollouts.totals["unscored"] == 1


@pytest.mark.parametrize("kind", [ScorerError, SyntaxError, ValueError])
async def test_broken_scorer_is_none_not_zero(
    kind: type[Exception], endpoint: ScriptedEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aflow_trl.rollouts import service as module

    async def broken(*_: Any, **__: Any) -> None:
        raise kind("the scorer broke")

    monkeypatch.setattr(module, "score_answer", broken)
    endpoint.script = operator_script(Custom="42")
    assert (await rewards_of(endpoint, ["Custom"]))["correctness_reward"] == [None]


async def test_quantised_correctness(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(Custom="41")
    assert (await rewards_of(endpoint, ["Custom"], quantize_correctness=True))["correctness_reward"] == [0.2]


async def test_equal_workflows_earn_equal_rewards(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = lambda prompt, number: str(40 + number % 3)
    values = await rewards_of(endpoint, ["Custom -> Custom", "<workflow>(Custom)->Custom</workflow>"])
    assert all(first == second for first, second in values.values())


async def test_hidden_tests_reach_no_prompt(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = lambda prompt, number: "```python\ndef f(x): return 0\n```"
    code = {
        "question": "Write f.",
        "answer": [],
        "domain": "code",
        "entry_point": "f",
        "public_tests": ["assert f(1) == 1"],
        "hidden_tests": ["assert f(123456789) == 987654321"],
    }
    values = await rewards_of(endpoint, ["CustomCodeGenerate -> Test", "Programmer -> Test"], columns=code)
    assert values["correctness_reward"] == [0.0, 0.0]
    assert "assert f(1) == 1" in "".join(endpoint.prompts)
    assert "987654321" not in json.dumps(endpoint.payloads)


SPY = """
import gc, os, sys
def f(x):
    seen = [dict(os.environ), sys.argv, [o for o in gc.get_objects() if isinstance(o, (str, dict, list, tuple))]]
    raise ValueError(str(seen)[-100_000:])
def solve():
    return f(0)
print(f(0))
"""


@pytest.mark.parametrize("operator", sorted(DEFAULT_OPERATORS.vocabulary))
async def test_no_operator_shows_a_hidden_test_or_the_gold_to_anybody(
    operator: str, endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    """Prompts, traces, logged columns, and what a program of the executor finds in its process and environment."""
    endpoint.script = lambda prompt, number: f"<thought>x</thought>```python\n{SPY}\n```"
    secrets = ("hidden-secret", "gold-secret")
    row = {
        "question": "Write f.",
        "answer": [secrets[1]],
        "domain": "code",
        "entry_point": "f",
        "public_tests": ["assert f(1) == 1"],
        "hidden_tests": [f"assert f('{secrets[0]}') == 1"],
    }
    columns = {name: [value] for name, value in row.items()}
    rollouts = Rollouts(endpoint.engine(), trace_path=tmp_path / "traces.jsonl")
    texts = [f"CustomCodeGenerate -> {operator} -> Custom"]
    extras: dict[str, Any] = {}
    values = await workflow_rewards(rollouts)[0](texts, texts, log_extra=extras.__setitem__, **columns)
    assert values == [0.0] and len(endpoint.payloads) >= 2
    traces = (tmp_path / "traces.jsonl").read_text()
    for text in (json.dumps(endpoint.payloads), traces, json.dumps(extras, default=str)):
        assert not any(secret in text for secret in secrets)


async def test_columns_and_metrics_are_logged(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(Custom="42")
    extras: dict[str, list[Any]] = {}
    metrics: dict[str, float] = {}
    rollouts = Rollouts(endpoint.engine())
    completions = ["Custom", "nonsense"]
    columns = {name: [value] * 2 for name, value in COLUMNS.items()}
    (function, *_) = workflow_rewards(rollouts)
    await function(
        prompts=["", ""],
        completions=completions,
        log_extra=extras.__setitem__,
        log_metric=metrics.__setitem__,
        **columns,
    )
    assert extras["rollout/workflow"] == ["Custom", ""] and extras["rollout/outcome"] == ["ok", "invalid"]
    assert extras["rollout/answer"] == ["42", ""] and extras["rollout/model_calls"] == [1, 0]
    assert extras["rollout/usd"][0] == pytest.approx(2e-5)
    expected = {
        "workflows/valid": 0.5,
        "workflows/invalid": 0.5,
        "invalid/unknown_operator": 0.5,
        "workflows/unscored": 0.0,
        "accuracy/all": 0.5,
        "accuracy/math": 0.5,
        "operators/Custom": 0.5,
        "executor/calls": 1.0,
    }
    assert {name: metrics[name] for name in expected} == expected
    assert {"workflows/unique", "workflows/entropy", "executor/usd", "executor/shared", "execution/wall_s"} <= set(
        metrics
    )


async def test_traces_are_appended_as_json_lines(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.script = operator_script(Custom="42")
    await rewards_of(endpoint, ["Custom", "nonsense"], trace_path=tmp_path / "run" / "traces.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "run" / "traces.jsonl").read_text().splitlines()]
    assert [line["correctness"] for line in lines] == [1.0, 0.0]
    assert lines[0]["trace"]["nodes"][0]["text"] == "42"
    assert "sk-planted" not in json.dumps(lines)


async def test_correctness_depends_on_the_response_not_on_a_column(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = lambda prompt, number: "42" if recognize(prompt)[0] == "Custom" else "<answer>7</answer>"
    completions = ["Custom", "Format"]
    for gain in ([0.9, 0.1], [0.1, 0.9]):
        columns = {name: [value] * 2 for name, value in COLUMNS.items()} | {"precomputed_gain": gain}
        (function, *_) = workflow_rewards(Rollouts(endpoint.engine()))
        assert await function(prompts=["", ""], completions=list(completions), **columns) == [1.0, 0.0]


def test_unknown_reward_function_is_told() -> None:
    with pytest.raises(RecipeError, match="speed_reward"):
        workflow_rewards(None, ["speed_reward"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "escaped"), [(ScorerError("the gold fails, too"), 0.0), (ZeroDivisionError("in a scorer"), 1.0)]
)
async def test_rollout_that_an_unforeseen_error_leaves_unscored_is_counted_as_escaped(
    error: Exception, escaped: float, endpoint: ScriptedEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("aflow_trl.rollouts.service.score_answer", failing)
    rollouts = Rollouts(endpoint.engine())
    endpoint.script = lambda prompt, number: "The answer is 42."
    scored = await rollouts.execute(["Custom"], [COLUMNS], salt="", phase="train", step=0)
    assert scored[0].correctness is None
    assert execution_metrics(RolloutBatch(tuple(scored), 0, 1.0, 64))["rewards/escaped"] == escaped


async def test_bound_of_an_execution_counts_the_calls_that_may_be_in_flight_at_once(
    endpoint: ScriptedEndpoint,
) -> None:
    async def slow_reply() -> str:
        await asyncio.sleep(0.1)
        return "42"

    endpoint.script = lambda prompt, number: slow_reply()
    rollouts = Rollouts(Engine(endpoint.client(executor_concurrency=2)))
    rows = [{**COLUMNS, "question": f"question {number}"} for number in range(8)]
    rewards = workflow_rewards(rollouts)[0]
    metrics: dict[str, float] = {}
    texts = ["<workflow>Custom</workflow>"] * 8
    columns = {name: [row[name] for row in rows] for name in COLUMNS}
    await rewards(texts, texts, log_metric=metrics.__setitem__, **columns)
    # Waiting for a slot is no part of the longest workflow.
    assert 0.1 <= metrics["execution/critical_path_s"] < 0.25
    assert 0.4 <= metrics["execution/bound_s"] <= metrics["execution/wall_s"]
