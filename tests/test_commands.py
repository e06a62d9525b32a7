"""Every shell line of README, docs and recipes is one that a user can type; and the first commands of a new user."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from packaging.requirements import Requirement

from aflow_trl.assets import asset_path
from aflow_trl.cli.main import build_parser
from aflow_trl.event_loops import run_coroutine
from aflow_trl.recipes import load_recipe
from command_line import aflow
from conftest import ScriptedEndpoint

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = ("aflow-trl ", "accelerate launch ", "pip install ", "make ", "python ", "export ", "git ")
MAKE_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
MATH = "Ana has 20 apples. Ana gets 5 more. How many apples does Ana have now?"


def shell_lines() -> list[tuple[str, str]]:
    """Commands in fenced blocks of documents and in the comments of recipes, with the file they are in."""
    found = []
    for path in DOCUMENTS:
        for block in re.findall(r"```(?:bash|sh)?\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
            found += [
                (path.name, line) for line in block.replace("\\\n", " ").splitlines() if line.startswith(COMMANDS)
            ]
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        comments = re.findall(r"^# {2,}(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        found += [(path.name, line) for line in comments if line.startswith(COMMANDS)]
    return found


LINES = shell_lines()


def test_there_are_shell_lines() -> None:
    assert len(LINES) > 40


@pytest.mark.parametrize(("source", "line"), LINES, ids=[f"{source}: {line[:60]}" for source, line in LINES])
def test_shell_line_can_be_typed(source: str, line: str) -> None:
    words = shlex.split(re.split(r" [>|] ", line)[0], comments=True)
    if words[0] == "aflow-trl" and words[1] not in ("train",):
        options, rest = build_parser().parse_known_args(words[1:])
        assert not rest or getattr(options, "takes_overrides", False), rest
    elif words[0] == "aflow-trl":
        check_training(words[2:])
    elif words[:2] == ["accelerate", "launch"]:
        if "--config_file" in words:
            assert (ROOT / words[words.index("--config_file") + 1]).is_file()
        check_training(words[words.index("aflow_trl.train") + 1 :])
    elif words[:2] == ["pip", "install"]:
        for name in (word for word in words[2:] if not word.startswith("-")):
            assert name.startswith(".") or Requirement(name).name != "aflow_trl", "it is on no index"
    elif words[0] == "make":
        assert {word for word in words[1:] if "=" not in word} <= MAKE_TARGETS
    elif words[0] == "python":
        assert words[1].startswith("-") or (ROOT / words[1]).is_file()


def check_training(words: list[str]) -> None:
    recipe = words[0]
    assert (ROOT / recipe).is_file() or asset_path("recipes", recipe) is not None or not recipe.endswith(".yaml")
    if asset_path("recipes", recipe) is not None:
        load_recipe([*words, "--use_cpu", "true", "--bf16", "false", "--fp16", "false"])


def test_a_long_workflow_and_its_diagram_are_not_wrapped() -> None:
    workflow = "[" + ", ".join(['Custom(instruction="think about the units, step by step")'] * 4) + "] -> ScEnsemble"
    result = aflow("check", workflow)
    assert result.returncode == 0 and workflow in result.stdout.splitlines()
    (diagram,) = re.findall(r"flowchart LR\n((?:    .*\n)+)", result.stdout)
    assert result.stdout.rstrip().endswith(diagram.rstrip())
    answered = aflow("run", MATH, "--simulated", "--workflow", workflow)
    assert f"workflow  {workflow}" in answered.stdout.splitlines()


def test_the_command_line_starts_without_torch() -> None:
    code = "import aflow_trl.cli.main, sys; print([name for name in ('torch', 'trl', 'transformers') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_version() -> None:
    result = aflow("--version")
    assert result.returncode == 0 and result.stdout.startswith("aflow_trl 0.")


def test_recipes_are_listed_shown_and_copied(tmp_path: Path) -> None:
    listed = aflow("recipes").stdout
    assert "quickstart.yaml" in listed and "single_gpu.yaml" in listed
    assert "max_steps: 80" in aflow("recipes", "show", "quickstart.yaml").stdout
    assert aflow("recipes", "copy", "single_gpu.yaml", str(tmp_path)).returncode == 0
    assert (tmp_path / "single_gpu.yaml").read_text() == (ROOT / "accelerate_configs" / "single_gpu.yaml").read_text()
    again = aflow("recipes", "copy", "single_gpu.yaml", str(tmp_path))
    assert again.returncode == 2 and "left as it is" in again.stderr
    assert "quickstart.yaml" in aflow("recipes", "show", "quikstart.yaml").stderr


# -- who answers -----------------------------------------------------------------------------------------------------


def test_without_a_flag_the_simulated_executor_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    result = aflow("run", "What is the capital of France?")
    assert result.returncode == 2 and "OPENAI_API_KEY" in result.stderr and result.stdout == ""


def test_a_question_that_the_simulated_executor_cannot_read_is_refused() -> None:
    result = aflow("run", "What is the capital of France?", "--simulated")
    assert result.returncode == 2 and "capital of France" in result.stderr and "--base-url" in result.stderr


def test_a_line_says_who_answers() -> None:
    assert "simulated executor" in aflow("run", MATH, "--simulated").stderr
    both = aflow("run", MATH, "--simulated", "--base-url", "http://localhost:1/v1")
    assert both.returncode == 2 and "exclude each other" in both.stderr


# -- operators of the user -------------------------------------------------------------------------------------------

OPERATOR = """
from aflow_trl.operators import Candidate, Operator, operator

@operator(description="Says {name}.", max_calls=1)
class {name}(Operator):
    async def run(self, state, arguments, call):
        return state.with_candidate(Candidate("42"))
"""


def test_operators_of_the_working_folder_and_of_a_path_are_found(tmp_path: Path) -> None:
    for name in ("Here", "There"):
        (tmp_path / f"my_{name.lower()}.py").write_text(OPERATOR.format(name=name))
    script = Path(sys.executable).parent / "aflow-trl"
    flags = ["--operator-module", "my_here", "--operator-module", str(tmp_path / "my_there.py")]
    result = subprocess.run([script, "check", "Here -> There", *flags], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0 and "Here -> There" in result.stdout, result.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["no_such_operators", "is not found", "path of a .py file"]),
        ("import no_such_package", ["needs 'no_such_package'", "not installed"]),
        ("x = 1\\ny = 1 / 0", ["ZeroDivisionError", "line 2"]),
    ],
)
def test_a_broken_operator_module_says_what_is_wrong(
    content: str | None, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "no_such_operators" if content is None else f"broken_{abs(hash(content))}"
    if content is not None:
        (tmp_path / f"{name}.py").write_text(content.replace("\\n", "\n"))
    result = aflow("check", "Custom", "--operator-module", name)
    assert result.returncode == 2 and all(word in result.stderr for word in words), result.stderr


# -- the cache of replies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"a text\n", b"", b"SQLite format 3\0 and then nothing"])
def test_cache_commands_leave_other_files_alone(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    for flags in (["stats"], ["verify"], ["prune", "--max-mb", "1"]):
        result = aflow("cache", flags[0], str(path), *flags[1:])
        assert result.returncode == 2 and "left as it is" in result.stderr
    assert path.read_bytes() == content and [item.name for item in tmp_path.iterdir()] == ["notes.txt"]


def test_prune_needs_a_size(tmp_path: Path) -> None:
    from aflow_trl.llm import CallCache

    path = tmp_path / "calls.sqlite"
    CallCache(path).stats()
    result = aflow("cache", "prune", str(path))
    assert result.returncode == 2 and "--max-mb" in result.stderr


# -- Python ----------------------------------------------------------------------------------------------------------


async def test_functions_work_inside_a_running_event_loop() -> None:
    import aflow_trl
    from aflow_trl.llm import SIMULATED, ExecutorConfig

    executor = ExecutorConfig(executor_base_url=SIMULATED)
    answered = aflow_trl.run(MATH, executor=executor, workflow="[Programmer, Programmer, Programmer] -> ScEnsemble")
    assert answered.answer == "25" and "**25**" in answered._repr_markdown_()


async def test_evaluation_works_inside_a_running_event_loop(tmp_path: Path) -> None:
    import aflow_trl
    from aflow_trl.llm import SIMULATED, ExecutorConfig

    executor = ExecutorConfig(executor_base_url=SIMULATED)
    report = aflow_trl.evaluate("synthetic", executor=executor, workflows=["Custom"], limit=4, out=tmp_path)
    assert report["problems"] == 4 and (tmp_path / "results.md").is_file()


def test_an_error_inside_a_coroutine_has_no_foreign_context() -> None:
    """A refused connection was once blamed on the missing event loop."""

    async def fail() -> None:
        raise ValueError

    with pytest.raises(ValueError) as caught:
        run_coroutine(fail())
    assert caught.value.__context__ is None


def test_a_dead_endpoint_is_reported_within_seconds() -> None:
    begin = time.monotonic()
    result = aflow("run", MATH, "--base-url", "http://127.0.0.1:9/v1")
    assert result.returncode == 2 and "connection was refused" in result.stderr
    assert time.monotonic() - begin < 15


async def test_the_failure_of_an_operator_is_shown(
    endpoint: ScriptedEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(prompt: str, number: int) -> Any:
        if "word word" not in prompt:
            return "ready"
        body = {"error": {"message": "too many tokens", "code": "context_length_exceeded"}}
        return web.json_response(body, status=400)

    endpoint.script = script
    question = "word " * 100
    result = await asyncio.to_thread(aflow, "run", question, "--base-url", endpoint.base_url, "--workflow", "Custom")
    assert "Custom failed" in result.stdout and "too many tokens" in result.stdout
