"""Costs come from each reply's own usage, add up by rollout, operator, domain and run, and an unknown one is no zero."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from aflow_trl.engine import Engine
from aflow_trl.llm import CallCache, ExecutorConfig, Price, Usage
from aflow_trl.recipes import load_recipe
from aflow_trl.rollouts import Account, Ledger, Rollouts, trace_name
from aflow_trl.tasks.run_folder import begin_record
from aflow_trl.tasks.session import earlier_rollouts, spent_usd
from conftest import ScriptedEndpoint, chat_response, operator_script

ROWS = [
    {"question": "q1", "answer": ["42"], "domain": "math"},
    {"question": "q1", "answer": ["42"], "domain": "math"},
    {"question": "q2", "answer": ["Paris"], "domain": "qa"},
]
TEXTS = ["Custom -> Review", "Custom -> Review", "Custom"]


async def executed(endpoint: ScriptedEndpoint, **options: Any) -> Rollouts:
    endpoint.script = operator_script(Custom="42", Review="<verdict>correct</verdict><feedback>fine</feedback>")
    rollouts = Rollouts(Engine(endpoint.client(**options)))
    await rollouts.execute(TEXTS, ROWS, salt="s", phase="test", step=0)
    return rollouts


async def test_sums_by_operator_and_domain_are_the_sum_of_the_run(endpoint: ScriptedEndpoint) -> None:
    rollouts = await executed(endpoint)
    ledger, cost = rollouts.ledger, Price(1.0, 2.0).cost(Usage(10, 5))
    assert {name: account.model_calls for name, account in ledger.by_operator.items()} == {"Custom": 2, "Review": 1}
    assert ledger.by_operator["Custom"].shared_calls == 1
    for part in (ledger.by_operator, ledger.by_domain):
        assert sum(account.model_calls for account in part.values()) == len(endpoint.payloads) == 3
        assert sum(account.usd for account in part.values()) == pytest.approx(3 * cost)
    assert rollouts.engine.client.spending.usd == pytest.approx(3 * cost)
    assert ledger.by_domain["qa"].prompt_tokens == 10


async def test_unknown_price_stays_unknown(endpoint: ScriptedEndpoint) -> None:
    rollouts = await executed(endpoint, executor_input_usd_per_mtok=None)
    assert rollouts.ledger.by_domain["math"].usd is None and rollouts.engine.client.spending.usd is None
    assert json.loads(json.dumps(rollouts.ledger.to_json()))["by_operator"]["Custom"]["usd"] is None


async def test_replies_on_disk_are_counted_apart_and_cost_nothing(endpoint: ScriptedEndpoint, tmp_path: Any) -> None:
    endpoint.script = operator_script(Custom="42", Review="<verdict>correct</verdict><feedback>fine</feedback>")
    for _ in range(2):
        rollouts = Rollouts(endpoint.engine())
        rollouts.engine.client.cache = CallCache(tmp_path / "c.sqlite")
        await rollouts.execute(TEXTS, ROWS, salt="s", phase="test", step=0)
    custom = rollouts.ledger.by_operator["Custom"]
    assert (custom.model_calls, custom.cached_calls, custom.usd) == (0, 2, 0.0)


async def record_launch(endpoint: ScriptedEndpoint, folder: Path, **options: Any) -> Rollouts:
    """The traces that a launch of a run leaves in its output folder."""
    endpoint.script = operator_script(Custom="42", Review="<verdict>correct</verdict><feedback>fine</feedback>")
    rollouts = Rollouts(Engine(endpoint.client(**options)), trace_path=folder / trace_name(0))
    await rollouts.execute(TEXTS, ROWS, salt="s", phase="train", step=0)
    return rollouts


async def test_resumed_run_starts_with_what_earlier_launches_spent(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    rollouts = await record_launch(endpoint, tmp_path)
    earlier = earlier_rollouts(
        load_recipe(["quickstart.yaml", "--warm_start", "null", "--resume", "--output_dir", str(tmp_path)])
    )
    assert spent_usd(earlier, Price(1.0, 2.0)) == pytest.approx(rollouts.engine.client.spending.usd)


async def test_fresh_run_sets_earlier_traces_aside_and_has_spent_nothing(
    endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    await record_launch(endpoint, tmp_path)
    recorded = (tmp_path / trace_name(0)).read_bytes()
    recipe = load_recipe(["quickstart.yaml", "--warm_start", "null", "--output_dir", str(tmp_path)])
    earlier = earlier_rollouts(recipe)
    begin_record(recipe)
    assert earlier == [] and not (tmp_path / trace_name(0)).exists()
    assert recorded in [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]


async def test_calls_of_a_time_without_a_price_count_at_the_present_price(
    endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    await record_launch(endpoint, tmp_path, executor_input_usd_per_mtok=None)
    earlier = earlier_rollouts(
        load_recipe(["quickstart.yaml", "--warm_start", "null", "--resume", "--output_dir", str(tmp_path)])
    )
    assert spent_usd(earlier, Price(1.0, 2.0)) == pytest.approx(3 * Price(1.0, 2.0).cost(Usage(10, 5)))
    assert spent_usd(earlier, Price(None, None)) is None


async def test_ledgers_of_processes_add_up(endpoint: ScriptedEndpoint) -> None:
    own = (await executed(endpoint)).ledger
    total = Ledger.sum([own, own, Ledger(by_domain={"code": Account(model_calls=1)})])
    assert total.by_operator["Custom"].model_calls == 4 and total.by_domain["code"].model_calls == 1
    assert own.by_operator["Custom"].model_calls == 2, "the parts are left as they were"


async def test_cached_prompt_tokens_have_their_own_price(endpoint: ScriptedEndpoint) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 600}}
    endpoint.script = lambda prompt, number: chat_response("x", usage=usage)
    client = endpoint.client(executor_cached_usd_per_mtok=0.5)
    await client.complete([{"role": "user", "content": "hello"}], seed=0)
    assert client.spending.usd == pytest.approx((400 * 1.0 + 600 * 0.5 + 10 * 2.0) / 1e6)


@pytest.mark.parametrize("cached", [None, "many", -5, 5000, [], {}])
async def test_nonsense_about_cached_tokens_is_no_discount_below_the_truth(
    cached: Any, endpoint: ScriptedEndpoint
) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": cached}}
    endpoint.script = lambda prompt, number: chat_response("x", usage=usage)
    completion = await endpoint.client().complete([{"role": "user", "content": "hello"}], seed=0)
    assert 0 <= completion.usage.cached_tokens <= completion.usage.prompt_tokens == 100


@pytest.mark.parametrize(
    ("options", "price"),
    [
        ({"executor_model": "gpt-4o-mini"}, Price(0.15, 0.60, 0.075)),
        ({"executor_model": "gpt-4o-mini-2024-07-18"}, Price(0.15, 0.60, 0.075)),
        ({"executor_model": "gpt-4o-mini", "executor_output_usd_per_mtok": 0.7}, Price(0.15, 0.7, 0.075)),
        ({"executor_model": "gpt-4o-mini", "executor_input_usd_per_mtok": 0.0}, Price(0.0, 0.60, 0.075)),
        ({"executor_model": "no-such-model"}, Price(None, None)),
        ({"executor_model": "gpt-4o-mini", "executor_base_url": "http://localhost:8000/v1"}, Price(None, None)),
    ],
)
def test_price_is_the_given_one_else_the_list_price_else_unknown(options: dict[str, Any], price: Price) -> None:
    assert ExecutorConfig(**options).price == price


async def test_missing_usage_moves_the_budget_all_the_same(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = lambda prompt, number: web.json_response({"choices": [{"message": {"content": "x" * 400}}]})
    client = endpoint.client()
    await client.complete([{"role": "user", "content": "y" * 400}], seed=0)
    assert client.spending.usd == pytest.approx((100 * 1.0 + 100 * 2.0) / 1e6)
