"""How far a workflow still has to go from each of its operators: where calls wait, the longest way goes first."""

from __future__ import annotations

from dataclasses import replace

from ..dsl import Chain, Conditional, Node, Operator, Parallel, Repeat, Vocabulary, critical_calls


def remaining_calls(root: Node, vocabulary: Vocabulary) -> dict[int, int]:
    """
    Usual calls on the longest way from each operator to the end of the workflow, its own included.

    Args:
        root (`Node`):
            Workflow.
        vocabulary (`Mapping[str, OperatorSpec]`):
            Operators and what they may call.

    Returns:
        `dict[int, int]`: By the `id` of the operator's node.
    """
    # An operator usually needs one call; to count on all its repairs would put short workflows before longer ones.
    usual = {name: replace(spec, max_calls=min(1, spec.max_calls)) for name, spec in vocabulary.items()}
    remaining: dict[int, int] = {}

    def visit(node: Node, after: int) -> None:
        match node:
            case Operator():
                remaining[id(node)] = critical_calls(node, usual) + after
            case Chain():
                for step in reversed(node.steps):
                    visit(step, after)
                    after += critical_calls(step, usual)
            case Parallel():
                for branch in node.branches:
                    visit(branch, after)
            case Conditional():
                branches = (node.negative, node.otherwise)
                for branch in branches:
                    visit(branch, after)
                visit(node.condition, after + max(critical_calls(branch, usual) for branch in branches))
            case Repeat():
                visit(node.body, after + (node.times - 1) * critical_calls(node.body, usual))
            case _:
                pass

    visit(root, 0)
    return remaining
