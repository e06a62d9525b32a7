"""The usual forms of workflows, filled with every operator: what a search by hand would try."""

from __future__ import annotations

from itertools import product

from ..errors import DSLError
from .analysis import DEFAULT_LIMITS, check
from .ast import Conditional, Done, Limits, Node, Operator, Parallel, Workflow, chain
from .vocabulary import Vocabulary, builtin_vocabulary

WIDTHS = (3, 5, 7, 9)
"""Branches of an ensemble."""


def workflow_templates(*, vocabulary: Vocabulary | None = None, limits: Limits = DEFAULT_LIMITS) -> list[Workflow]:
    """
    Single operators, chains of two, ensembles of equal samples, of one sample an operator and of checked samples, and
    a judge with a repair behind every operator.

    Args:
        vocabulary (`Mapping[str, OperatorSpec]`, *optional*):
            Operators to fill in. Defaults to the built-in ones.
        limits ([`Limits`], *optional*):
            Static limits; forms beyond them are left out.

    Returns:
        `list[Workflow]`: Valid workflows, without repetition.
    """
    words = builtin_vocabulary() if vocabulary is None else vocabulary
    ensembles = [Operator(name) for name, spec in words.items() if spec.is_ensemble]
    judges = [Operator(name) for name, spec in words.items() if spec.gives_verdict]
    plain = [Operator(name) for name, spec in words.items() if not spec.is_ensemble]
    nodes: list[Node] = [*plain, *(chain(a, b) for a, b in product(plain, plain) if a != b)]
    nodes += [chain(a, Conditional(judge, b, Done())) for a, judge, b in product(plain, judges, plain) if a != judge]
    nodes += [chain(Parallel((own,) * width), end) for own, width, end in product(plain, WIDTHS, ensembles)]
    nodes += [
        chain(Parallel((a,) * 2 + (b,) * 2), end) for a, b, end in product(plain, plain, ensembles) if a.name < b.name
    ]
    found = []
    for node in nodes:
        workflow = Workflow(node)
        try:
            check(workflow, vocabulary=words, limits=limits)
        except DSLError:
            continue
        found.append(workflow)
    return found
