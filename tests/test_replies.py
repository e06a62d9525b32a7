"""Replies of endpoints: the answer, the thinking, and the bill, in the forms that providers send."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from aflow_trl.data import load_rows
from aflow_trl.dsl import parse
from aflow_trl.engine import Engine, RolloutRequest
from aflow_trl.errors import RecipeError
from aflow_trl.llm import ExecutorConfig, LLMClient
from aflow_trl.llm.replies import read_completion, split_thinking
from aflow_trl.llm.retry import RetryLaterError, _retry_after, classify_exception, without_keys
from aflow_trl.operators import Problem
from aflow_trl.operators.replies import tagged
from aflow_trl.simulator import SimulatedApp, simulated_client
from conftest import KEY_NAME, ScriptedEndpoint, chat_response

MESSAGES = [{"role": "user", "content": "hello"}]
# Text → answer, thinking, whether it was cut.
THINKING = {
    "none": ("42", ("42", "", False)),
    "before the answer": ("<think>a\nb</think>\n\n42", ("42", "a\nb", False)),
    "only the last tag": ("a\nb</think>42", ("42", "a\nb", False)),
    "cut": ("<think>a", ("", "a", True)),
    "cut after an empty one": ("<think></think><think>a", ("", "a", True)),
    "two": ("<think>a</think>b<think>c</think>42", ("42", "ac</think>b", False)),
    "capitals": ("<THINK>a</THINK>42", ("42", "a", False)),
    "another spelling": ("<thinking>a</thinking>42", ("42", "a", False)),
    "Magistral": ("[THINK]a[/THINK]42", ("42", "a", False)),
    "in the middle": ("So: <think>a</think>42", ("So: 42", "a", False)),
    "our own tag": ("<thought>a</thought><answer>42</answer>", ("<thought>a</thought><answer>42</answer>", "", False)),
}


@pytest.mark.parametrize("name", THINKING)
def test_thinking_is_separated_from_the_answer(name: str) -> None:
    text, (answer, thinking, is_open) = THINKING[name]
    assert split_thinking(text)[0] == answer and split_thinking(text)[2] == is_open
    if name != "two":
        assert split_thinking(text)[1] == thinking


def body(usage: dict[str, Any] | None, text: str | None = "42", **choice: Any) -> bytes:
    message = {"role": "assistant", "content": text}
    return json.dumps({"choices": [{"message": message, "finish_reason": "stop"} | choice], "usage": usage}).encode()


# Usage of a reply → prompt, completion and cached tokens, and the cost it names.
BILLS: dict[str, tuple[dict[str, Any], tuple[int, int, int, float | None]]] = {
    "OpenAI": (
        {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}},
        (10, 5, 4, None),
    ),
    "reasoning in the total only (xAI, Gemini)": (
        {"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 500},
        (32, 468, 0, None),
    ),
    "DeepSeek": ({"prompt_tokens": 10, "completion_tokens": 5, "prompt_cache_hit_tokens": 6}, (10, 5, 6, None)),
    "Moonshot": ({"prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 3}, (10, 5, 3, None)),
    "OpenRouter": ({"prompt_tokens": 10, "completion_tokens": 5, "cost": 0.00123}, (10, 5, 0, 0.00123)),
    "floats": ({"prompt_tokens": 10.0, "completion_tokens": 5.0}, (10, 5, 0, None)),
    "texts": ({"prompt_tokens": "10", "completion_tokens": "5"}, (10, 5, 0, None)),
    "more cached than sent": ({"prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 99}, (10, 5, 10, None)),
}


@pytest.mark.parametrize("name", BILLS)
def test_usage_is_read_in_every_form(name: str) -> None:
    usage, expected = BILLS[name]
    read = read_completion(body(usage), MESSAGES, {}).usage
    assert (read.prompt_tokens, read.completion_tokens, read.cached_tokens, read.cost_usd) == expected


def test_cost_that_a_proxy_reports_is_used_where_no_price_is_configured() -> None:
    usage = read_completion(
        body({"prompt_tokens": 1, "completion_tokens": 1}), MESSAGES, {"x-litellm-response-cost": "0.5"}
    ).usage
    url = "http://localhost/v1"
    assert ExecutorConfig(executor_base_url=url).cost(usage) == 0.5
    priced = ExecutorConfig(executor_base_url=url, executor_input_usd_per_mtok=1.0, executor_output_usd_per_mtok=1.0)
    assert priced.cost(usage) == pytest.approx(2e-6)


def test_empty_reply_is_booked_with_the_usage_it_reports() -> None:
    with pytest.raises(RetryLaterError) as caught:
        read_completion(body({"prompt_tokens": 1000, "completion_tokens": 2000}, None), MESSAGES, {})
    assert caught.value.usage is not None and caught.value.usage.total == 3000


# Headers → seconds to wait.
WAITS: dict[str, tuple[dict[str, str], float | None]] = {
    "seconds": ({"retry-after": "2.5"}, 2.5),
    "milliseconds": ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
    "a date, by the clock of the endpoint": (
        {"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"},
        30.0,
    ),
    "a past date": ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    "the reset of what is used up": (
        {
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "1m2s",
            "x-ratelimit-reset-tokens": "9h",
        },
        62.0,
    ),
    "infinite": ({"retry-after": "inf"}, None),
    "nothing": ({}, None),
}


@pytest.mark.parametrize("name", WAITS)
def test_wait_is_read_from_every_header_in_use(name: str) -> None:
    headers, expected = WAITS[name]
    assert _retry_after(headers) == expected


# -- what is sent ----------------------------------------------------------------------------------------------------


async def sent(endpoint: ScriptedEndpoint, **options: Any) -> dict[str, Any]:
    endpoint.script = lambda prompt, number: "42"
    await endpoint.client(**options).complete(MESSAGES, seed=7)
    return endpoint.payloads[-1]


async def test_reasoning_models_get_the_parameters_they_take(endpoint: ScriptedEndpoint) -> None:
    payload = await sent(
        endpoint,
        executor_max_tokens_field="max_completion_tokens",
        executor_omit=["temperature", "top_p", "seed"],
        executor_reasoning_effort="low",
        executor_extra_body='{"enable_thinking": false}',
    )
    assert payload.keys() == {"model", "messages", "max_completion_tokens", "reasoning_effort", "enable_thinking"}


def test_parameters_are_part_of_the_cache_key() -> None:
    def key(**options: Any) -> str:
        client = LLMClient(ExecutorConfig(executor_base_url="http://localhost/v1", **options))
        return client._cache_key(client._chat_request(MESSAGES, 0, None, None))

    keys = [
        key(),
        key(executor_reasoning_effort="low"),
        key(executor_extra_body={"a": 1}),
        key(executor_query={"api-version": "1"}),
        key(executor_omit=["seed"]),
    ]
    assert len(set(keys)) == len(keys)


def test_address_of_the_environment_is_resolved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1234/v1")
    client = LLMClient(ExecutorConfig())
    assert client.host == "localhost:1234" and client.config.price.input_usd is None


BAD_CONFIGS = [
    ({"executor_base_url": "localhost:8000/v1"}, "Did you mean http://localhost:8000/v1"),
    ({"executor_omit": ["temperatur"]}, "'temperatur'.*Use some of"),
    ({"executor_extra_body": "{"}, "not JSON"),
    ({"executor_query": "[1]"}, "mapping"),
]


@pytest.mark.parametrize(("options", "message"), BAD_CONFIGS)
def test_malformed_configuration_is_refused_when_it_is_read(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExecutorConfig(**options)


def test_server_on_this_machine_needs_no_key_and_a_key_with_a_line_break_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(KEY_NAME, raising=False)
    LLMClient(ExecutorConfig(executor_base_url="http://localhost:8000/v1", executor_api_key_env=KEY_NAME))
    with pytest.raises(RecipeError, match="needs an API key"):
        LLMClient(ExecutorConfig(executor_base_url="https://example.org/v1", executor_api_key_env=KEY_NAME))
    monkeypatch.setenv(KEY_NAME, "abc\ndef")
    with pytest.raises(RecipeError, match="line break"):
        LLMClient(ExecutorConfig(executor_base_url="https://example.org/v1", executor_api_key_env=KEY_NAME))


# -- words -----------------------------------------------------------------------------------------------------------


def chained(*errors: Exception) -> Exception:
    for outer, inner in itertools.pairwise(errors):
        outer.__cause__ = inner
    return errors[0]


def test_innermost_cause_is_named_and_an_unsent_request_costs_nothing() -> None:
    error = classify_exception(
        chained(RuntimeError("Connection error."), OSError("x"), ConnectionRefusedError(111, "refused"))
    )
    assert "connection was refused" in str(error)
    assert isinstance(error, RetryLaterError) and error.unreachable and not error.may_be_billed


@pytest.mark.parametrize(
    "text",
    ["Incorrect API key provided: sk-abcdefghijkl", "Authorization: Bearer abc.def.ghi", "http://me:secret@host/x"],
)
def test_keys_and_credentials_are_masked(text: str) -> None:
    assert not any(secret in without_keys(text) for secret in ("abcdefghijkl", "abc.def", "secret"))


def test_last_element_of_a_name_counts() -> None:
    text = "The format is <answer>…</answer>. <thought>x</thought> <answer>41</answer> No: <answer>42</answer>"
    assert tagged("thought", "answer")(text) == {"thought": "x", "answer": "42"}


async def test_reply_that_thought_itself_out_counts_as_truncated(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = lambda prompt, number: chat_response("<think>and then")
    completion = await endpoint.client().complete(MESSAGES, seed=0)
    assert completion.truncated and completion.thought_out and not completion.refused
    assert completion.thinking == "and then"


async def test_thinking_is_kept_in_the_trace_and_out_of_the_answer(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = lambda prompt, number: "<think>Is it 41?</think>42"
    trace = (await endpoint.engine().run([RolloutRequest(parse("Custom -> Custom"), Problem("6 * 7?"))]))[0]
    assert trace.answer == "42" and trace.nodes[0].thinking == "Is it 41?"
    assert not any("41" in prompt for prompt in endpoint.prompts)


class ThinkingApp(SimulatedApp):
    """The simulated executor as a reasoning model whose server leaves the thinking in the text."""

    async def respond(self, payload: object) -> tuple[int, dict[str, Any]]:
        status, body = await super().respond(payload)
        message = body["choices"][0]["message"]  # type: ignore[index]
        # Everything in it could be taken for an answer, a verdict or a choice.
        draft = "The answer is 0. <answer>0</answer> <verdict>incorrect</verdict> <choice>B</choice> ```python\nx\n```"
        message["content"] = f"<think>{draft}</think>\n\n{message['content']}"
        return status, body


async def test_thinking_in_the_text_changes_no_answer() -> None:
    workflows = (
        "Custom",
        "AnswerGenerate -> Format",
        "[Custom, AnswerGenerate, Programmer] -> ScEnsemble -> Review ? Revise : done",
        "CustomCodeGenerate -> Test",
    )
    problems = [Problem(row.question, row.domain, row.context) for row in load_rows("synthetic", count=40)]
    requests = [RolloutRequest(parse(text), problem) for text in workflows for problem in problems]
    plain = await Engine(simulated_client(app=SimulatedApp())).run(requests)
    thinking = await Engine(simulated_client(app=ThinkingApp())).run(requests)
    assert [trace.answer for trace in thinking] == [trace.answer for trace in plain]
    assert [trace.model_calls for trace in thinking] == [trace.model_calls for trace in plain]
    assert all(node.thinking for trace in thinking for node in trace.nodes if node.model_calls)
