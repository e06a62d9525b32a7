"""Text of a model goes through one door: bounded, harmless to print, and never read as markup or as a formula."""

from __future__ import annotations

import ast
import contextlib
import json
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

import aflow_trl
from aflow_trl.console import report_console
from aflow_trl.dsl import extract
from aflow_trl.engine import RolloutRequest
from aflow_trl.operators import Problem
from aflow_trl.operators.replies import ReplyError, fenced, tagged
from aflow_trl.rewards import stated_answer
from aflow_trl.runs import new_figure, save_figure
from aflow_trl.storage import write_json
from aflow_trl.text import MAX_TEXT_CHARS, model_text
from command_line import is_drawn
from conftest import ScriptedEndpoint

PACKAGE = Path(aflow_trl.__file__).parent
HOSTILE = "a\x1b]0;title\x07\x9b31m\u202eb\ud800c\u200bd\r\ne\x00"


@given(st.text(st.characters()))
def test_what_is_behind_the_door_can_be_printed_and_stored(text: str) -> None:
    clean = model_text(text)
    assert len(clean) <= MAX_TEXT_CHARS and clean.encode("utf-8").decode("utf-8") == clean
    assert not [char for char in clean if char not in "\n\t" and unicodedata.category(char) in ("Cc", "Cf", "Cs")]
    assert model_text(clean) == clean


def test_the_end_of_a_long_text_is_kept() -> None:
    assert model_text("a" * 8 * 2**20 + "end") == "a" * (MAX_TEXT_CHARS - 3) + "end"


def test_ordinary_text_stays_as_it_is() -> None:
    text = "Größe: ½ m²\n\tnext → line “quoted” 🙂"
    assert model_text(text) == text


async def test_a_prompt_holds_nothing_hostile_of_an_earlier_reply(endpoint: ScriptedEndpoint) -> None:
    endpoint.script = lambda prompt, number: f"<thought>{HOSTILE}</thought><answer>{HOSTILE}{'x' * 50_000}</answer>"
    engine = endpoint.engine()

    (trace,) = await engine.run([RolloutRequest("Custom -> Review", Problem("q", "math"))])
    assert all(len(prompt) < MAX_TEXT_CHARS + 5_000 for prompt in endpoint.prompts)
    assert not any(char in "".join(endpoint.prompts) for char in "\x1b\x07\x9b\u202e\u200b\x00")
    assert json.loads(json.dumps(trace.to_json())) is not None


@pytest.mark.parametrize("piece", ["<answer>", "<workflow>", "```\n", "```", "\n", "<answer></answer", '"', "->"])
def test_parsers_of_replies_are_linear(piece: str) -> None:
    text = piece * (2**20 // len(piece))
    begin = time.perf_counter()
    for parse in (tagged("answer"), fenced):
        with contextlib.suppress(ReplyError):
            parse(text)
    extract(text)
    stated_answer(text)
    assert time.perf_counter() - begin < 5.0, "quadratic time would take many minutes"


def test_a_summary_with_half_a_surrogate_pair_is_written(tmp_path: Path) -> None:
    write_json(tmp_path / "summary.json", {"workflow": 'Custom("\ud800")'})
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "text", ['Custom("[/b]")', "[red]", "[Custom, Review] -> ScEnsemble", "$\\frac{$", "[link=x]y"]
)
def test_tables_and_plots_take_text_as_it_is(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(title=text)
    table.add_column("workflow")
    table.add_row(text)
    report_console().print(table)
    report_console().print(text)
    assert capsys.readouterr().out.count(text) == 3
    figure, axis = new_figure(figsize=(3, 3))
    axis.set(title=text, xlabel=text)
    axis.plot([0, 1], [0, 1], label=text)
    axis.legend()
    save_figure(figure, tmp_path / "plot.png")
    assert is_drawn(tmp_path / "plot.png")


def test_every_report_is_printed_to_a_console_without_markup() -> None:
    """A console of one's own would read `[/b]` in a workflow as markup; the progress bar alone has one."""
    makers = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Console"
    }
    assert makers == {"console.py", "cli/run.py"}
