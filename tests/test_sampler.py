"""Balanced batches: exact shares, TRL's repeats around them, the same order again after a resume."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.utils import RepeatSampler

from aflow_trl.data import PolicyPrompt, build_dataset, load_rows
from aflow_trl.operators import DEFAULT_OPERATORS
from aflow_trl.trainer import WorkflowGRPOConfig, WorkflowGRPOTrainer
from aflow_trl.trainer.samplers import StratifiedSampler, strata_of
from trainers import options, parameters, primary_reward

DOMAINS = ["math"] * 70 + ["qa"] * 20 + ["code"] * 10
LEVELS = [1 + index % 5 for index in range(100)]


def sampler(batch: int = 6, repeats: int = 2, seed: int = 0, **choice: Any) -> StratifiedSampler:
    settings = {"by_domain": True, "hard_share": None, "hard_from": 3} | choice
    strata, weights = strata_of({"domain": DOMAINS, "difficulty": LEVELS}, **settings)
    own = RepeatSampler(DOMAINS, 4, batch_size=batch, repeat_count=repeats, seed=seed)
    return StratifiedSampler(own, strata, weights)


def batches(own: StratifiedSampler, batch: int = 6) -> list[list[int]]:
    """Distinct prompts of each batch."""
    flat = iter(own)
    size = batch * own.mini_repeat_count
    found = []
    while chunk := list(islice(flat, size * own.repeat_count)):
        assert chunk == chunk[:size] * own.repeat_count
        assert all(len(set(chunk[start : start + 4])) == 1 for start in range(0, size, 4))
        found.append(chunk[:size:4])
    return found


def test_every_batch_holds_every_domain_equally() -> None:
    for batch in batches(sampler()):
        assert Counter(DOMAINS[index] for index in batch) == {"math": 2, "qa": 2, "code": 2}


def test_a_batch_that_does_not_divide_starves_no_domain() -> None:
    drawn = batches(sampler(batch=4), batch=4)
    assert all(min(Counter(DOMAINS[i] for i in batch).get(d, 0) for d in set(DOMAINS)) >= 1 for batch in drawn)
    whole = Counter(DOMAINS[index] for batch in drawn for index in batch)
    assert max(whole.values()) - min(whole.values()) <= 1


def test_hard_problems_have_their_share_within_each_domain() -> None:
    for batch in batches(sampler(batch=12, hard_share=0.25, hard_from=4), batch=12):
        hard = Counter(DOMAINS[index] for index in batch if LEVELS[index] >= 4)
        assert hard == {"math": 1, "qa": 1, "code": 1}


def test_a_share_of_zero_draws_no_hard_problem() -> None:
    drawn = [index for batch in batches(sampler(hard_share=0.0)) for index in batch]
    assert max(LEVELS[index] for index in drawn) < 3


@given(seed=st.integers(0, 1_000), epoch=st.integers(0, 5))
def test_an_epoch_has_one_order_whenever_it_is_begun(seed: int, epoch: int) -> None:
    first, second = sampler(seed=seed), sampler(seed=seed)
    for earlier in range(epoch + 1):
        first.set_epoch(earlier)
        order = list(first)
    second.set_epoch(epoch)
    assert list(second) == order


def test_epochs_differ() -> None:
    own = sampler()
    first = list(own)
    own.set_epoch(1)
    assert list(own) != first


def test_without_balance_every_epoch_is_trls_own() -> None:
    theirs = RepeatSampler(DOMAINS, 4, batch_size=6, repeat_count=2, seed=3)
    strata, weights = strata_of(
        {"domain": DOMAINS, "difficulty": LEVELS}, by_domain=False, hard_share=None, hard_from=3
    )
    ours = StratifiedSampler(theirs, strata, weights)
    for epoch in range(3):
        ours.set_epoch(epoch)
        assert list(ours) == list(theirs)


def trainer(model: Path, folder: Path, **overrides: Any) -> WorkflowGRPOTrainer:
    rows = load_rows("synthetic", split="train", count=12, seed=0)
    settings = options(folder, balance_domains=True, hard_share=0.5, max_completion_length=4, **overrides)
    return WorkflowGRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        reward_funcs=[primary_reward],
        args=WorkflowGRPOConfig(**settings),
        train_dataset=build_dataset(rows, prompt=PolicyPrompt("compact", DEFAULT_OPERATORS.select(["Custom"]))),
        processing_class=AutoTokenizer.from_pretrained(model),
    )


@pytest.mark.parametrize("at", [4, 8], ids=["in the first epoch", "in the second epoch"])
def test_a_balanced_run_that_is_resumed_ends_bit_equal(at: int, tiny_model: Path, tmp_path: Path) -> None:
    whole = trainer(tiny_model, tmp_path / "whole", max_steps=10)
    whole.train()
    first = trainer(tiny_model, tmp_path / "cut", max_steps=10, save_strategy="steps", save_steps=at)
    first.train()
    again = trainer(tiny_model, tmp_path / "cut", max_steps=10)
    again.train(resume_from_checkpoint=str(tmp_path / "cut" / f"checkpoint-{at}"))
    assert torch.equal(parameters(again), parameters(whole))


def test_balance_needs_its_column(tiny_model: Path, tmp_path: Path) -> None:
    from trainers import build

    unbalanced = build(WorkflowGRPOTrainer, WorkflowGRPOConfig, tiny_model, tmp_path, balance_domains=True)
    with pytest.raises(ValueError, match="domain"):
        unbalanced.train()
