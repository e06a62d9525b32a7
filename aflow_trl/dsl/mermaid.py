"""A workflow as a Mermaid flowchart."""

from __future__ import annotations

from .ast import Chain, Conditional, Done, Node, Operator, Parallel, Repeat, Workflow
from .printer import format_workflow


def mermaid(workflow: Workflow) -> str:
    """Mermaid `flowchart` source of a workflow, ready for Markdown; loops are boxes, conditions are diamonds."""
    drawing = _Drawing()
    ends = drawing.add(workflow.root, [("start", "")])
    drawing.link(ends, "finish")
    return "\n".join(["flowchart LR", "    start([problem])", *drawing.lines, "    finish([answer])", *drawing.edges])


class _Drawing:
    """Nodes and edges; `add` returns the loose ends as (node, edge label)."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.edges: list[str] = []
        self.count = 0

    def name(self) -> str:
        self.count += 1
        return f"n{self.count}"

    def link(self, ends: list[tuple[str, str]], target: str) -> None:
        for source, label in ends:
            self.edges.append(f"    {source} -->|{label}| {target}" if label else f"    {source} --> {target}")

    def add(self, node: Node, ends: list[tuple[str, str]]) -> list[tuple[str, str]]:
        match node:
            case Operator():
                return self._operator(node, ends, "[", "]")
            case Chain():
                for step in node.steps:
                    ends = self.add(step, ends)
                return ends
            case Parallel():
                return [end for branch in node.branches for end in self.add(branch, ends)]
            case Conditional():
                (condition, _), *_ = self._operator(node.condition, ends, "{", "}")
                negative = self.add(node.negative, [(condition, "no")])
                return negative + self.add(node.otherwise, [(condition, "yes")])
            case Repeat():
                box = self.name()
                self.lines.append(f'    subgraph {box} ["up to {node.times} times"]')
                ends = self.add(node.body, ends)
                self.lines.append("    end")
                return ends
            case Done():
                return ends

    def _operator(self, node: Node, ends: list[tuple[str, str]], opening: str, closing: str) -> list[tuple[str, str]]:
        name = self.name()
        text = format_workflow(node).replace('"', "#quot;")
        self.lines.append(f'    {name}{opening}"{text}"{closing}')
        self.link(ends, name)
        return [(name, "")]
