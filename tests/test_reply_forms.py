"""Forms of replies: what small models write instead of the form that a prompt asks for, and JSON by schema."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aflow_trl.operators import DEFAULT_OPERATORS, Candidate, Problem, ReplyError, State, tagged
from aflow_trl.operators.base import OperatorCall
from aflow_trl.operators.prompts import render
from aflow_trl.operators.replies import fenced
from conftest import ScriptedEndpoint

ANSWER = tagged("thought", "answer", last_line_counts=True)
REVIEW = tagged("feedback", "verdict", choices={"verdict": ("correct", "incorrect")})
CHOICE = tagged("choice", choices={"choice": ("A", "B", "C")})
SOLUTION = tagged("solution")

READ: dict[str, tuple[Any, str, dict[str, str]]] = {
    "elements": (ANSWER, "<thought>t</thought><answer>42</answer>", {"thought": "t", "answer": "42"}),
    "JSON": (ANSWER, '{"thought": "t", "answer": "42"}', {"thought": "t", "answer": "42"}),
    "JSON with a number": (ANSWER, '{"thought": "t", "answer": 42}', {"thought": "t", "answer": "42"}),
    "JSON in a fence": (
        ANSWER,
        'Here:\n```json\n{"thought": "t", "answer": "42"}\n```',
        {"thought": "t", "answer": "42"},
    ),
    "JSON after a draft": (ANSWER, '{"x": 1}\n{"thought": "t", "answer": "42"}', {"thought": "t", "answer": "42"}),
    "JSON with LaTeX": (
        ANSWER,
        r'{"thought": "\(\frac{1}{2} \times x\)\nso", "answer": "\\sqrt{2} \text{m}"}',
        {"thought": "\\(\\frac{1}{2} \\times x\\)\nso", "answer": "\\sqrt{2} \\text{m}"},
    ),
    "JSON with capitals": (ANSWER, '{"Thought": "t", "Answer": "42"}', {"thought": "t", "answer": "42"}),
    "bold headings": (ANSWER, "**Thought:** t\n\n**Answer:** 42", {"thought": "t", "answer": "42"}),
    "bold headings, colon outside": (ANSWER, "**Thought**: t\n**Final answer**: 42", {"thought": "t", "answer": "42"}),
    "Markdown headings": (ANSWER, "### Thought\nt\n### Answer\n42", {"thought": "t", "answer": "42"}),
    "plain headings": (ANSWER, "Thought: t\nAnswer: 42", {"thought": "t", "answer": "42"}),
    "only the answer has one": (ANSWER, "6 * 7\n\nAnswer: 42", {"thought": "6 * 7", "answer": "42"}),
    "a sentence": (ANSWER, "6 * 7\nThe answer is 42.", {"thought": "6 * 7", "answer": "42."}),
    "the last heading counts": (ANSWER, "Answer: 41\nNo.\nAnswer: 42", {"thought": "Answer: 41\nNo.", "answer": "42"}),
    "verdict under a heading": (
        REVIEW,
        "Feedback: fine\nVerdict: **Correct**",
        {"feedback": "fine", "verdict": "correct"},
    ),
    "verdict in the last line": (REVIEW, "All fine.\nIncorrect.", {"feedback": "All fine.", "verdict": "incorrect"}),
    "verdict in a sentence": (REVIEW, "The solution is correct.", {"feedback": "The solution", "verdict": "correct"}),
    "a letter": (CHOICE, "B", {"choice": "B"}),
    "a letter in brackets": (CHOICE, "(b)", {"choice": "B"}),
    "a letter in a sentence": (CHOICE, "The best choice is **C**.", {"choice": "C"}),
    "a letter in JSON": (CHOICE, '{"choice": "c"}', {"choice": "C"}),
    "a heading of Revise": (
        SOLUTION,
        "**Solution:**\nx = 2\nThe answer is 2.",
        {"solution": "x = 2\nThe answer is 2."},
    ),
}
NOT_READ: dict[str, tuple[Any, str]] = {
    "prose": (ANSWER, "I am not sure how to answer in that form."),
    "empty": (ANSWER, ""),
    "a cut element": (ANSWER, "<thought>t</thought><answer>4"),
    "cut JSON": (ANSWER, '{"thought": "t", "answer": "4'),
    "JSON without the answer": (ANSWER, '{"thought": "t"}'),
    "JSON of null": (ANSWER, '{"thought": "t", "answer": null}'),
    "not correct": (REVIEW, "The solution is not correct."),
    "both": (REVIEW, "<feedback>f</feedback><verdict>correct or incorrect</verdict>"),
    "a letter too far": (CHOICE, "<choice>D</choice>"),
    "a word that ends in a letter": (CHOICE, "I like BANANA"),
    "a remark on the solution": (SOLUTION, "The solution is already correct; nothing to change."),
    "deep JSON": (ANSWER, '{"thought": ' * 5_000),
}


@pytest.mark.parametrize("name", READ)
def test_reply_is_read(name: str) -> None:
    form, text, fields = READ[name]
    assert form(text) == fields


@pytest.mark.parametrize("name", NOT_READ)
def test_reply_is_malformed(name: str) -> None:
    form, text = NOT_READ[name]
    with pytest.raises(ReplyError):
        form(text)


@given(st.text(max_size=60), st.text(max_size=20))
def test_json_is_read_as_it_was_written(thought: str, answer: str) -> None:
    """Unless a backslash stands before the letter of a LaTeX command, which JSON does not tell from an escape."""
    fields = {"thought": thought.replace("\\", ""), "answer": answer.replace("\\", "")}
    text = json.dumps(fields, ensure_ascii=False)
    if any(char in text for char in ("\\b", "\\f", "\\r", "\\t", "\\n")):
        return
    assert ANSWER(text) == {name: value.strip() for name, value in fields.items()}


def test_only_a_whole_program_is_code_without_a_fence() -> None:
    assert fenced("import math\n\ndef solve():\n    return math.pi\n").startswith("import math")
    for text in ("solve", "The function is def solve", "x = 1", "def solve(:\n"):
        with pytest.raises(ReplyError):
            fenced(text)


@pytest.mark.parametrize(
    ("operator", "form"),
    [("AnswerGenerate", ANSWER), ("Review", REVIEW), ("Revise", SOLUTION), ("ScEnsemble", CHOICE)],
)
def test_prompt_asks_for_json_in_place_of_elements(operator: str, form: Any) -> None:
    fields = dict.fromkeys(("problem", "attempt", "solution", "feedback", "candidates"), "x <answer>y</answer>")
    prompt = form.ask_for_json(render(operator, **fields))
    tail = prompt.rsplit("\n", 1)[1]
    assert list(json.loads(tail)) == list(form.names) and "Reply in this form" not in prompt
    assert "x <answer>y</answer>" in prompt


async def test_structured_reply_is_requested_by_schema(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = lambda prompt, number: '{"feedback": "fine", "verdict": "incorrect"}'
    call = OperatorCall(endpoint.client(executor_structured="json_schema"), seed=1)
    state = State(Problem("6 * 7?"), (Candidate("41"),))
    result = await DEFAULT_OPERATORS["Review"]().run(state, {}, call)
    schema = endpoint.payloads[0]["response_format"]["json_schema"]["schema"]
    assert (result.verdict, result.feedback) == (False, "fine")
    assert schema["properties"]["verdict"]["enum"] == ["correct", "incorrect"]
    assert schema["required"] == ["feedback", "verdict"] and schema["additionalProperties"] is False


async def test_tags_send_no_schema(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = lambda prompt, number: "<thought>t</thought><answer>42</answer>"
    await DEFAULT_OPERATORS["AnswerGenerate"]().run(State(Problem("q")), {}, OperatorCall(endpoint.client(), seed=1))
    assert "response_format" not in endpoint.payloads[0]


async def test_second_reply_in_no_form_is_read_by_its_last_line(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = lambda prompt, number: "6 * 7 = 42\nSo 42"
    call = OperatorCall(endpoint.client(), seed=1)
    result = await DEFAULT_OPERATORS["AnswerGenerate"]().run(State(Problem("q")), {}, call)
    assert result.candidates[0].answer == "So 42" and call.parse_errors == 2


async def test_schema_is_part_of_the_cache_key(endpoint: ScriptedEndpoint) -> None:
    client = endpoint.client()
    message = [{"role": "user", "content": "x"}]
    plain, formed = (client._chat_request(message, 0, None, schema) for schema in (None, {"type": "json_object"}))
    assert client._cache_key(plain) != client._cache_key(formed)
