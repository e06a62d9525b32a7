"""Random valid workflows: exploration without a model, and material for a cold start that favours nothing."""

from __future__ import annotations

import random

from ..errors import DSLError
from .analysis import DEFAULT_LIMITS, check
from .ast import Conditional, Done, Limits, Node, Operator, Parallel, Repeat, Workflow, chain
from .vocabulary import Vocabulary, builtin_vocabulary


def sample_workflow(
    rng: random.Random, *, vocabulary: Vocabulary | None = None, limits: Limits = DEFAULT_LIMITS, max_steps: int = 3
) -> Workflow:
    """
    Draw a random workflow that passes every static check.

    Args:
        rng (`random.Random`):
            Source of randomness; equal states draw equal workflows.
        vocabulary (`Mapping[str, OperatorSpec]`, *optional*):
            Operators to draw from. Defaults to the built-in ones.
        limits ([`Limits`], *optional*):
            Static limits the workflow has to respect.
        max_steps (`int`, *optional*, defaults to `3`):
            Most steps of the outer chain.

    Returns:
        [`Workflow`]: A valid workflow.
    """
    words = builtin_vocabulary() if vocabulary is None else vocabulary
    while True:
        workflow = Workflow(_chain(rng, words, max_steps, 0))
        try:
            check(workflow, vocabulary=words, limits=limits)
        except DSLError:
            continue
        return workflow


def _chain(rng: random.Random, vocabulary: Vocabulary, max_steps: int, level: int) -> Node:
    return chain(*(_step(rng, vocabulary, level) for _ in range(rng.randint(1, max_steps))))


def _step(rng: random.Random, vocabulary: Vocabulary, level: int) -> Node:
    plain = [Operator(name) for name, spec in vocabulary.items() if not spec.is_ensemble]
    judges = [Operator(name) for name, spec in vocabulary.items() if spec.gives_verdict]
    ensembles = [Operator(name) for name, spec in vocabulary.items() if spec.is_ensemble]
    draw = rng.random() if level < 2 else 0.0
    if draw < 0.62:
        return rng.choice(plain)
    if draw < 0.78 and judges:
        return Conditional(rng.choice(judges), rng.choice(plain), Done())
    if draw < 0.94 and ensembles:
        repeated = rng.choice(plain)
        branches = [repeated if rng.random() < 0.7 else rng.choice(plain) for _ in range(rng.randint(2, 3))]
        return chain(Parallel(tuple(branches)), rng.choice(ensembles))
    return Repeat(_chain(rng, vocabulary, 2, level + 1), rng.randint(2, 3))
