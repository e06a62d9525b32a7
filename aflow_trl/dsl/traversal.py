"""Traversal of the AST."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .ast import Chain, Conditional, Done, Node, Operator, Parallel, Repeat


def children(node: Node) -> tuple[Node, ...]:
    """Direct children, in source order."""
    match node:
        case Chain():
            return node.steps
        case Parallel():
            return node.branches
        case Conditional():
            return (node.condition, node.negative, node.otherwise)
        case Repeat():
            return (node.body,)
        case Operator() | Done():
            return ()


def walk(root: Node) -> Iterator[tuple[Node, int]]:
    """Yield every node and its depth, in source order; the nodes of a plain chain have depth 1."""
    # Iterative, because it has to survive any nesting: it is what `too_deep` is detected with.
    stack: list[tuple[Node, int]] = [(root, 1)]
    while stack:
        node, depth = stack.pop()
        yield node, depth
        inner_depth = depth + isinstance(node, Parallel | Conditional | Repeat)
        stack.extend((child, inner_depth) for child in reversed(children(node)))


def rewrite(node: Node, replace: Callable[[Node], Node]) -> Node:
    """Copy the tree with `replace` applied to every leaf (operators and `done`)."""
    match node:
        case Chain():
            return Chain(tuple(rewrite(step, replace) for step in node.steps), node.position)
        case Parallel():
            return Parallel(tuple(rewrite(branch, replace) for branch in node.branches), node.position)
        case Conditional():
            condition, negative, otherwise = (rewrite(part, replace) for part in children(node))
            return Conditional(condition, negative, otherwise, node.position)
        case Repeat():
            return Repeat(rewrite(node.body, replace), node.times, node.position)
        case Operator() | Done():
            return replace(node)
