"""Candidate workflows of the search, and the groups of problems that it searches separately."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence

from ..data import Row
from ..dsl import (
    Vocabulary,
    Workflow,
    analyze,
    extract,
    format_workflow,
    parse,
    sample_workflow,
    workflow_templates,
)
from ..errors import RecipeError
from .settings import WarmStartSettings
from .types import Group

MIN_LEVEL_ROWS = 20
"""Minimum number of problems in each part of a domain for it to be split by difficulty."""


def group_rows(rows: Sequence[Row], hard_from: int | None) -> dict[Group, list[Row]]:
    """
    Group problems by domain, and by difficulty where both parts of a domain have [`MIN_LEVEL_ROWS`] problems.

    Args:
        rows (`Sequence[Row]`):
            Problems.
        hard_from (`int`, *optional*):
            Minimum difficulty of a hard problem. If `None`, difficulty is ignored.

    Returns:
        `dict[Group, list[Row]]`: Problems of each group, in an order that only depends on the rows.
    """
    groups: dict[Group, list[Row]] = {}
    for domain in sorted({row.domain for row in rows}):
        in_domain = [row for row in rows if row.domain == domain]
        hard = [row for row in in_domain if hard_from is not None and row.difficulty >= hard_from]
        if min(len(hard), len(in_domain) - len(hard)) < MIN_LEVEL_ROWS:
            groups[Group(domain)] = in_domain
            continue
        groups[Group(domain, "easy")] = [row for row in in_domain if row.difficulty < (hard_from or 0)]
        groups[Group(domain, "hard")] = hard
    return groups


def group_of(row: Row, groups: Collection[Group], hard_from: int) -> Group:
    """
    Group that a held-out problem belongs to, with its budget.

    Args:
        row (`Row`):
            Problem.
        groups (`Collection[Group]`):
            Groups that were searched.
        hard_from (`int`):
            Minimum difficulty of a hard problem.

    Raises:
        [`RecipeError`]: No group was searched for its domain.
    """
    by_level = Group(row.domain, "hard" if row.difficulty >= hard_from else "easy", row.budget)
    group = by_level if by_level in groups else Group(row.domain, budget=row.budget)
    if group not in groups:
        raise RecipeError(
            f"eval_data holds {row.domain} problems, but train_data holds no {row.domain} problem to search workflows "
            "on. Add some, or leave the domain out with domains."
        )
    return group


def candidate_workflows(
    settings: WarmStartSettings,
    vocabulary: Vocabulary,
    rows: Sequence[Row],
    sample_policy: Callable[[Sequence[Row]], Sequence[str]],
    *,
    seed: int,
) -> dict[str, int]:
    """
    Candidate workflows in canonical form, with the maximum number of model calls of each.

    Args:
        settings ([`WarmStartSettings`]):
            Number of candidates from each source.
        vocabulary (`Mapping[str, OperatorSpec]`):
            Operators that a workflow may name.
        rows (`Sequence[Row]`):
            Problems that the policy is sampled on.
        sample_policy (`Callable[[Sequence[Row]], Sequence[str]]`):
            Samples one completion of the untrained policy for each row.
        seed (`int`):
            Seed of the random workflows and of the choice of rows.

    Raises:
        [`DSLError`]: A workflow of the user is not valid.
    """
    rng = random.Random(f"{seed} warm start")
    workflows: list[Workflow] = [parse(text, vocabulary=vocabulary) for text in settings.workflows]
    if settings.forms:
        workflows += workflow_templates(vocabulary=vocabulary)
    workflows += [sample_workflow(rng, vocabulary=vocabulary) for _ in range(settings.grammar_samples)]
    if settings.policy_samples:
        completions = sample_policy([rng.choice(rows) for _ in range(settings.policy_samples)])
        # Invalid completions are dropped: the search needs workflows, not a measure of the policy.
        extracted = [extract(text, vocabulary=vocabulary).workflow for text in completions]
        workflows += [workflow for workflow in extracted if workflow is not None]
    return {
        format_workflow(workflow): analyze(workflow, vocabulary=vocabulary).worst_case_calls for workflow in workflows
    }
