"""What the README and the documents show works as it is written there."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import yaml

from aflow_trl.dsl import format_workflow, parse
from aflow_trl.operators import DEFAULT_OPERATORS
from aflow_trl.recipes import load_recipe
from aflow_trl.scoring import domains
from test_dsl import ACCEPTED

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def snippets(language: str) -> list[pytest.ParameterSet]:
    """Snippets of all documents, but those of executors.md, which need its imitations (`test_providers.py`)."""
    found = []
    for path in DOCUMENTS:
        blocks = re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
        if path.name != "executors.md":
            found += [pytest.param(block, id=f"{path.stem}-{number}") for number, block in enumerate(blocks, start=1)]
    return found


def test_every_workflow_of_the_readme_is_accepted_and_in_the_table() -> None:
    (block,) = re.findall(r"## The language\n\n```\n(.*?)```", README, re.DOTALL)
    workflows = block.strip().splitlines()
    assert len(workflows) >= 8
    for text in workflows:
        assert format_workflow(parse(text)) == text
        assert text in [row[0] for row in ACCEPTED]


@pytest.mark.slow
@pytest.mark.parametrize("code", snippets("python"))
def test_python_example_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # What an example defines is gone with it.
    monkeypatch.setattr(DEFAULT_OPERATORS, "_classes", dict(DEFAULT_OPERATORS._classes))
    monkeypatch.setattr(domains, "_CUSTOM", dict(domains._CUSTOM))
    (tmp_path / "example.py").write_text(code)
    variables = runpy.run_path("example.py", run_name="__main__")
    if "trainer" in variables:
        assert variables["trainer"].state.global_step == 2, "it has trained to its end"


@pytest.mark.parametrize("text", snippets("yaml"))
def test_yaml_example_is_part_of_a_recipe(text: str, tmp_path: Path) -> None:
    quickstart = yaml.safe_load((ROOT / "recipes" / "quickstart.yaml").read_text(encoding="utf-8"))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(quickstart | yaml.safe_load(text)))
    assert load_recipe([str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path / "run")]).source


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(((?!http)[^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def test_readme_has_no_placeholders() -> None:
    assert "@@" not in README
