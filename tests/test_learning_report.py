"""The report of what was learned where: the frontier, and a policy that is always right or always wrong."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aflow_trl.rollouts import Rollouts, ScoredRollout
from aflow_trl.runs import learning_report, plot_frontier
from aflow_trl.runs.learning import frontier
from command_line import is_drawn
from conftest import ScriptedEndpoint, operator_script


def fixed(**points: tuple[float, float]) -> dict[str, Any]:
    return {name: {"domains": {"math": {"calls": x, "accuracy": y}}} for name, (x, y) in points.items()}


def test_the_frontier_is_what_no_workflow_beats_at_no_higher_cost() -> None:
    points = fixed(cheap=(1, 0.5), worse=(2, 0.4), better=(3, 0.8), same=(4, 0.8), dear=(9, 0.9), twin=(1, 0.3))
    assert frontier(points, "math") == ["cheap", "better", "dear"]


@given(st.lists(st.tuples(st.integers(1, 5), st.sampled_from([0.2, 0.4, 0.6])), min_size=1, max_size=12))
def test_every_workflow_is_matched_by_one_of_the_frontier_at_no_higher_cost(points: list[tuple[int, float]]) -> None:
    named = {str(number): point for number, point in enumerate(points)}
    best = [named[name] for name in frontier(fixed(**named), "math")]
    assert all(any(x <= cost and y >= accuracy for x, y in best) for cost, accuracy in points)


@pytest.fixture
async def rollout(endpoint: ScriptedEndpoint) -> ScoredRollout:
    endpoint.script = operator_script(Custom="42")
    row = {"question": "What is 6 * 7?", "answer": ["42"], "domain": "math", "difficulty": 1}
    (scored,) = await Rollouts(endpoint.engine()).execute(["Custom"], [row], salt="s", phase="test", step=0)
    return scored


@pytest.mark.parametrize("correctness", [1.0, 0.0])
@pytest.mark.parametrize("count", [10, 69, 120])
async def test_a_policy_that_is_always_right_or_always_wrong_is_drawn(
    correctness: float, count: int, rollout: ScoredRollout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = [replace(rollout, correctness=correctness)] * count
    report = learning_report({"untrained": batch, "trained": batch}, {"Custom": batch})
    assert report["policies"]["trained"]["difficulties"]["math"]["1"]["accuracy"] == correctness
    figures: list[Any] = []
    monkeypatch.setattr("aflow_trl.runs.learning.save_figure", lambda figure, path: figures.append(figure))
    plot_frontier(report, tmp_path / "frontier.png", "test")
    for axis in figures[0].axes:
        (stage,) = [points for points in axis.collections if points.get_label() == "trained"]
        assert stage.get_offsets().tolist() == [[1.0, correctness]]


PLOT = """
import sys
import matplotlib
import aflow_trl, aflow_trl.cli, aflow_trl.evaluation, aflow_trl.tasks
from aflow_trl.runs import new_figure, save_figure
from pathlib import Path

figure, axis = new_figure(figsize=(2, 2))
axis.plot([0, 1])
save_figure(figure, Path(sys.argv[1]))
assert matplotlib.get_backend().lower() == "svg", matplotlib.get_backend()
assert "matplotlib.pyplot" not in sys.modules
"""


@pytest.mark.slow
def test_the_backend_of_matplotlib_is_left_to_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, because other tests and their libraries may have chosen a backend for this one."""
    monkeypatch.setenv("MPLBACKEND", "svg")
    command = [sys.executable, "-c", PLOT, str(tmp_path / "plot.png")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]
    assert is_drawn(tmp_path / "plot.png")
