"""Workflows that name their models: language, execution, accounts, recipes."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aflow_trl import run
from aflow_trl.cli.main import build_parser
from aflow_trl.cli.options import executor_engine
from aflow_trl.dsl import Operator as Call
from aflow_trl.dsl import (
    analyze,
    extract,
    format_workflow,
    parse,
    sample_workflow,
    walk,
    workflow_regex,
    workflow_templates,
    worst_case_cost,
)
from aflow_trl.engine import Engine, RolloutRequest
from aflow_trl.errors import DSLError, RecipeError
from aflow_trl.export import to_aflow, to_python
from aflow_trl.llm import ExecutorConfig, further_executors
from aflow_trl.operators import DEFAULT_OPERATORS, Problem
from aflow_trl.recipes import estimate, load_recipe
from aflow_trl.rollouts import Ledger, Rollouts
from command_line import aflow
from conftest import ScriptedEndpoint

OPERATORS = DEFAULT_OPERATORS.with_models(["strong", "cheap-1.5"])
VOCABULARY = OPERATORS.vocabulary
MODELS = '{"strong": {"executor_model": "gpt-4o"}}'


# -- the language ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000))
def test_sampled_workflows_survive_their_canonical_form(seed: int) -> None:
    workflow = sample_workflow(random.Random(seed), vocabulary=VOCABULARY)
    assert parse(format_workflow(workflow), vocabulary=VOCABULARY) == workflow


def test_random_workflows_name_every_model() -> None:
    rng = random.Random(0)
    texts = " ".join(format_workflow(sample_workflow(rng, vocabulary=VOCABULARY)) for _ in range(100))
    assert set(re.findall(r'model="([^"]+)"', texts)) == {"strong", "cheap-1.5"}


@pytest.mark.parametrize(
    ("source", "label"),
    [
        ('Review(model="weak")', "unknown_model"),
        ('Review(model="Strong")', "unknown_model"),
        ("Review(model=3)", "wrong_argument_type"),
        ('Review("strong")', "unknown_argument"),
        ('Custom -> Review(modell="strong")', "unknown_argument"),
    ],
)
def test_what_names_no_model_is_an_error(source: str, label: str) -> None:
    with pytest.raises(DSLError) as caught:
        parse(source, vocabulary=VOCABULARY)
    assert caught.value.label == label
    if label == "unknown_model":
        assert "cheap-1.5" in str(caught.value)


def test_without_models_there_is_no_such_argument() -> None:
    with pytest.raises(DSLError, match="takes no argument 'model'"):
        parse('Review(model="strong")')


def test_a_completion_that_names_a_model_is_read() -> None:
    text = '<workflow>Custom(instruction="be brief", model="strong") -> Review(model="cheap-1.5")</workflow>'
    assert extract(text, vocabulary=VOCABULARY).valid and not extract(text).valid


@pytest.mark.parametrize("depth", [1, 2])
def test_the_expression_for_constrained_decoding_matches_what_the_parser_accepts(depth: int) -> None:
    pattern = re.compile(workflow_regex(depth, vocabulary=VOCABULARY, tags=False))
    assert pattern.fullmatch('Custom(instruction="x", model="strong") -> Review(model="cheap-1.5")')
    assert not pattern.fullmatch('Custom(model="weak")') and not pattern.fullmatch('Custom(model="cheap-1x5")')


def test_templates_use_at_most_two_models() -> None:
    templates = workflow_templates(vocabulary=VOCABULARY)
    used = [{node.arguments for node, _ in walk(item.root) if isinstance(node, Call)} for item in templates]
    assert len(set(map(format_workflow, templates))) == len(templates)
    # The ensemble operator behind two models breaks ties with the default one.
    assert max(map(len, used)) <= 3 and {"strong", "cheap-1.5"} <= {
        value for own in used for a in own for _, value in a
    }


def test_the_policy_is_told_of_the_models() -> None:
    assert 'Custom(model="strong")' in OPERATORS.descriptions and "cheap-1.5" in OPERATORS.descriptions
    assert "model" not in DEFAULT_OPERATORS.select(["Custom"]).descriptions


@pytest.mark.parametrize("name", ["Oracle", "a b", "", "Review"])
def test_a_name_that_no_model_can_have_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match="cannot name a model"):
        DEFAULT_OPERATORS.with_models([name])


@given(st.integers(0, 5_000))
def test_the_bound_of_the_cost_is_that_of_the_calls_where_all_cost_one(seed: int) -> None:
    workflow = sample_workflow(random.Random(seed), vocabulary=VOCABULARY)
    calls = analyze(workflow, vocabulary=VOCABULARY).worst_case_calls
    assert worst_case_cost(workflow, {"": 1.0}, vocabulary=VOCABULARY) == calls
    cheaper = worst_case_cost(workflow, {"": 1.0, "strong": 0.5}, vocabulary=VOCABULARY)
    assert calls / 2 <= cheaper <= calls


def test_the_dearer_branch_bounds_the_cost() -> None:
    workflow = parse('Review(model="strong") ? Revise(model="strong") : Custom', vocabulary=VOCABULARY)
    assert worst_case_cost(workflow, {"": 1.0, "strong": 10.0}, vocabulary=VOCABULARY) == 20.0
    assert worst_case_cost(workflow, {"": 30.0, "strong": 10.0}, vocabulary=VOCABULARY) == 40.0


def test_check_says_what_a_workflow_costs_at_most() -> None:
    workflow = 'Custom -> Review(model="strong")'
    flags = ["--models", MODELS, "--base-url", "https://api.openai.com/v1", "--prompt-tokens", "1000"]
    printed = aflow("check", workflow, "--executor", "gpt-4o-mini", *flags).stdout
    # 1,000 tokens of prompt and 1,024 of reply, at 0.15 and 0.6, and at 2.5 and 10 USD per million.
    assert f"{(1000 * 2.65 + 1024 * 10.6) / 1e6:.4f} USD" in printed
    assert "no bound in USD" in aflow("check", workflow, "--executor", "no-such-model", *flags).stdout


# -- execution -------------------------------------------------------------------------------------------------------


def engine_of_two(endpoint: ScriptedEndpoint, **options: object) -> Engine:
    prices = {"executor_input_usd_per_mtok": 10.0, "executor_output_usd_per_mtok": 10.0}
    strong = endpoint.client(executor_model="strong-1", **prices)
    return Engine(endpoint.client(executor_model="weak-1"), models={"strong": strong}, **options)  # type: ignore[arg-type]


async def test_the_named_model_is_called_and_paid(endpoint: ScriptedEndpoint) -> None:
    engine = engine_of_two(endpoint)
    (trace,) = await engine.run([RolloutRequest('Custom -> Custom(model="strong")', Problem("q"))])
    assert [payload["model"] for payload in endpoint.payloads] == ["weak-1", "strong-1"]
    assert [(node.model, node.usd) for node in trace.nodes] == [
        ("weak-1", pytest.approx(20e-6)),
        ("strong-1", pytest.approx(150e-6)),
    ]


async def test_calls_of_two_models_are_never_shared(endpoint: ScriptedEndpoint) -> None:
    engine = engine_of_two(endpoint)
    texts = ["Custom", 'Custom(model="strong")', "Custom", 'Custom(model="strong")']
    traces = await engine.run([RolloutRequest(text, Problem("q")) for text in texts])
    assert sorted(payload["model"] for payload in endpoint.payloads) == ["strong-1", "weak-1"]
    assert [trace.paid_calls for trace in traces] == [1, 1, 0, 0]


async def test_the_prompt_does_not_depend_on_the_model(endpoint: ScriptedEndpoint) -> None:
    engine = engine_of_two(endpoint)
    await engine.run([RolloutRequest('Custom(instruction="x", model="strong")', Problem("q"))])
    assert "strong" not in endpoint.prompts[0] and "Instruction: x" in endpoint.prompts[0]


async def test_the_ledger_has_an_account_for_each_model(endpoint: ScriptedEndpoint) -> None:
    rollouts = Rollouts(engine_of_two(endpoint))
    row = {"question": "q", "answer": ["42"], "domain": "math"}
    await rollouts.execute(['Custom -> Custom(model="strong")'] * 2, [row] * 2, salt="", phase="train", step=0)
    accounts = Ledger.sum([rollouts.ledger]).to_json()["by_model"]
    assert {name: (own["model_calls"], own["shared_calls"]) for name, own in accounts.items()} == {
        "strong-1": (1, 1),
        "weak-1": (1, 1),
    }


# -- recipes ---------------------------------------------------------------------------------------------------------


def test_a_recipe_names_models() -> None:
    own = load_recipe(["quickstart.yaml", "--models", MODELS])
    assert own.operators.models == ("strong",) and own.further_executors["strong"].executor_model == "gpt-4o"


def test_baselines_may_name_models() -> None:
    load_recipe(["quickstart.yaml", "--models", MODELS, "--baseline_workflows", '["Custom(model=\\"strong\\")"]'])
    with pytest.raises(RecipeError, match="unknown model 'weak'"):
        load_recipe(["quickstart.yaml", "--models", MODELS, "--baseline_workflows", '["Custom(model=\\"weak\\")"]'])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--models", '{"Reviews": {"executor_model": "gpt-4o"}}'], "'Reviews' is no operator"),
        (
            ["--models", '{"Review": {"executor_model": "gpt-4o"}}', "--operators", '["Custom"]'],
            "'Review', but operators",
        ),
    ],
)
def test_models_that_cannot_be_meant_are_refused(flags: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(["quickstart.yaml", *flags])


def test_an_estimate_knows_the_price_of_each_model(tmp_path: Path) -> None:
    flags = ["--warm_start", "null", "--output_dir", str(tmp_path), "--baseline_workflows", "[]"]
    dear = '{"strong": {"executor_model": "m", "executor_input_usd_per_mtok": 50, "executor_output_usd_per_mtok": 50}}'
    free, priced = (estimate(load_recipe(["quickstart.yaml", *flags, "--models", text])) for text in ("{}", dear))
    assert free[-1].expected_usd == 0.0 and (priced[-1].expected_usd or 0.0) > 1.0


# -- commands --------------------------------------------------------------------------------------------------------

QUESTION = "Ana has 20 apples. Ana gets 5 more. How many apples does Ana have now?"
SIMULATED_STRONG = '{"strong": {"executor_model": "simulated-strong"}}'


def test_run_and_check_take_models() -> None:
    workflow = 'Custom -> Custom(model="strong")'
    result = aflow("run", QUESTION, "--simulated", "--workflow", workflow, "--models", SIMULATED_STRONG, "--json")
    assert result.returncode == 0, result.stderr
    assert '"simulated-strong"' in result.stdout
    assert aflow("check", workflow, "--models", SIMULATED_STRONG).returncode == 0
    refused = aflow("check", workflow)
    assert refused.returncode != 0 and "takes no argument 'model'" in refused.stderr


@pytest.mark.parametrize("flags", [[], ["--simulated"]])
def test_a_trained_policy_is_run_with_the_models_of_its_training(flags: list[str], tmp_path: Path) -> None:
    elsewhere = {"executor_model": "strong-1", "executor_base_url": "http://127.0.0.1:9/v1"}
    models = {"strong": elsewhere, "Review": {"executor_model": "judge-1"}, "NotLoaded": elsewhere}
    executor = {"executor_base_url": "http://127.0.0.1:8/v1", "executor_model": "weak-1"}
    (tmp_path / "run.json").write_text(json.dumps({"recipe": {"models": models}, "executor": executor}))
    options = build_parser().parse_args(["run", "q", "--model", str(tmp_path), *flags])
    engine = executor_engine(options, DEFAULT_OPERATORS)
    named = {name: client.config for name, client in engine.clients.items() if name}
    assert {name: config.executor_model for name, config in named.items()} == {
        "strong": "strong-1",
        "Review": "judge-1",
    }
    urls = {config.executor_base_url for config in [engine.client.config, *named.values()]}
    assert engine.operators.models == ("strong",)
    assert urls == ({"simulated"} if flags else {"http://127.0.0.1:8/v1", "http://127.0.0.1:9/v1"})


async def test_an_operator_that_is_added_later_is_known(endpoint: ScriptedEndpoint) -> None:
    assert endpoint.engine().operators is DEFAULT_OPERATORS


@pytest.mark.parametrize("text", ["{", "[]", '"strong"'])
def test_models_that_are_no_object_are_refused(text: str) -> None:
    result = aflow("check", "Custom", "--models", text)
    assert result.returncode == 2 and "--models" in result.stderr and "Traceback" not in result.stderr


def test_a_run_from_python_takes_models() -> None:
    executor = ExecutorConfig(executor_base_url="simulated")
    models = {"strong": ExecutorConfig(executor_base_url="simulated", executor_model="simulated-strong")}
    answered = run(QUESTION, executor=executor, workflow='Custom(model="strong")', models=models)
    assert [node.model for node in answered.best.nodes] == ["simulated-strong"]


async def test_an_exported_workflow_calls_the_models_that_it_names(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    elsewhere = {"executor_base_url": endpoint.base_url, "executor_api_key_env": None}
    config = ExecutorConfig(executor_model="weak-1")
    executors = further_executors(
        {"strong": {"executor_model": "strong-1"}, "cheap-1.5": {"executor_model": "cheap-1"} | elsewhere}, config
    )
    workflow = parse('Custom -> Custom(model="strong") -> Custom(model="cheap-1.5")', vocabulary=VOCABULARY)
    text = to_python(workflow, vocabulary=VOCABULARY, config=config, models=executors)
    (tmp_path / "exported.py").write_text(text, encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", str(tmp_path / "exported.py"), "q", "--base-url", endpoint.base_url),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "OPENAI_API_KEY": "sk-test"},
    )
    await process.communicate()
    assert process.returncode == 0
    assert [payload["model"] for payload in endpoint.payloads] == ["weak-1", "strong-1", "cheap-1"]


def test_a_class_of_aflow_names_no_model() -> None:
    with pytest.raises(RecipeError, match="names its model"):
        to_aflow(parse('Custom(model="strong")', vocabulary=VOCABULARY), vocabulary=VOCABULARY)
