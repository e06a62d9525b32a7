"""The report of what was learned where: the frontier, and a policy that is always right or always wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aflow_trl.runs import learning_report, plot_frontier
from aflow_trl.runs.learning import frontier
from aflow_trl.scoring.statistics import wilson_interval


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_share(counts: tuple[int, int]) -> None:
    right, n = counts
    low, high = wilson_interval(right, n)
    assert 0 <= low <= right / n <= high <= 1


def fixed(**points: tuple[float, float]) -> dict[str, Any]:
    return {name: {"domains": {"math": {"calls": x, "accuracy": y}}} for name, (x, y) in points.items()}


def test_the_frontier_is_what_none_beats_at_no_higher_cost() -> None:
    points = fixed(cheap=(1, 0.5), worse=(2, 0.4), better=(3, 0.8), same=(4, 0.8), dear=(9, 0.9), twin=(1, 0.3))
    assert frontier(points, "math") == ["cheap", "better", "dear"]


@pytest.mark.parametrize("correctness", [1.0, 0.0])
@pytest.mark.parametrize("count", [10, 69, 120])
async def test_a_policy_that_is_always_right_or_always_wrong_is_drawn(
    correctness: float, count: int, endpoint: Any, tmp_path: Path
) -> None:
    from dataclasses import replace

    from aflow_trl.rollouts import Rollouts
    from conftest import operator_script

    endpoint.script = operator_script(Custom="42")
    row = {"question": "What is 6 * 7?", "answer": ["42"], "domain": "math", "difficulty": 1}
    (one,) = await Rollouts(endpoint.engine()).execute(["Custom"], [row], salt="s", phase="test", step=0)
    batch = [replace(one, correctness=correctness)] * count
    report = learning_report({"untrained": batch, "trained": batch}, {"Custom": batch})
    plot_frontier(report, tmp_path / "frontier.png", "test")
    assert (tmp_path / "frontier.png").stat().st_size > 5_000
    assert report["policies"]["trained"]["difficulties"]["math"]["1"]["accuracy"] == correctness
