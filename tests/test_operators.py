"""Contract of every operator: number of calls, content of the prompts, handling of malformed replies."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from aflow_trl.dsl import builtin_vocabulary, operator_table
from aflow_trl.engine import Engine, RolloutRequest
from aflow_trl.errors import RecipeError
from aflow_trl.llm import Priority
from aflow_trl.operators import (
    DEFAULT_OPERATORS,
    RETRY_HINT,
    Candidate,
    Operator,
    OperatorCall,
    OperatorFailureError,
    OperatorRegistry,
    Problem,
    State,
    load_operators,
    tagged,
)
from conftest import ScriptedEndpoint, chat_response, operator_script

CODE = "```python\ndef double(x):\n    return 2 * x\n```"
WRONG_CODE = "```python\ndef double(x):\n    return 3 * x\n```"
MATH = Problem("What is 6 * 7?", context="A passage about numbers.")
TASK = Problem("Write `double(x)`.", domain="code", entry_point="double", public_tests=("assert double(2) == 4",))
SOLVED = State(MATH, (Candidate("It is 41."),), feedback="Off by one.")
CODED = State(TASK, (Candidate(CODE, "def double(x):\n    return 2 * x"),))
MISCODED = State(TASK, (Candidate(WRONG_CODE, "def double(x):\n    return 3 * x"),))
SEVERAL = State(MATH, (Candidate("a", "41"), Candidate("b", "42"), Candidate("c", "42.0")))
ALL_DIFFERENT = State(MATH, (Candidate("a", "40"), Candidate("b", "41"), Candidate("c", "42")))


@dataclass
class Contract:
    """A run of an operator against scripted replies, and what it has to do."""

    operator: str
    state: State
    replies: list[str]
    calls: int
    arguments: dict[str, str] = field(default_factory=dict)
    prompt_contains: tuple[str, ...] = ()
    text: str | None = None
    answer: str | None = None
    verdict: bool | None = None
    feedback: str = ""


CONTRACTS = [
    Contract("Custom", State(MATH), ["forty-two"], 1, {}, (MATH.question, MATH.context), "forty-two"),
    Contract("Custom", State(MATH), ["x"], 1, {"instruction": "Be brief."}, ("Be brief.",), "x"),
    Contract("Custom", SOLVED, ["x"], 1, {}, ("It is 41.", MATH.question), "x"),
    Contract(
        "AnswerGenerate",
        State(MATH),
        ["<thought>6*7</thought><answer>42</answer>"],
        1,
        prompt_contains=(MATH.question, MATH.context, "<thought>"),
        answer="42",
    ),
    Contract(
        "Programmer",
        State(MATH),
        ["```python\ndef solve():\n    return 42\n```"],
        1,
        prompt_contains=(MATH.question, "solve()"),
        answer="42",
        verdict=True,
    ),
    Contract(
        "Programmer",
        State(MATH),
        ["```python\n1/0\n```", "```python\ndef solve(): return 42\n```"],
        2,
        prompt_contains=("ZeroDivisionError",),
        answer="42",
        verdict=True,
    ),
    # Models forget solve(), print in it, or call it themselves.
    Contract("Programmer", State(MATH), ["```python\nprint(6 * 7)\n```"], 1, answer="42", verdict=True),
    Contract("Programmer", State(MATH), ["```python\ndef solve():\n    print(42)\n```"], 1, answer="42", verdict=True),
    Contract(
        "Programmer",
        State(MATH),
        ["```python\ndef solve():\n    return 42\n\nprint(solve())\n```"],
        1,
        answer="42",
        verdict=True,
    ),
    Contract(
        "Programmer",
        State(MATH),
        ["```python\ndef answer():\n    return 42\n```", "```python\ndef solve(): return 42\n```"],
        2,
        prompt_contains=("neither defines solve()",),
        answer="42",
        verdict=True,
    ),
    Contract("Programmer", State(MATH), ["```python\n1/0\n```"] * 3, 3, answer="", verdict=False),
    Contract(
        "Programmer",
        SOLVED,
        ["```python\n1/0\n```"] * 3,
        3,
        prompt_contains=("It is 41.",),
        text="It is 41.",
        verdict=False,
        feedback="Off by one.",
    ),
    Contract(
        "Programmer",
        State(TASK),
        [CODE],
        1,
        prompt_contains=("`double`",),
        answer="def double(x):\n    return 2 * x",
        verdict=True,
    ),
    Contract(
        "CustomCodeGenerate",
        State(TASK),
        [CODE],
        1,
        {"instruction": "No loops."},
        ("No loops.", "`double`", TASK.question),
        answer="def double(x):\n    return 2 * x",
    ),
    Contract("Test", CODED, [], 0, answer="def double(x):\n    return 2 * x", verdict=True),
    Contract(
        "Test",
        MISCODED,
        [f"Wrong factor.\n{CODE}"],
        1,
        prompt_contains=("assert double(2) == 4", "got 6", "return 3 * x", TASK.question),
        answer="def double(x):\n    return 2 * x",
        verdict=True,
    ),
    Contract("Test", MISCODED, [WRONG_CODE] * 3, 3, answer="def double(x):\n    return 3 * x", verdict=False),
    Contract("Test", SOLVED, [], 0, text="It is 41.", feedback="Off by one."),
    Contract(
        "Review",
        SOLVED,
        ["<feedback>Should be 42.</feedback><verdict>Incorrect.</verdict>"],
        1,
        prompt_contains=(MATH.question, "It is 41."),
        text="It is 41.",
        verdict=False,
        feedback="Should be 42.",
    ),
    Contract(
        "Review",
        State(MATH),
        ["<feedback>fine</feedback><verdict>correct</verdict>"],
        1,
        prompt_contains=("no solution yet",),
        verdict=True,
        feedback="fine",
    ),
    Contract(
        "Revise",
        SOLVED,
        ["<solution>It is 42.</solution>"],
        1,
        prompt_contains=(MATH.question, "It is 41.", "Off by one."),
        text="It is 42.",
    ),
    Contract("Format", SOLVED, ["<answer>41</answer>"], 1, prompt_contains=("It is 41.",), answer="41"),
    Contract("ScEnsemble", SEVERAL, [], 0, answer="42", text="b"),
    Contract(
        "ScEnsemble",
        ALL_DIFFERENT,
        ["<choice>C</choice>"],
        1,
        prompt_contains=("A: a", "B: b", "C: c", MATH.question),
        answer="42",
    ),
    Contract("ScEnsemble", State(MATH), [], 0),
    Contract("MdEnsemble", SEVERAL, ["<choice>A</choice>"] * 5, 5, prompt_contains=(MATH.question,)),
    Contract("MdEnsemble", SOLVED, [], 0, text="It is 41."),
]


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda c: f"{c.operator}-{c.calls}")
async def test_operator_fulfils_its_contract(contract: Contract, endpoint: ScriptedEndpoint) -> None:
    replies = list(contract.replies)
    endpoint.script = lambda prompt, number: replies.pop(0)
    call = OperatorCall(endpoint.client(), seed=1)
    state = await DEFAULT_OPERATORS[contract.operator]().run(contract.state, contract.arguments, call)
    assert len(endpoint.payloads) == len(call.completions) == contract.calls
    for text in contract.prompt_contains:
        assert any(text in prompt for prompt in endpoint.prompts), text
    if contract.text is not None:
        assert state.candidates[0].text == contract.text
    if contract.answer is not None:
        assert state.candidates[0].answer == contract.answer
    assert state.verdict is contract.verdict
    assert state.feedback == contract.feedback


def test_every_operator_has_a_contract() -> None:
    assert {contract.operator for contract in CONTRACTS} == set(builtin_vocabulary()) == set(operator_table())


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda c: f"{c.operator}-{c.calls}")
def test_calls_stay_within_the_static_bound(contract: Contract) -> None:
    assert contract.calls <= builtin_vocabulary()[contract.operator].max_calls


STRUCTURED = [
    ("AnswerGenerate", State(MATH), "<thought>6*7</thought><answer>42</answer>"),
    ("Programmer", State(MATH), "```python\ndef solve(): return 42\n```"),
    ("CustomCodeGenerate", State(TASK), CODE),
    ("Test", MISCODED, CODE),
    ("Review", SOLVED, "<feedback>f</feedback><verdict>correct</verdict>"),
    ("Revise", SOLVED, "<solution>s</solution>"),
    ("Format", SOLVED, "<answer>42</answer>"),
    ("ScEnsemble", ALL_DIFFERENT, "<choice>B</choice>"),
]


@pytest.mark.parametrize(("operator", "state", "good"), STRUCTURED, ids=lambda v: v if isinstance(v, str) else "")
async def test_malformed_reply_is_requested_again_once(
    operator: str, state: State, good: str, endpoint: ScriptedEndpoint
) -> None:
    endpoint.script = lambda prompt, number: "not in the format" if number == 1 else good
    call = OperatorCall(endpoint.client(), seed=1)
    await DEFAULT_OPERATORS[operator]().run(state, {}, call)
    assert (len(endpoint.payloads), call.parse_errors) == (2, 1)
    assert endpoint.prompts[1] == f"{endpoint.prompts[0]}\n{RETRY_HINT}"


@pytest.mark.parametrize(("operator", "state", "good"), STRUCTURED, ids=lambda v: v if isinstance(v, str) else "")
async def test_two_malformed_replies_fail_the_operator(
    operator: str, state: State, good: str, endpoint: ScriptedEndpoint
) -> None:
    # Cut, so that its last line says nothing either.
    endpoint.script = lambda prompt, number: chat_response("not in the format", finish_reason="length")
    call = OperatorCall(endpoint.client(), seed=1)
    with pytest.raises(OperatorFailureError):
        await DEFAULT_OPERATORS[operator]().run(state, {}, call)
    assert call.parse_errors == 2


async def test_md_ensemble_picks_the_majority_over_shuffled_letters(endpoint: ScriptedEndpoint) -> None:
    def choose_b(prompt: str, number: int) -> str:
        (letter,) = (line[0] for line in prompt.splitlines() if line.endswith(": b"))
        return f"<choice>{letter}</choice>"

    endpoint.script = choose_b
    state = await DEFAULT_OPERATORS["MdEnsemble"]().run(ALL_DIFFERENT, {}, OperatorCall(endpoint.client(), seed=5))
    assert state.candidates[0].text == "b"
    assert len(set(endpoint.prompts)) > 1, "the letters have to be shuffled"


async def test_shots_are_earlier_turns_of_the_chat(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = lambda prompt, number: "malformed" if number == 1 else "<answer>7</answer>"
    call = OperatorCall(endpoint.client(), seed=1)
    shots = [("1 + 1", "<answer>2</answer>"), ("2 + 2", "<answer>4</answer>")]
    assert await call.ask_for("3 + 4", tagged("answer"), shots) == {"answer": "7"}
    for payload in endpoint.payloads:
        roles = [message["role"] for message in payload["messages"]]
        assert roles == ["user", "assistant", "user", "assistant", "user"]
        assert [message["content"] for message in payload["messages"][:4]] == [text for shot in shots for text in shot]
    first, again = (payload["messages"][-1]["content"] for payload in endpoint.payloads)
    assert again == f"{first}\n{RETRY_HINT}"


async def test_equal_seeds_send_equal_requests(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = operator_script(MdEnsemble="<choice>A</choice>")
    for _ in range(2):
        await DEFAULT_OPERATORS["MdEnsemble"]().run(ALL_DIFFERENT, {}, OperatorCall(endpoint.client(), seed=9))
    sent = [(payload["messages"][0]["content"], payload["seed"]) for payload in endpoint.payloads]
    assert sorted(sent[:5]) == sorted(sent[5:])


async def test_raised_priority_reaches_all_votes_of_md_ensemble(endpoint: ScriptedEndpoint) -> None:
    """The votes wait for a slot concurrently, under one priority object."""
    endpoint.script = lambda prompt, number: "<choice>A</choice>" if "<choice>" in prompt else "x"
    client = endpoint.client(executor_concurrency=1)
    call = OperatorCall(client, seed=5, priority=Priority(1))
    blocker = asyncio.ensure_future(client.complete([{"role": "user", "content": "blocker"}], seed=0))
    await asyncio.sleep(0)
    others = [
        asyncio.ensure_future(
            client.complete([{"role": "user", "content": f"other {n}"}], seed=n, priority=Priority(2))
        )
        for n in range(3)
    ]
    await asyncio.sleep(0)
    ensemble = asyncio.ensure_future(DEFAULT_OPERATORS["MdEnsemble"]().run(ALL_DIFFERENT, {}, call))
    for _ in range(3):  # the gather inside the operator starts its votes one turn later
        await asyncio.sleep(0)
    assert call.priority is not None and len(call.priority._waiting) == 5
    call.priority.raise_to(9)
    await asyncio.gather(blocker, ensemble, *others)
    votes = [index for index, prompt in enumerate(endpoint.prompts) if "<choice>" in prompt]
    assert votes == [1, 2, 3, 4, 5], "all votes go right after the call that held the slot"


# -- the registry ----------------------------------------------------------------------------------------------------


def test_policy_prompt_describes_the_operators_of_the_configuration() -> None:
    lines = OperatorRegistry(DEFAULT_OPERATORS[name] for name in operator_table()).descriptions.splitlines()
    assert lines == [f"- {name}: {entry['description']}" for name, entry in operator_table().items()]


def test_vocabulary_of_the_shipped_operators_is_the_builtin_one() -> None:
    shipped = DEFAULT_OPERATORS.select(list(builtin_vocabulary()))
    assert dict(shipped.vocabulary) == dict(builtin_vocabulary())


def test_selection_keeps_the_requested_order() -> None:
    assert list(DEFAULT_OPERATORS.select(["Review", "Custom"])) == ["Review", "Custom"]


def test_selection_of_an_unknown_operator_names_it() -> None:
    with pytest.raises(RecipeError, match=r"'Oracle'.*Custom"):
        DEFAULT_OPERATORS.select(["Custom", "Oracle"])


def test_name_of_an_existing_operator_is_rejected() -> None:
    class Custom(Operator):
        spec = DEFAULT_OPERATORS["Custom"].spec
        description = ""

        async def run(self, state: State, arguments: object, call: OperatorCall) -> State:
            return state

    with pytest.raises(RecipeError, match=r"'Custom' is already defined in aflow_trl\.operators"):
        DEFAULT_OPERATORS.add(Custom)


@pytest.fixture
def isolated_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undoes additions to the default registry after the test."""
    monkeypatch.setattr(DEFAULT_OPERATORS, "_classes", dict(DEFAULT_OPERATORS._classes))
    yield


async def test_operator_of_a_user_module_runs_in_a_workflow(
    endpoint: ScriptedEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolated_registry: None
) -> None:
    (tmp_path / "my_operators.py").write_text(
        "from aflow_trl.operators import Candidate, Operator, operator\n"
        "@operator(description='Shouts.', max_calls=1, arguments=['tone'])\n"
        "class Shout(Operator):\n"
        "    async def run(self, state, arguments, call):\n"
        "        text = await call.ask(f\"{arguments['tone']}: {state.problem.statement}\")\n"
        "        return state.with_candidate(Candidate(text.upper()))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    operators = load_operators(["my_operators"])
    endpoint.script = lambda prompt, number: "hello"
    (trace,) = await Engine(endpoint.client(), operators=operators).run([RolloutRequest('Shout("loud")', MATH)])
    assert trace.answer == "HELLO"
    assert endpoint.prompts[0].startswith("loud: ")


def test_operator_module_that_cannot_be_imported_is_named() -> None:
    with pytest.raises(RecipeError, match=r"'no_such_operators'.*path of a \.py file"):
        load_operators(["no_such_operators"])
