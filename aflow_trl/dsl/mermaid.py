"""Rendering of a workflow as a Mermaid flowchart."""

from __future__ import annotations

from typing import TypeAlias

from .ast import Chain, Conditional, Done, Node, Operator, Parallel, Repeat, Workflow
from .printer import format_workflow

_LooseEnd: TypeAlias = tuple[str, str]
"""A node that still lacks its outgoing edge, and the label of that edge."""


def mermaid(workflow: Workflow) -> str:
    """Mermaid `flowchart` source of a workflow, ready for Markdown; loops are boxes, conditions are diamonds."""
    chart = _Flowchart()
    ends = chart.add(workflow.root, [("start", "")])
    chart.link(ends, "finish")
    # Edges come last: they cross the borders of the boxes, which hold nothing but the declarations of their nodes.
    return "\n".join(["flowchart LR", "    start([problem])", *chart.lines, "    finish([answer])", *chart.edges])


class _Flowchart:
    """Lines of a chart under construction; `add` returns the loose ends of the part it has added."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.edges: list[str] = []
        self.count = 0

    def next_id(self) -> str:
        self.count += 1
        return f"n{self.count}"

    def link(self, ends: list[_LooseEnd], target: str) -> None:
        for source, label in ends:
            self.edges.append(f"    {source} -->|{label}| {target}" if label else f"    {source} --> {target}")

    def add(self, node: Node, ends: list[_LooseEnd]) -> list[_LooseEnd]:
        match node:
            case Operator():
                return self._add_operator(node, ends, "[", "]")
            case Chain():
                for step in node.steps:
                    ends = self.add(step, ends)
                return ends
            case Parallel():
                return [end for branch in node.branches for end in self.add(branch, ends)]
            case Conditional():
                (condition, _), *_ = self._add_operator(node.condition, ends, "{", "}")
                negative = self.add(node.negative, [(condition, "no")])
                return negative + self.add(node.otherwise, [(condition, "yes")])
            case Repeat():
                box = self.next_id()
                self.lines.append(f'    subgraph {box} ["up to {node.times} times"]')
                ends = self.add(node.body, ends)
                self.lines.append("    end")
                return ends
            case Done():
                return ends

    def _add_operator(self, node: Node, ends: list[_LooseEnd], opening: str, closing: str) -> list[_LooseEnd]:
        identifier = self.next_id()
        # Mermaid has no escape for quotes inside a quoted label, only HTML entities.
        text = format_workflow(node).replace('"', "#quot;")
        self.lines.append(f'    {identifier}{opening}"{text}"{closing}')
        self.link(ends, identifier)
        return [(identifier, "")]
