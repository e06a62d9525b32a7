"""Random valid workflows, for exploration without a model and for warm-start data that favours no operator."""

from __future__ import annotations

import random

from ..errors import DSLError
from .analysis import DEFAULT_LIMITS, check
from .ast import Conditional, Done, Limits, Node, Parallel, Repeat, Workflow, chain
from .vocabulary import Vocabulary, builtin_vocabulary, operator_calls

# Cumulative thresholds of the draw for a step; what remains above the last is a loop.
PLAIN_BELOW = 0.62
CONDITIONAL_BELOW = 0.78
ENSEMBLE_BELOW = 0.94
SAME_OPERATOR_RATE = 0.7
"""Probability that a branch of an ensemble is a sample of the operator its branches have in common."""
MAX_LOOP_LEVEL = 2
"""Loops nest no deeper than this, so that few draws exceed the depth limit and have to be rejected."""


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
            Maximum number of steps of the outermost chain.

    Returns:
        [`Workflow`]: A valid workflow.
    """
    vocabulary = builtin_vocabulary() if vocabulary is None else vocabulary
    # Rejection sampling: with the default limits and operators fewer than 1 % of the draws fail.
    while True:
        workflow = Workflow(_chain(rng, vocabulary, max_steps, 0))
        try:
            check(workflow, vocabulary=vocabulary, limits=limits)
        except DSLError:
            continue
        return workflow


def _chain(rng: random.Random, vocabulary: Vocabulary, max_steps: int, level: int) -> Node:
    return chain(*(_step(rng, vocabulary, level) for _ in range(rng.randint(1, max_steps))))


def _step(rng: random.Random, vocabulary: Vocabulary, level: int) -> Node:
    plain = [call for spec in vocabulary.values() if not spec.is_ensemble for call in operator_calls(spec)]
    conditions = [call for spec in vocabulary.values() if spec.gives_verdict for call in operator_calls(spec)]
    ensembles = [call for spec in vocabulary.values() if spec.is_ensemble for call in operator_calls(spec)]
    # At the deepest level every step is a plain operator.
    draw = rng.random() if level < MAX_LOOP_LEVEL else 0.0
    if draw < PLAIN_BELOW:
        return rng.choice(plain)
    if draw < CONDITIONAL_BELOW and conditions:
        return Conditional(rng.choice(conditions), rng.choice(plain), Done())
    if draw < ENSEMBLE_BELOW and ensembles:
        common = rng.choice(plain)
        branches = [
            common if rng.random() < SAME_OPERATOR_RATE else rng.choice(plain) for _ in range(rng.randint(2, 3))
        ]
        return chain(Parallel(tuple(branches)), rng.choice(ensembles))
    return Repeat(_chain(rng, vocabulary, 2, level + 1), rng.randint(2, 3))
