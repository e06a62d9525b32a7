"""Exported workflows: the script answers as the engine does, and AFlow's class translates back to the workflow."""

from __future__ import annotations

import ast
import asyncio
import itertools
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aflow_trl.data import Row, synthetic_rows
from aflow_trl.dsl import (
    Operator,
    OperatorSpec,
    Workflow,
    builtin_vocabulary,
    format_workflow,
    parse,
    sample_workflow,
)
from aflow_trl.engine import RolloutRequest
from aflow_trl.errors import RecipeError
from aflow_trl.export import to_aflow, to_python
from aflow_trl.improvement import translate
from aflow_trl.llm import ExecutorConfig
from aflow_trl.operators import Problem
from aflow_trl.simulator import reply
from command_line import aflow
from conftest import ScriptedEndpoint

VOCABULARY = builtin_vocabulary()
WORKFLOWS = [
    "Custom -> Programmer -> Review ? Revise : done",
    "[AnswerGenerate, Programmer, Custom] -> ScEnsemble -> Format",
    "CustomCodeGenerate -> Test -> Review -> Revise",
    "Programmer -> (Review ? Revise : done) * 3",
    '[Custom, Custom(instruction="Say \\"why\\".") -> Review ? (Revise -> Format) : done]',
]
# The endpoint is deterministic here, so equal prompts get equal replies in the engine and in the script.
PROGRAM = """
import asyncio, json, sys
sys.path.insert(0, sys.argv[1])
import exported

async def main():
    problems = json.load(sys.stdin)
    print(json.dumps(await asyncio.gather(*(exported.solve(base_url=sys.argv[2], **p) for p in problems))))

asyncio.run(main())
"""


def script(workflow: str) -> str:
    return to_python(parse(workflow), vocabulary=VOCABULARY, config=ExecutorConfig())


def question(row: Row) -> dict[str, object]:
    return {
        "question": row.question,
        "domain": row.domain,
        "context": row.context,
        "entry_point": row.entry_point or None,
        "public_tests": row.public_tests,
    }


async def answers_of_script(workflow: str, rows: list[Row], base_url: str, folder: Path) -> list[str]:
    (folder / "exported.py").write_text(script(workflow), encoding="utf-8")
    # With -I neither PYTHONPATH nor the working directory provides modules of this project.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-c", PROGRAM, str(folder), base_url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "OPENAI_API_KEY": "sk-test"},
    )
    out, err = await process.communicate(json.dumps([question(row) for row in rows]).encode())
    assert process.returncode == 0, err.decode()
    return list(json.loads(out))


@pytest.mark.parametrize("workflow", WORKFLOWS)
async def test_script_answers_as_the_engine_does(workflow: str, endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.script = lambda prompt, number: reply(prompt, 0)
    rows = list(itertools.islice(synthetic_rows(7, "test"), 50))
    problems = [Problem(**question(row)) for row in rows]
    traces = await endpoint.engine().run([RolloutRequest(parse(workflow), problem) for problem in problems])
    assert len({trace.answer for trace in traces}) > 20
    assert await answers_of_script(workflow, rows, endpoint.base_url, tmp_path) == [trace.answer for trace in traces]


def test_script_imports_nothing_but_openai() -> None:
    nodes = ast.parse(script(WORKFLOWS[2])).body
    modules = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    modules |= {str(node.module).split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    assert modules - set(sys.stdlib_module_names) == {"openai"}


@given(seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_script_of_every_workflow_compiles(seed: int) -> None:
    compile(script(format_workflow(sample_workflow(random.Random(seed)))), "exported.py", "exec")


def test_script_prints_its_usage(tmp_path: Path) -> None:
    (tmp_path / "workflow.py").write_text(script(WORKFLOWS[0]))
    command = [sys.executable, str(tmp_path / "workflow.py"), "--help"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert process.returncode == 0 and process.stdout.startswith("usage: workflow.py [-h]")


ROUND_TRIPS = [
    "Custom",
    'Custom(instruction="Think\\nhard.")',
    "[Custom, Custom, Custom] -> ScEnsemble",
    "Custom -> Review ? Revise : done",
    "CustomCodeGenerate -> Test ? Custom : done",
    "[AnswerGenerate, Custom -> Programmer] -> ScEnsemble -> Format",
    "Custom -> [Programmer, Format] -> MdEnsemble -> Review -> Revise",
]


@pytest.mark.parametrize("text", ROUND_TRIPS)
def test_aflow_class_translates_back_to_the_workflow(text: str) -> None:
    assert translate(*to_aflow(parse(text), vocabulary=VOCABULARY), VOCABULARY) == text


@given(seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_aflow_class_compiles_or_the_export_is_refused(seed: int) -> None:
    workflow = sample_workflow(random.Random(seed))
    try:
        graph, prompts = to_aflow(workflow, vocabulary=VOCABULARY)
    except RecipeError as error:
        assert "AFlow" in str(error)
        return
    compile(graph, "graph.py", "exec")
    compile(prompts, "prompt.py", "exec")


NO_COUNTERPART = [
    ("[Custom, Programmer] -> Format", "without an ensemble"),
    ("Programmer ? Custom : done", "Programmer returns no verdict"),
    ("(Custom -> Review ? Revise : done) * 2", "`done` in a loop"),
    ("Custom -> Review ? Format : done -> Revise", "feedback from before a condition"),
]


@pytest.mark.parametrize(("text", "reason"), NO_COUNTERPART)
def test_workflow_without_a_counterpart_in_aflow_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        to_aflow(parse(text), vocabulary=VOCABULARY)


@pytest.mark.parametrize("export", [to_aflow, partial(to_python, config=ExecutorConfig())], ids=["aflow", "python"])
def test_operator_of_the_user_cannot_be_exported(export: Callable[..., object]) -> None:
    vocabulary = {**VOCABULARY, "Mine": OperatorSpec("Mine", 1)}
    with pytest.raises(RecipeError, match=r"the operator Mine .*Use some of Custom"):
        export(Workflow(Operator("Mine")), vocabulary=vocabulary)


EXPORTS = {"python": "import openai", "aflow": "class Workflow", "mermaid": "flowchart"}


@pytest.mark.parametrize(("target", "expected"), EXPORTS.items())
def test_command_prints_the_export(target: str, expected: str) -> None:
    process = aflow("export", "Custom -> Review ? Revise : done", "--to", target)
    assert process.returncode == 0, process.stderr
    assert expected in process.stdout


def test_an_argument_that_looks_like_a_field_of_the_template_stays_as_it_is() -> None:
    workflow = parse('Custom(instruction="Fill in {{model}} and {{prompts}}.")')
    script = to_python(workflow, vocabulary=VOCABULARY, config=ExecutorConfig(executor_model="some-model"))
    assert "Fill in {{model}} and {{prompts}}." in script
