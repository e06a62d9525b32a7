"""The one canonical form of a workflow."""

from __future__ import annotations

import json

from .ast import Chain, Conditional, Done, Literal, Node, Operator, Parallel, Repeat, Workflow


def format_workflow(workflow: Workflow | Node) -> str:
    """
    Canonical text of a workflow or a node, on one line; `parse(format_workflow(w)) == w` for every workflow `w`.

    Example:

    ```python
    >>> format_workflow(parse("(Custom)->Review?Revise:done"))
    'Custom -> Review ? Revise : done'
    ```
    """
    return _text(workflow.root if isinstance(workflow, Workflow) else workflow)


def _text(node: Node) -> str:
    match node:
        case Operator():
            arguments = ", ".join(f"{name}={_literal(value)}" for name, value in node.arguments)
            return f"{node.name}({arguments})" if arguments else node.name
        case Chain():
            return " -> ".join(_text(step) for step in node.steps)
        case Parallel():
            return "[" + ", ".join(_text(branch) for branch in node.branches) + "]"
        case Conditional():
            return f"{_text(node.condition)} ? {_branch(node.negative)} : {_branch(node.otherwise)}"
        case Repeat():
            return f"{_primary(node.body)} * {node.times}"
        case Done():
            return "done"


def _primary(node: Node) -> str:
    return _text(node) if isinstance(node, Operator | Parallel) else f"({_text(node)})"


def _branch(node: Node) -> str:
    return _text(node) if isinstance(node, Done | Repeat) else _primary(node)


def _literal(value: Literal) -> str:
    return json.dumps(value, ensure_ascii=False)
