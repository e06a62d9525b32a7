"""What the README shows works as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aflow_trl.dsl import format_workflow, parse
from test_dsl import ACCEPTED

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
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
def test_python_example_runs(index: int, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(PYTHON[index])
    result = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=280, env=os.environ
    )
    assert result.returncode == 0, result.stderr[-2000:]


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target


def test_readme_has_no_open_places() -> None:
    assert "@@" not in README
