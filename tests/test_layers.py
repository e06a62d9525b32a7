"""The tree is the architecture: a room imports only rooms below it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import aflow_trl

PACKAGE = Path(aflow_trl.__file__).parent
ROOMS = (
    *(
        "errors",
        "text",
        "assets",
        "console",
        "event_loops",
        "user_modules",
        "storage",
        "dsl",
        "sandbox",
        "llm",
        "answers",
    ),
    *("operators", "engine", "scoring", "data", "simulator", "rollouts", "rewards", "improvement", "policies"),
    *("trainer", "runs", "evaluation", "warm_start", "recipes", "tasks", "inference", "export", "api", "cli", "train"),
)
"""From the bottom to the top: a room imports only rooms before it."""
NO_IMPORTS = ("errors", "text", "assets", "console", "event_loops", "user_modules", "sandbox", "dsl", "llm", "answers")
"""The bottom: they know `errors` and the files that ship, nothing else."""


def modules_of(room: str) -> list[Path]:
    """Modules of a room, or the one module it is."""
    return [*(PACKAGE / room).rglob("*.py")] or [PACKAGE / f"{room}.py"]


def imported_rooms(path: Path) -> set[str]:
    """Rooms of this package that a module imports."""
    rooms = set()
    depth = len(path.relative_to(PACKAGE).parts) - 1
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level > depth:
            rooms |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aflow_trl."):
            rooms.add(node.module.split(".")[1])
    return rooms


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_only_downward(room: str) -> None:
    below = set(ROOMS[: ROOMS.index(room)])
    for path in modules_of(room):
        assert imported_rooms(path) - {room} <= below, path


@pytest.mark.parametrize("room", NO_IMPORTS)
def test_the_bottom_imports_no_other_room(room: str) -> None:
    for path in modules_of(room):
        assert imported_rooms(path) - {room} <= {"errors", "assets", "text"}, path


def test_every_module_belongs_to_a_room() -> None:
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert rooms == {*ROOMS, "__init__"}


def test_no_two_rooms_and_no_two_modules_of_the_package_root_share_a_name() -> None:
    assert len(set(ROOMS)) == len(ROOMS)


def test_sandboxed_scripts_need_only_the_standard_library() -> None:
    for name in ("child", "confine", "server", "codec", "checks", "filters", "libraries", "scratch", "tester"):
        assert imported_rooms(PACKAGE / "sandbox" / f"{name}.py") == set()
