"""Semantics of every form of the language, observed through the calls made; outcomes; common random numbers."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from aflow_trl.dsl import Extraction, OperatorSpec, parse
from aflow_trl.engine import Budget, Engine, Outcome, RolloutRequest, Trace, read_trace
from aflow_trl.errors import RunBudgetError
from aflow_trl.llm import ExecutorConfig, LLMClient
from aflow_trl.operators import DEFAULT_OPERATORS, Candidate, Operator, OperatorCall, OperatorRegistry, Problem, State
from aflow_trl.simulator import SimulatedApp, in_process, recognize
from conftest import ScriptedEndpoint, chat_response, operator_script

PROBLEM = Problem("What is 6 * 7?")
POSITIVE = "<feedback>fine</feedback><verdict>correct</verdict>"
NEGATIVE = "<feedback>wrong</feedback><verdict>incorrect</verdict>"


async def run(endpoint: ScriptedEndpoint, *workflows: str, problem: Problem = PROBLEM, **options: Any) -> list[Trace]:
    return await endpoint.engine(**options).run([RolloutRequest(text, problem) for text in workflows])


def called_operators(endpoint: ScriptedEndpoint) -> list[str]:
    return [recognize(prompt)[0] for prompt in endpoint.prompts]


async def test_chain_passes_the_solution_on(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(Custom=["first", "second"])
    (trace,) = await run(endpoint, "Custom -> Custom")
    assert trace.answer == "second"
    assert "first" in endpoint.prompts[1] and PROBLEM.question in endpoint.prompts[1]


async def test_negative_verdict_runs_the_first_branch(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(Custom="41", Review=NEGATIVE, Revise="<solution>42</solution>")
    (trace,) = await run(endpoint, "Custom -> Review ? Revise : done")
    assert called_operators(endpoint) == ["Custom", "Review", "Revise"]
    assert trace.answer == "42"


async def test_positive_verdict_runs_the_second_branch(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(Custom="42", Review=POSITIVE, Format="<answer>forty-two</answer>")
    (trace,) = await run(endpoint, "Custom -> Review ? Revise : Format")
    assert called_operators(endpoint) == ["Custom", "Review", "Format"]
    assert trace.answer == "forty-two"


async def test_done_outside_a_loop_continues_with_the_next_step(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(Custom="42", Review=POSITIVE, Format="<answer>42</answer>")
    await run(endpoint, "Custom -> Review ? Revise : done -> Format")
    assert called_operators(endpoint) == ["Custom", "Review", "Format"]


async def test_done_leaves_the_loop_early(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(Custom="40", Review=[NEGATIVE, POSITIVE], Revise="<solution>42</solution>")
    (trace,) = await run(endpoint, "Custom -> (Review ? Revise : done) * 5")
    assert called_operators(endpoint) == ["Custom", "Review", "Revise", "Review"]
    assert trace.answer == "42"


async def test_done_leaves_the_innermost_loop_only(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(Custom="42", Review=POSITIVE, Format="<answer>42</answer>")
    await run(endpoint, "Custom -> ((Review ? Revise : done) * 3 -> Format) * 2")
    assert called_operators(endpoint) == ["Custom", "Review", "Format", "Review", "Format"]


async def test_loop_runs_n_times_without_done(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(
        Custom="0", Review=NEGATIVE, Revise=[f"<solution>{n}</solution>" for n in (1, 2, 3)]
    )
    (trace,) = await run(endpoint, "Custom -> (Review -> Revise) * 3")
    assert called_operators(endpoint) == ["Custom", *["Review", "Revise"] * 3]
    assert trace.answer == "3"


async def test_branches_start_from_the_same_state(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(
        Custom="base", AnswerGenerate="<thought>t</thought><answer>42</answer>", Revise="<solution>42</solution>"
    )
    (trace,) = await run(endpoint, "Custom -> [AnswerGenerate, Revise] -> ScEnsemble")
    assert all("base" in prompt for prompt in endpoint.prompts[1:])
    assert trace.answer == "42"


async def test_branches_run_concurrently(endpoint: ScriptedEndpoint) -> None:
    async def slow(_: str) -> str:
        await asyncio.sleep(0.2)
        return "42"

    endpoint.script = lambda prompt, number: slow(prompt)
    started = time.monotonic()
    await run(endpoint, "[Custom, Custom, Custom, Custom] -> ScEnsemble")
    assert time.monotonic() - started < 0.6


async def test_operator_maps_over_candidates(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(Custom=["1", "2"], Format=["<answer>a</answer>", "<answer>b</answer>"])
    (trace,) = await run(endpoint, "[Custom, Custom] -> Format")
    assert called_operators(endpoint).count("Format") == 2
    assert trace.answer in ("a", "b")


async def test_condition_is_evaluated_for_each_candidate(endpoint: ScriptedEndpoint) -> None:
    def script(prompt: str, number: int) -> str:
        name, fields = recognize(prompt)
        if name == "Review":
            return NEGATIVE if fields["solution"] == "41" else POSITIVE
        return {"Custom": "41" if number == 1 else "42", "Revise": "<solution>42</solution>"}[name]

    endpoint.script = script
    (trace,) = await run(endpoint, "[Custom, Custom] -> Review ? Revise : done")
    assert called_operators(endpoint).count("Revise") == 1
    assert trace.answer == "42"


async def test_final_vote_picks_the_majority_and_the_first_on_ties(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(Custom=["7", "42", "42.0"])
    (trace,) = await run(endpoint, "[Custom, Custom, Custom]")
    assert trace.answer in ("42", "42.0")
    endpoint.script = lambda prompt, number: "7" if "first" in prompt else "8"
    (trace,) = await run(endpoint, '[Custom("first"), Custom("second")]')
    assert trace.answer == "7"


async def test_answer_after_review_is_the_solution(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(Custom="The answer is 42.", Review=POSITIVE)
    (trace,) = await run(endpoint, "Custom -> Review")
    assert trace.answer == "42"


async def test_programmer_answers_with_code_for_code_and_output_for_math(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(Programmer="```python\ndef solve(): return 42\n```")
    (trace,) = await run(endpoint, "Programmer")
    assert trace.answer == "42"
    endpoint.script = operator_script(Programmer="```python\ndef f(x): return x\n```")
    (trace,) = await run(endpoint, "Programmer", problem=Problem("Write f.", domain="code", entry_point="f"))
    assert trace.answer == "def f(x): return x"


# -- outcomes --------------------------------------------------------------------------------------------------------


async def test_invalid_workflow_is_not_run(endpoint: ScriptedEndpoint) -> None:
    (trace,) = await run(endpoint, "Custom -> Nonsense")
    assert (trace.outcome, trace.label) == (Outcome.INVALID, "unknown_operator")
    assert not endpoint.payloads


async def test_workflow_over_budget_is_a_policy_failure(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(Custom=[str(n) for n in range(5)])
    (trace,) = await run(endpoint, "Custom * 5", budget=Budget(max_calls=3))
    assert trace.outcome is Outcome.OVER_BUDGET
    assert len(endpoint.payloads) == 4, "it stops at the call that exceeds the budget"


async def test_malformed_replies_do_not_count_towards_the_call_budget(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = lambda prompt, number: "no form" if "<solution>" in prompt and number % 2 else "x"
    (trace,) = await run(endpoint, "Custom -> Revise -> Revise", budget=Budget(max_calls=3))
    assert trace.outcome is Outcome.OK and trace.model_calls == 5


HIDDEN = [r"\ud800", r"\u001b]0;", r"\u0007", r"\u202e", r"\u009b", "\x9b", "\u200b", "\u202e"]


@pytest.mark.parametrize("text", HIDDEN, ids=ascii)
async def test_an_argument_that_cannot_be_seen_is_an_invalid_workflow(text: str, endpoint: ScriptedEndpoint) -> None:
    (trace,) = await run(endpoint, f'Custom("a{text}b")')
    assert trace.outcome is Outcome.INVALID and "[hidden_character]" in trace.detail
    assert endpoint.prompts == []


async def test_unavailable_endpoint_never_becomes_an_answer(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = lambda prompt, number: web.Response(status=500, text="boom")
    engine = Engine(endpoint.client(executor_call_timeout_s=0.4))
    (trace,) = await engine.run([RolloutRequest("Custom", PROBLEM)])
    assert trace.outcome is Outcome.UNAVAILABLE and engine.fatal is None


async def test_rejected_request_keeps_the_state_and_is_scored(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = lambda prompt, number: (
        chat_response("42") if number == 1 else web.json_response({"error": {"code": "content_filter"}}, status=400)
    )
    (trace,) = await run(endpoint, "Custom -> Revise")
    assert (trace.outcome, trace.answer) == (Outcome.OK, "42")
    assert "RejectedRequestError" in trace.nodes[1].failure


async def test_fatal_error_is_stored_for_the_run(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = lambda prompt, number: web.json_response({"error": {"message": "bad key"}}, status=401)
    engine = endpoint.engine()
    traces = await engine.run([RolloutRequest("Custom", PROBLEM)] * 3)
    assert [trace.outcome for trace in traces] == [Outcome.UNAVAILABLE] * 3
    assert engine.fatal is not None and "sk-planted" not in str(engine.fatal)


async def test_step_deadline_leaves_a_trace_for_every_rollout(endpoint: ScriptedEndpoint) -> None:
    async def hang() -> str:
        await asyncio.sleep(3)
        return ""

    endpoint.script = lambda prompt, number: "42" if "fast" in prompt else hang()
    engine = Engine(endpoint.client(), step_timeout_s=0.5)
    requests = [RolloutRequest("Custom", Problem("fast?")), RolloutRequest("Custom", Problem("slow?"))]
    fast, slow = await engine.run(requests)
    assert (fast.outcome, slow.outcome, slow.label) == (Outcome.OK, Outcome.UNAVAILABLE, "deadline")


async def test_a_request_can_hold_a_text_a_workflow_or_an_extraction(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(Custom="42")
    kinds = ["Custom", parse("Custom"), Extraction(parse("Custom"), None)]
    traces = await endpoint.engine().run([RolloutRequest(kind, PROBLEM) for kind in kinds])
    assert [trace.workflow for trace in traces] == ["Custom"] * 3


async def test_operator_failure_keeps_the_state(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(Custom="42", Revise="no form")
    (trace,) = await run(endpoint, "Custom -> Revise")
    assert (trace.answer, trace.parse_errors) == ("42", 2)


async def test_trace_is_plain_json_with_costs_from_each_reply(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(Custom="42", Review=POSITIVE)
    (trace,) = await run(endpoint, "Custom -> Review")
    record = json.loads(json.dumps(trace.to_json()))
    assert record["workflow"] == "Custom -> Review" and len(record["nodes"]) == 2
    assert record["usd"] == pytest.approx(2 * (10 * 1.0 + 5 * 2.0) / 1e6)
    assert record["tokens"] == 30


async def test_cost_at_an_unknown_price_is_unknown(endpoint: ScriptedEndpoint) -> None:
    engine = Engine(endpoint.client(executor_input_usd_per_mtok=None))
    (trace,) = await engine.run([RolloutRequest("Custom", PROBLEM)])
    assert trace.usd is None


async def test_trace_survives_json(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(Custom="42", Review=POSITIVE)
    first, second = await run(endpoint, "[Custom, Custom] -> Review", "Custom")
    for trace in (first, second):
        assert read_trace(json.loads(json.dumps(trace.to_json()))) == trace


async def test_spent_run_budget_is_reported_as_such(endpoint: ScriptedEndpoint) -> None:
    cost = (10 * 1.0 + 5 * 2.0) / 1e6
    engine = Engine(endpoint.client(executor_max_usd=1.5 * cost))
    (trace,) = await engine.run([RolloutRequest("Custom -> Custom -> Custom", PROBLEM)])
    assert isinstance(engine.fatal, RunBudgetError) and len(endpoint.payloads) == 2
    assert (trace.outcome, trace.label) == (Outcome.UNAVAILABLE, "RunBudgetError")


# -- operators -------------------------------------------------------------------------------------------------------


class Shout(Operator):
    spec = OperatorSpec("Shout", max_calls=1)
    description = "Shouts."

    async def run(self, state: State, arguments: Mapping[str, str], call: OperatorCall) -> State:
        return state.with_candidate(Candidate((await call.ask(state.problem.statement)).upper()))


async def test_engine_runs_exactly_the_operators_of_its_registry(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = lambda prompt, number: "hello"
    private = OperatorRegistry([Shout])
    shout, custom = await run(endpoint, "Shout", "Custom", operators=private)
    assert (shout.outcome, shout.answer) == (Outcome.OK, "HELLO")
    assert (custom.outcome, custom.label) == (Outcome.INVALID, "unknown_operator")
    (default,) = await run(endpoint, "Shout")
    assert "Shout" not in DEFAULT_OPERATORS and default.label == "unknown_operator"


# -- common random numbers -------------------------------------------------------------------------------------------


async def test_group_pays_once_for_a_shared_prefix(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(
        Custom="40",
        Review=NEGATIVE,
        Revise="<solution>42</solution>",
        Format="<answer>42</answer>",
        Programmer="```python\ndef solve(): return 42\n```",
    )
    group = (
        ["Custom -> Review"] * 3 + ["Custom -> Review -> Revise"] * 3 + ["Custom -> Format", "Custom -> Programmer"]
    )
    traces = await run(endpoint, *group)
    assert sorted(called_operators(endpoint)) == ["Custom", "Format", "Programmer", "Review", "Revise"]
    assert sum(trace.paid_calls for trace in traces) == 5
    assert [trace.model_calls for trace in traces] == [2, 2, 2, 3, 3, 3, 2, 2]


async def test_equal_calls_inside_one_workflow_draw_different_samples(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = lambda prompt, number: f"{number}"
    single, triple = await run(endpoint, "Custom", "[Custom, Custom, Custom]")
    assert [node.sample for node in triple.nodes] == [0, 1, 2]
    assert len({payload["seed"] for payload in endpoint.payloads}) == 3 == len(endpoint.payloads)
    assert single.nodes[0].key == triple.nodes[0].key


@pytest.mark.parametrize(
    "workflow",
    [
        "[Custom, Custom -> Review, Custom -> Review -> Revise]",
        "[[Custom, Custom], [Custom, Custom]]",
        "[Custom -> Review, Custom -> Review] -> Revise",
        "[Custom, Custom] -> Custom -> [Custom, Custom]",
        "[Custom -> (Review ? Revise : done) * 2, AnswerGenerate] -> MdEnsemble",
    ],
)
async def test_samples_do_not_depend_on_which_call_finishes_first(workflow: str) -> None:
    problem = Problem("Ana has 20 apples. Ana gets 5 more. How many apples does Ana have now?")

    class Jittery(SimulatedApp):
        async def respond(self, payload: dict[str, Any]) -> tuple[int, dict[str, Any]]:
            await asyncio.sleep(random.random() * 0.02)
            return await super().respond(payload)

    async def keys() -> list[str]:
        client = LLMClient(ExecutorConfig(executor_base_url="simulated"), http_client=lambda: in_process(Jittery()))
        (trace,) = await Engine(client).run([RolloutRequest(workflow, problem)], salt="s")
        assert trace.outcome is Outcome.OK
        return sorted(node.key for node in trace.nodes)

    assert await keys() == await keys() == await keys()


async def test_members_of_a_group_record_who_pays_for_a_shared_call(endpoint: ScriptedEndpoint) -> None:
    first, second = await run(endpoint, "Custom", "Custom")
    assert [first.nodes[0].shared, second.nodes[0].shared] == [False, True]
    assert replace(second.nodes[0], shared=False) == first.nodes[0]


async def test_salt_changes_the_samples(endpoint: ScriptedEndpoint) -> None:
    engine = endpoint.engine()
    for salt in ("1", "2", "1"):
        await engine.run([RolloutRequest("Custom", PROBLEM)], salt=salt)
    seeds = [payload["seed"] for payload in endpoint.payloads]
    assert seeds[0] != seeds[1] and seeds[0] == seeds[2]


async def test_equal_workflows_on_one_problem_have_equal_traces(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = lambda prompt, number: POSITIVE if recognize(prompt)[0] == "Review" else str(number)
    first, second = await run(endpoint, "Custom -> Review", "(Custom)->Review")
    assert (first.answer, first.model_calls, first.workflow) == (second.answer, second.model_calls, second.workflow)
