"""Printer: AST → the canonical text, of which every workflow has exactly one."""

from __future__ import annotations

import json

from .ast import ArgumentValue, Chain, Conditional, Done, Node, Operator, Parallel, Repeat, Workflow


def format_workflow(workflow: Workflow | Node) -> str:
    """
    Print the canonical text of a workflow or a node, on one line.

    It inverts [`parse`]: `parse(format_workflow(w)) == w` for every workflow `w`.

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
            # The condition of a valid workflow is a single operator, which needs no parentheses.
            return f"{_text(node.condition)} ? {_branch(node.negative)} : {_branch(node.otherwise)}"
        case Repeat():
            return f"{_primary(node.body)} * {node.times}"
        case Done():
            return "done"


# The grammar allows only a primary before `?` and `*`, so anything else has to be parenthesised.
def _primary(node: Node) -> str:
    return _text(node) if isinstance(node, Operator | Parallel) else f"({_text(node)})"


# A branch may be a repeat without parentheses: `X ? Y : Z * 3` repeats Z.
def _branch(node: Node) -> str:
    return _text(node) if isinstance(node, Done | Repeat) else _primary(node)


def _literal(value: ArgumentValue) -> str:
    # JSON, because the grammar's string literals are JSON strings.
    return json.dumps(value, ensure_ascii=False)
