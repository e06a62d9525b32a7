"""Common workflow shapes filled with every operator: the baseline of a manual search."""

from __future__ import annotations

from itertools import product

from ..errors import DSLError
from .analysis import DEFAULT_LIMITS, check
from .ast import Conditional, Done, Limits, Node, Operator, Parallel, Workflow, chain
from .vocabulary import Vocabulary, builtin_vocabulary, operator_calls

# Odd, because an even number of samples ties more often, and breaking a tie costs a model call.
ENSEMBLE_WIDTHS = (3, 5, 7, 9)
"""Numbers of branches of the ensembles."""


def workflow_templates(*, vocabulary: Vocabulary | None = None, limits: Limits = DEFAULT_LIMITS) -> list[Workflow]:
    """
    List workflows of the common shapes.

    These are single operators, chains of two, an operator with a condition and a repair behind it, ensembles of
    several samples of one operator, and ensembles of two samples each of two operators. Where operators name models, a
    workflow uses at most two, and an ensemble breaks ties with the default one.

    Args:
        vocabulary (`Mapping[str, OperatorSpec]`, *optional*):
            Operators to fill in. Defaults to the built-in ones.
        limits ([`Limits`], *optional*):
            Static limits; workflows that exceed them are omitted.

    Returns:
        `list[Workflow]`: Valid workflows, without duplicates.
    """
    vocabulary = builtin_vocabulary() if vocabulary is None else vocabulary
    ensembles = [Operator(name) for name, spec in vocabulary.items() if spec.is_ensemble]
    conditions = [call for spec in vocabulary.values() if spec.gives_verdict for call in operator_calls(spec)]
    plain = [call for spec in vocabulary.values() if not spec.is_ensemble for call in operator_calls(spec)]
    nodes: list[Node] = [*plain, *(chain(a, b) for a, b in product(plain, plain) if a != b)]
    nodes += [
        chain(a, Conditional(condition, b, Done()))
        for a, condition, b in product(plain, conditions, plain)
        if a != condition and len({a.arguments, condition.arguments, b.arguments}) <= 2
    ]
    nodes += [
        chain(Parallel((operator,) * width), ensemble)
        for operator, width, ensemble in product(plain, ENSEMBLE_WIDTHS, ensembles)
    ]
    # The order of the branches makes no difference to a vote, so each pair appears once.
    nodes += [
        chain(Parallel((a,) * 2 + (b,) * 2), ensemble)
        for a, b, ensemble in product(plain, plain, ensembles)
        if (a.name, a.arguments) < (b.name, b.arguments)
    ]
    return [workflow for node in nodes if _is_valid(workflow := Workflow(node), vocabulary, limits)]


def _is_valid(workflow: Workflow, vocabulary: Vocabulary, limits: Limits) -> bool:
    try:
        check(workflow, vocabulary=vocabulary, limits=limits)
    except DSLError:
        return False
    return True
