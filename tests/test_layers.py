"""The tree is the architecture: a stage imports only stages below it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import aflow_trl

PACKAGE = Path(aflow_trl.__file__).parent
# What a stage may import; `errors` is open to all.
ALLOWED = {
    "dsl": set(),
    "sandbox": set(),
    "llm": set(),
    "operators": {"dsl", "llm", "sandbox"},
    "engine": {"operators", "llm", "dsl"},
    "scoring": {"operators", "sandbox", "llm"},
    "data": {"operators", "dsl"},
    "simulator": {"operators", "data", "dsl"},
    "rewards": {"scoring", "engine", "operators", "dsl"},
    "trainer": {"rewards", "engine", "data", "dsl"},
    "report": {"trainer", "rewards", "engine"},
    "warmstart": {"data", "dsl", "rewards"},
    "evaluation": {"report", "trainer", "rewards", "scoring", "data", "dsl"},
    "export": {"operators", "dsl", "llm", "sandbox"},
    "tasks": {
        *(
            "report",
            "trainer",
            "rewards",
            "simulator",
            "data",
            "scoring",
            "engine",
            "operators",
            "dsl",
            "llm",
            "sandbox",
        ),
        *("recipe", "replay", "warmstart"),
    },
}
ENTRY_POINTS = {
    "train",
    "cli",
    "estimate",
    "replay",
    "recipe",
    "compose",
    "prepare",
    "answer",
    "evaluate",
    "search",
    "commands",
    "__init__",
}


def imported_stages(path: Path) -> set[str]:
    """Stages of this package that a module imports."""
    stages = set()
    depth = len(path.relative_to(PACKAGE).parts) - 1
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level > depth:
            stages |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aflow_trl."):
            stages.add(node.module.split(".")[1])
    return stages


@pytest.mark.parametrize("stage", ALLOWED)
def test_stage_imports_only_downward(stage: str) -> None:
    imported = set().union(*(imported_stages(path) for path in (PACKAGE / stage).glob("*.py")))
    assert imported <= ALLOWED[stage] | {"errors"}


def test_every_module_belongs_to_a_stage() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/*.py")}
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    assert folders == set(ALLOWED)
    assert modules == ENTRY_POINTS | {"errors"}


def test_allowed_imports_form_no_cycle() -> None:
    order = list(ALLOWED)
    for stage, below in ALLOWED.items():
        assert all(order.index(other) < order.index(stage) for other in below & set(order))


def test_sandboxed_scripts_need_only_the_standard_library() -> None:
    for name in ("child", "confine", "server", "codec"):
        assert imported_stages(PACKAGE / "sandbox" / f"{name}.py") == set()
