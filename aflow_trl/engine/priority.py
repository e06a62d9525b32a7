"""Number of calls ahead of each operator of a workflow, by which waiting calls are ordered."""

from __future__ import annotations

from dataclasses import replace

from ..dsl import Chain, Conditional, Node, Operator, Parallel, Repeat, Vocabulary, critical_calls


def remaining_calls(root: Node, vocabulary: Vocabulary) -> dict[int, int]:
    """
    Count the typical calls on the longest path from each operator to the end of the workflow.

    Args:
        root (`Node`):
            Workflow.
        vocabulary (`Mapping[str, OperatorSpec]`):
            Operators by name.

    Returns:
        `dict[int, int]`: Number of calls, including those of the operator itself, by the `id` of the operator's node.
    """
    # An operator typically needs one call. Counting all its possible repairs would rank short workflows above longer
    # ones.
    typical = {name: replace(spec, max_calls=min(1, spec.max_calls)) for name, spec in vocabulary.items()}
    # By identity: equal nodes at different positions have different paths ahead.
    remaining: dict[int, int] = {}

    def visit(node: Node, after: int) -> None:
        match node:
            case Operator():
                remaining[id(node)] = critical_calls(node, typical) + after
            case Chain():
                for step in reversed(node.steps):
                    visit(step, after)
                    after += critical_calls(step, typical)
            case Parallel():
                for branch in node.branches:
                    visit(branch, after)
            case Conditional():
                branches = (node.negative, node.otherwise)
                for branch in branches:
                    visit(branch, after)
                visit(node.condition, after + max(critical_calls(branch, typical) for branch in branches))
            case Repeat():
                visit(node.body, after + (node.times - 1) * critical_calls(node.body, typical))
            case _:
                pass

    visit(root, 0)
    return remaining
