"""Prompts that do not fit the context of the policy are left out and said; nothing is cut off."""

from __future__ import annotations

from pathlib import Path

import pytest

from aflow_trl.cli.options import ANY_MACHINE
from aflow_trl.data import Row
from aflow_trl.errors import DataError
from aflow_trl.recipes import Recipe, load_recipe
from aflow_trl.tasks.prompt_length import leave_out_what_does_not_fit

SHORT = Row("What is 6 * 7?", ("42",), "math")
LONG = Row("What is " + " + ".join(["1"] * 9_000) + "?", ("9000",), "math")
MIDDLE = Row("What is " + " + ".join(["1"] * 150) + "?", ("150",), "math")


def recipe_of(model: Path) -> Recipe:
    return load_recipe(["quickstart.yaml", "--model_name_or_path", str(model), *ANY_MACHINE])


def test_rows_beyond_the_context_of_the_model_are_left_out(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, held_out, left_out = leave_out_what_does_not_fit(recipe_of(tiny_model), [SHORT, LONG, SHORT], [SHORT])
    assert (train, held_out, left_out) == ([SHORT, SHORT], [SHORT], {"train": 1, "held_out": 0})
    printed = capsys.readouterr().out
    assert "1 of 3 train prompts" in printed and "max_position_embeddings" in printed


def test_the_context_is_that_of_vllm_where_it_is_smaller(tiny_model: Path) -> None:
    recipe = recipe_of(tiny_model)
    assert leave_out_what_does_not_fit(recipe, [SHORT, MIDDLE], [SHORT])[2]["train"] == 0
    recipe.training.use_vllm, recipe.training.vllm_max_model_length = True, 200
    assert leave_out_what_does_not_fit(recipe, [SHORT, MIDDLE], [SHORT])[2]["train"] == 1


def test_when_nothing_fits_the_run_is_refused_with_both_lengths(tiny_model: Path) -> None:
    recipe = recipe_of(tiny_model)
    recipe.training.use_vllm, recipe.training.vllm_max_model_length = True, 60
    with pytest.raises(DataError, match=r"every train prompt is longer than 12 tokens .*vllm_max_model_length is 60"):
        leave_out_what_does_not_fit(recipe, [SHORT], [SHORT])
