"""The simulated executor works from the messages alone, in the requested formats, with the skill of its table."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import ClientSession, web
from transformers import AutoTokenizer, Qwen2Config

from aflow_trl.data import TRAITS, Row, Solved, mixed_rows, read_problem, synthetic_rows
from aflow_trl.dsl import builtin_vocabulary, operator_table
from aflow_trl.engine import Engine, RolloutRequest
from aflow_trl.llm import ExecutorConfig, LLMClient
from aflow_trl.operators import Problem
from aflow_trl.operators.prompts import fill, render
from aflow_trl.policies.tiny import build_tokenizer
from aflow_trl.rollouts import Rollouts
from aflow_trl.scoring import BUILTIN_DOMAINS
from aflow_trl.simulator import MODEL_NAME, SimulatedApp, default_skill, in_process, recognize, reply
from aflow_trl.simulator.server import build_server


def rows(count: int, split: str = "test", seed: int = 0):
    return list(itertools.islice(synthetic_rows(seed, split), count))


def simulated_engine(app: SimulatedApp | None = None) -> Engine:
    config = ExecutorConfig(executor_base_url="simulated", executor_concurrency=256)
    served = app or SimulatedApp()
    return Engine(LLMClient(config, http_client=lambda: in_process(served)))


@pytest.mark.parametrize("name", sorted(builtin_vocabulary()))
def test_every_prompt_is_recognised_with_its_fields(name: str) -> None:
    template = operator_table()[name]["prompts"]["default"]
    names = set(re.findall(r"\{(\w+)\}", template))
    one_line = {"instruction", "target", "entry_point"}
    fields = {field: f"text of {field}" + ("" if field in one_line else "\nsecond line") for field in names}
    assert recognize(fill(template, **fields)) == (name, fields)


def test_omitted_lines_are_recognised_as_empty_fields() -> None:
    name, fields = recognize(render("Custom", instruction="i", attempt="", problem="p"))
    assert (name, fields["attempt"], fields["problem"]) == ("Custom", "", "p")


def test_problems_are_recovered_from_their_text() -> None:
    for row in rows(150):
        solved = read_problem(f"{row.context}\n\n{row.question}")
        assert solved is not None and (solved.domain, solved.difficulty) == (row.domain, row.difficulty)
        if row.domain != "code":
            assert (solved.answer(),) == row.answer


def test_splits_share_no_problem_and_domains_are_balanced() -> None:
    train = {(row.context, row.question) for row in rows(600, "train")}
    held_out = rows(300, "test")
    assert len(train) == 600
    assert not train & {(row.context, row.question) for row in held_out}
    assert [sum(row.domain == domain for row in held_out) for domain in BUILTIN_DOMAINS] == [100, 100, 100]


MIXED = list(itertools.islice(mixed_rows(0, "test"), 1_500))


def solved_mixed(row: Row) -> Solved:
    solved = read_problem(f"{row.context}\n\n{row.question}")
    assert solved is not None
    return solved


def test_what_a_mixed_problem_needs_can_be_read_in_its_text_and_is_no_column() -> None:
    for row in MIXED:
        solved = solved_mixed(row)
        assert (solved.domain, row.difficulty) == (row.domain, 0)
        if row.domain != "code":
            assert ((solved.answer(),) == row.answer) == ("unsolvable" not in solved.traits)


@pytest.mark.parametrize("domain", BUILTIN_DOMAINS)
def test_mixed_problems_have_every_trait_and_number_of_steps(domain: str) -> None:
    solved = [solved_mixed(row) for row in MIXED if row.domain == domain]
    assert {trait for own in solved for trait in own.traits} == {*TRAITS[domain], "unsolvable"}
    assert {own.difficulty for own in solved} == set(range(1, 10))


def test_the_splits_of_the_mixed_problems_are_disjoint() -> None:
    train = {(row.context, row.question) for row in itertools.islice(mixed_rows(1, "train"), 600)}
    assert len(train) == 600 and not train & {(row.context, row.question) for row in MIXED}


def test_the_skill_table_knows_every_trait() -> None:
    assert {domain: set(traits) for domain, traits in default_skill()["traits"].items()} == {
        domain: set(traits) for domain, traits in TRAITS.items()
    }


def test_replies_to_a_misleading_problem_err_alike() -> None:
    shares = {}
    for name in ("misleading", "distracted"):
        problems = [row.question for row in MIXED if row.domain == "math" and solved_mixed(row).traits == {name}]
        replies = [
            [
                reply(render("AnswerGenerate", attempt="", problem=text), seed).split("<answer>")[-1]
                for seed in range(6)
            ]
            for text in problems
        ]
        shares[name] = sum(len(set(own)) == 1 for own in replies) / len(replies)
    assert shares["misleading"] > shares["distracted"] + 0.3


def test_replies_depend_on_the_seed_only() -> None:
    prompt = render("Custom", instruction="i", attempt="", problem=rows(1)[0].question)
    assert reply(prompt, 1) == reply(prompt, 1)
    assert len({reply(prompt, seed) for seed in range(30)}) > 1


def test_skill_table_determines_the_share_of_right_replies() -> None:
    row = next(row for row in rows(60) if row.domain == "math" and row.difficulty == 3)
    prompt = render("AnswerGenerate", attempt="", problem=row.question)
    right = sum(f"<answer>{row.answer[0]}</answer>" in reply(prompt, seed) for seed in range(400)) / 400
    expected = default_skill()["solve"]["math"]["reasoned"][2]
    assert abs(right - expected) < default_skill()["spread"] + 0.08


def test_a_better_model_avoids_its_share_of_failures() -> None:
    problems = [row for row in rows(400) if row.domain == "math" and row.difficulty == 4]

    def accuracy(model: str) -> float:
        return sum(
            f"<answer>{row.answer[0]}</answer>"
            in reply(render("AnswerGenerate", attempt="", problem=row.question), seed, model=model)
            for row in problems
            for seed in range(20)
        ) / (20 * len(problems))

    weak = accuracy(MODEL_NAME)
    assert (
        abs(accuracy("simulated-strong") - (weak + default_skill()["models"]["simulated-strong"] * (1 - weak))) < 0.05
    )


def test_review_has_false_positives_and_false_negatives() -> None:
    row = next(row for row in rows(60) if row.domain == "math" and row.difficulty == 2)

    def accepted(answer: str) -> float:
        prompt = render("Review", problem=row.question, solution=f"The answer is {answer}.")
        return sum("<verdict>correct" in reply(prompt, seed) for seed in range(300)) / 300

    assert 0.75 < accepted(row.answer[0]) < 1
    assert 0 < accepted(f"{row.answer[0]}0") < 0.4


def test_unknown_prompt_is_not_answered() -> None:
    assert reply("Reply with the word ready.", 0) == "I do not know."


async def test_best_workflow_depends_on_the_domain() -> None:
    rollouts = Rollouts(simulated_engine())
    problems = rows(240)

    async def accuracy(workflow: str, domain: str) -> float:
        columns = [row.columns() for row in problems if row.domain == domain]
        scored = await rollouts.execute([workflow] * len(columns), columns, salt="t", phase="test", step=0)
        return sum(rollout.correct for rollout in scored) / len(scored)

    assert await accuracy("Programmer", "math") > await accuracy("Custom", "math") + 0.15
    assert await accuracy("AnswerGenerate", "qa") > await accuracy("Programmer", "qa") + 0.3
    assert await accuracy("CustomCodeGenerate -> Test", "code") > await accuracy("AnswerGenerate", "code") + 0.2


@pytest_asyncio.fixture
async def base_url() -> AsyncIterator[str]:
    """Base URL of a simulated executor that is served over HTTP."""
    runner = web.AppRunner(build_server(SimulatedApp()))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"
    await runner.cleanup()


async def test_http_server_and_in_process_application_give_equal_replies(
    base_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = rows(1)[0]
    request = [RolloutRequest("Custom -> Review ? Revise : done", Problem(row.question, row.domain, row.context))]
    monkeypatch.setenv("AFLOW_TEST_KEY", "x")
    client = LLMClient(ExecutorConfig(executor_base_url=base_url, executor_api_key_env="AFLOW_TEST_KEY"))
    (over_http,) = await Engine(client).run(request, salt="s")
    await client.aclose()
    (in_process_trace,) = await simulated_engine().run(request, salt="s")
    assert [node.text for node in over_http.nodes] == [node.text for node in in_process_trace.nodes]


async def test_http_server_lists_its_models(base_url: str) -> None:
    async with ClientSession() as session, session.get(f"{base_url}/models") as response:
        assert [model["id"] for model in (await response.json())["data"]] == [MODEL_NAME, "simulated-strong"]


@pytest.mark.parametrize("body", ["{", "[]", '"text"', "{}", '{"messages": []}'])
async def test_malformed_request_is_rejected(body: str, base_url: str) -> None:
    async with ClientSession() as session, session.post(f"{base_url}/chat/completions", data=body) as response:
        assert response.status == 400 and (await response.json())["error"]["message"]


def test_tokenizer_of_the_tiny_policy_round_trips(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(["<workflow>Custom -> Review ? Revise : done</workflow> some text"] * 3)
    tokenizer.save_pretrained(tmp_path)
    # `AutoTokenizer` chooses the class by the type of the model beside it.
    Qwen2Config(vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    rng = random.Random(0)
    texts = [
        "<workflow>[Custom, Custom] -> ScEnsemble</workflow>",
        "héllo ✓\n x",
        "a  b",
        " lead",
        "<|end|>",
        "has 12 of 345.\n\n6",
    ]
    texts += ["".join(rng.choice("abc -><[]\n") for _ in range(30)) for _ in range(20)]
    for text in texts:
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert loaded.decode(loaded(text)["input_ids"]) == text
    assert (loaded.pad_token_id, loaded.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)
    messages = [{"role": "user", "content": "hi"}]
    assert (
        loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == "<|user|>hi<|assistant|>"
    )
