"""How far a workflow still has to go from each of its operators: where calls wait, the longest way goes first."""

from __future__ import annotations

from ..dsl import Conditional, Node, Operator, Parallel, Repeat, Sequence, Vocabulary, critical_calls


def remaining_calls(root: Node, vocabulary: Vocabulary) -> dict[int, int]:
    """
    Calls on the longest way from each operator to the end of the workflow, its own included.

    Args:
        root (`Node`):
            Workflow.
        vocabulary (`Mapping[str, OperatorSpec]`):
            Operators and what they may call.

    Returns:
        `dict[int, int]`: By the `id` of the operator's node.
    """
    remaining: dict[int, int] = {}

    def visit(node: Node, after: int) -> None:
        match node:
            case Operator():
                remaining[id(node)] = critical_calls(node, vocabulary) + after
            case Sequence():
                for step in reversed(node.steps):
                    visit(step, after)
                    after += critical_calls(step, vocabulary)
            case Parallel():
                for branch in node.branches:
                    visit(branch, after)
            case Conditional():
                branches = (node.negative, node.otherwise)
                for branch in branches:
                    visit(branch, after)
                visit(node.condition, after + max(critical_calls(branch, vocabulary) for branch in branches))
            case Repeat():
                visit(node.body, after + (node.times - 1) * critical_calls(node.body, vocabulary))
            case _:
                pass

    visit(root, 0)
    return remaining
