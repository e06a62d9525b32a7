"""A workflow as the class that AFlow runs: `graph.py` and the `prompt.py` beside it."""

from __future__ import annotations

from ..dsl import (
    Chain,
    Conditional,
    Done,
    Node,
    Operator,
    Parallel,
    Repeat,
    Vocabulary,
    Workflow,
    format_workflow,
    walk,
)
from ..errors import RecipeError

HEAD = '''\
"""{workflow}"""

from typing import Literal

import workspace.{dataset}.workflows.template.operator as operator
import workspace.{dataset}.workflows.round_1.prompt as prompt_custom
from scripts.async_llm import create_llm_instance
from scripts.evaluator import DatasetType


class Workflow:
    def __init__(self, name: str, llm_config, dataset: DatasetType) -> None:
        self.name = name
        self.dataset = dataset
        self.llm = create_llm_instance(llm_config)
{operators}

    async def __call__(self, problem: str{entry_point}):
{body}
'''
# By operator: its arguments as AFlow names them, and the field of its reply that goes on.
CALLS = {
    "Custom": ("input={seen}, instruction={instruction}", "response"),
    "AnswerGenerate": ("input={seen}", "answer"),
    "CustomCodeGenerate": ("problem={seen}, entry_point=entry_point, instruction={instruction}", "response"),
    "Programmer": ("problem=problem, analysis={solution}", "output"),
    "Test": ("problem=problem, solution={solution}, entry_point=entry_point", "solution"),
    "Review": ("problem=problem, solution={solution}", "feedback"),
    "Revise": ("problem=problem, solution={solution}, feedback={feedback}", "solution"),
    "Format": ("problem=problem, solution={solution}", "solution"),
    "ScEnsemble": ("solutions={solutions}, problem=problem", "response"),
    "MdEnsemble": ("solutions={solutions}, problem=problem", "solution"),
}
EMPTY = "''"
"""Expression of a solution that there is not yet."""
VERDICTS = {"Review": "review_result", "Test": "result"}


def to_aflow(workflow: Workflow, *, vocabulary: Vocabulary, dataset: str = "GSM8K") -> tuple[str, str]:
    """
    Text of `graph.py` and `prompt.py`.

    Args:
        workflow ([`~aflow_trl.dsl.Workflow`]):
            Workflow.
        vocabulary (`Mapping[str, OperatorSpec]`):
            Operators it may name.
        dataset (`str`, *optional*, defaults to `"GSM8K"`):
            Data set whose operators the class imports.

    Returns:
        `tuple[str, str]`: Both texts.

    Raises:
        [`RecipeError`]: It has no counterpart: candidates without an ensemble, a verdict that AFlow's operators do not
        give, `done` in a loop, an operator that AFlow does not have.
    """
    writer = _Writer(vocabulary)
    end = writer.node(workflow.root, _Place(), 2)
    writer.line(2, f'return {end.solution or EMPTY}, self.llm.get_usage_summary()["total_cost"]')
    names = list(dict.fromkeys(node.name for node, _ in walk(workflow.root) if isinstance(node, Operator)))
    needs_entry = any("entry_point" in CALLS[name][0] for name in names)
    graph = HEAD.format(
        workflow=format_workflow(workflow).replace("\\", "\\\\").replace('"""', "'''"),
        dataset=dataset,
        operators="\n".join(f"        self.{_attribute(name)} = operator.{name}(self.llm)" for name in names),
        entry_point=", entry_point: str" if needs_entry else "",
        body="\n".join(writer.lines),
    )
    prompts = "\n".join(f"{name} = {text!r}" for text, name in writer.prompts.items())
    return graph, f"{prompts}\n" if prompts else ""


class _Place:
    """Where a workflow has got to: expressions for the solution, the feedback, and a verdict."""

    def __init__(self, solution: str = "", feedback: str = EMPTY, verdict: str = "") -> None:
        self.solution, self.feedback, self.verdict = solution, feedback, verdict


class _Writer:
    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.lines: list[str] = []
        self.prompts: dict[str, str] = {}
        self.results = 0

    def line(self, depth: int, text: str) -> None:
        self.lines.append("    " * depth + text)

    def node(self, node: Node, place: _Place, depth: int) -> _Place:
        match node:
            case Operator():
                return self.operator(node, place, depth)
            case Chain(steps):
                index = 0
                while index < len(steps):
                    step, following = steps[index], steps[index + 1] if index + 1 < len(steps) else None
                    if isinstance(step, Parallel):
                        place = self.ensemble(step, following, place, depth)
                        index += 1
                    else:
                        place = self.node(step, place, depth)
                    index += 1
                return place
            case Conditional():
                return self.conditional(node, place, depth)
            case Repeat(body, times):
                if any(isinstance(inner, Done) for inner, _ in walk(body)):
                    raise RecipeError("`done` in a loop has no counterpart in an exported AFlow class.")
                for _ in range(times):
                    place = self.node(body, place, depth)
                return place
            case Done():
                return place
            case Parallel():
                raise RecipeError("`[...]` without an ensemble after it has no counterpart in AFlow.")

    def ensemble(self, node: Parallel, following: Node | None, place: _Place, depth: int) -> _Place:
        if not isinstance(following, Operator) or not self.vocabulary[following.name].is_ensemble:
            raise RecipeError("`[...]` without an ensemble after it has no counterpart in AFlow.")
        ends = [self.node(branch, place, depth) for branch in node.branches]
        solutions = f"[{', '.join(end.solution for end in ends if end.solution)}]"
        return self.call(following, _Place(), depth, solutions)

    def conditional(self, node: Conditional, place: _Place, depth: int) -> _Place:
        judged = self.node(node.condition, place, depth)
        if not judged.verdict:
            raise RecipeError(f"{format_workflow(node.condition)} gives no verdict in AFlow.")
        self.results += 1
        merged = f"solution_{self.results}"
        self.line(depth, f"if {judged.verdict}:")
        positive = self.node(node.otherwise, judged, depth + 1)
        self.line(depth + 1, f"{merged} = {positive.solution or EMPTY}")
        self.line(depth, "else:")
        negative = self.node(node.negative, judged, depth + 1)
        self.line(depth + 1, f"{merged} = {negative.solution or EMPTY}")
        # Which feedback is left depends on the way that was taken.
        return _Place(merged, EMPTY if judged.feedback == EMPTY else "")

    def operator(self, node: Operator, place: _Place, depth: int) -> _Place:
        if node.name not in CALLS:
            raise RecipeError(f"the operator {node.name} has no counterpart in AFlow.")
        if self.vocabulary[node.name].is_ensemble:
            return place  # of a single candidate
        return self.call(node, place, depth, "")

    def call(self, node: Operator, place: _Place, depth: int, solutions: str) -> _Place:
        arguments, field = CALLS[node.name]
        if "{feedback}" in arguments and not place.feedback:
            raise RecipeError("feedback from before a condition has no counterpart in an exported AFlow class.")
        self.results += 1
        result = f"result_{self.results}"
        text = dict(node.arguments).get("instruction", "")
        if text and text not in self.prompts:
            self.prompts[str(text)] = f"PROMPT_{len(self.prompts) + 1}"
        earlier = 'problem + "\\n\\nAn earlier attempt, which may be wrong:\\n" + ' + place.solution
        fields = {
            "seen": earlier if place.solution else "problem",
            "solution": place.solution or EMPTY,
            "feedback": place.feedback,
            "instruction": f"prompt_custom.{self.prompts[str(text)]}" if text else '""',
            "solutions": solutions,
        }
        self.line(depth, f"{result} = await self.{_attribute(node.name)}({arguments.format(**fields)})")
        verdict = f"{result}[{VERDICTS[node.name]!r}]" if node.name in VERDICTS else ""
        if node.name == "Review":
            return _Place(place.solution, f"{result}[{field!r}]", verdict)
        return _Place(f"{result}[{field!r}]", verdict=verdict)


def _attribute(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).strip("_")
