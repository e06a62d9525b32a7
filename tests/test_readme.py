"""What the README shows works as it is written there."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from aflow_trl.dsl import format_workflow, parse
from test_dsl import ACCEPTED

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_every_workflow_of_the_readme_is_accepted_and_in_the_table() -> None:
    (block,) = re.findall(r"## The language\n\n```\n(.*?)```", README, re.DOTALL)
    workflows = block.strip().splitlines()
    assert len(workflows) >= 8
    for text in workflows:
        assert format_workflow(parse(text)) == text
        assert text in [row[0] for row in ACCEPTED]


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(PYTHON)))
def test_python_example_runs(index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "example.py").write_text(PYTHON[index])
    variables = runpy.run_path("example.py", run_name="__main__")
    if "trainer" in variables:
        assert variables["trainer"].state.global_step == 2, "it has trained to its end"


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_readme_has_no_placeholders() -> None:
    assert "@@" not in README
