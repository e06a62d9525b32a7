"""Exports a workflow as the class that AFlow runs: `graph.py`, and `prompt.py` with its instructions."""

from __future__ import annotations

from dataclasses import dataclass

from ..dsl import (
    MODEL,
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
# Operator → its arguments under AFlow's names, and the field of its reply that later operators use.
CALLS = {
    "Custom": ("input={input}, instruction={instruction}", "response"),
    "AnswerGenerate": ("input={input}", "answer"),
    "CustomCodeGenerate": ("problem={input}, entry_point=entry_point, instruction={instruction}", "response"),
    "Programmer": ("problem=problem, analysis={solution}", "output"),
    "Test": ("problem=problem, solution={solution}, entry_point=entry_point", "solution"),
    "Review": ("problem=problem, solution={solution}", "feedback"),
    "Revise": ("problem=problem, solution={solution}, feedback={feedback}", "solution"),
    "Format": ("problem=problem, solution={solution}", "solution"),
    "ScEnsemble": ("solutions={solutions}, problem=problem", "response"),
    "MdEnsemble": ("solutions={solutions}, problem=problem", "solution"),
}
EMPTY = "''"
"""Expression for a solution or feedback that does not exist yet."""
VERDICT_FIELDS = {"Review": "review_result", "Test": "result"}
"""Fields of the replies of AFlow's operators that hold a verdict."""


def to_aflow(workflow: Workflow, *, vocabulary: Vocabulary, dataset: str = "GSM8K") -> tuple[str, str]:
    """
    Write a workflow as `graph.py` and `prompt.py` of an AFlow workspace.

    Args:
        workflow ([`~aflow_trl.dsl.Workflow`]):
            Workflow.
        vocabulary (`Mapping[str, OperatorSpec]`):
            Operators that the workflow may use.
        dataset (`str`, *optional*, defaults to `"GSM8K"`):
            Data set from whose workspace the class imports operators.

    Returns:
        `tuple[str, str]`: Content of `graph.py` and of `prompt.py`.

    Raises:
        [`RecipeError`]: The workflow has no counterpart in AFlow: several candidates without an ensemble, a verdict
        that AFlow's operators do not return, `done` in a loop, or an operator that AFlow does not have.
    """
    writer = _Writer(vocabulary)
    result = writer.node(workflow.root, _Expressions(), 2)
    writer.line(2, f'return {result.solution or EMPTY}, self.llm.get_usage_summary()["total_cost"]')
    names = list(dict.fromkeys(node.name for node, _ in walk(workflow.root) if isinstance(node, Operator)))
    needs_entry = any("entry_point" in CALLS[name][0] for name in names)
    graph = HEAD.format(
        # The workflow becomes a docstring, which it must neither end nor escape.
        workflow=format_workflow(workflow).replace("\\", "\\\\").replace('"""', "'''"),
        dataset=dataset,
        operators="\n".join(f"        self.{_attribute(name)} = operator.{name}(self.llm)" for name in names),
        entry_point=", entry_point: str" if needs_entry else "",
        body="\n".join(writer.lines),
    )
    prompts = "\n".join(f"{name} = {text!r}" for text, name in writer.prompts.items())
    return graph, f"{prompts}\n" if prompts else ""


@dataclass(frozen=True, slots=True)
class _Expressions:
    """Python expressions for the state that an operator leaves."""

    solution: str = ""
    """Empty as long as there is no solution."""
    feedback: str = EMPTY
    """Empty if the feedback depends on which branch was taken."""
    verdict: str = ""
    """Empty if the last operator gives none."""


class _Writer:
    """Writes the statements of `__call__`, one method per kind of node; each returns the state after the node."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.lines: list[str] = []
        self.prompts: dict[str, str] = {}
        self.results = 0

    def line(self, depth: int, text: str) -> None:
        self.lines.append("    " * depth + text)

    def node(self, node: Node, state: _Expressions, depth: int) -> _Expressions:
        match node:
            case Operator():
                return self.operator(node, state, depth)
            case Chain(steps):
                index = 0
                while index < len(steps):
                    step, following = steps[index], steps[index + 1] if index + 1 < len(steps) else None
                    # AFlow's ensembles take a list, so branches and the ensemble after them are written together.
                    if isinstance(step, Parallel):
                        state = self.ensemble(step, following, state, depth)
                        index += 1
                    else:
                        state = self.node(step, state, depth)
                    index += 1
                return state
            case Conditional():
                return self.conditional(node, state, depth)
            case Repeat(body, times):
                if any(isinstance(inner, Done) for inner, _ in walk(body)):
                    raise RecipeError("`done` in a loop has no counterpart in an exported AFlow class.")
                # Unrolled: each iteration refers to variables of the one before.
                for _ in range(times):
                    state = self.node(body, state, depth)
                return state
            case Done():
                return state
            case Parallel():
                raise RecipeError("`[...]` without an ensemble after it has no counterpart in AFlow.")

    def ensemble(self, node: Parallel, following: Node | None, state: _Expressions, depth: int) -> _Expressions:
        if not isinstance(following, Operator) or not self.vocabulary[following.name].is_ensemble:
            raise RecipeError("`[...]` without an ensemble after it has no counterpart in AFlow.")
        branches = [self.node(branch, state, depth) for branch in node.branches]
        solutions = f"[{', '.join(branch.solution for branch in branches if branch.solution)}]"
        return self.call(following, _Expressions(), depth, solutions)

    def conditional(self, node: Conditional, state: _Expressions, depth: int) -> _Expressions:
        condition = self.node(node.condition, state, depth)
        if not condition.verdict:
            raise RecipeError(f"{format_workflow(node.condition)} returns no verdict in AFlow.")
        self.results += 1
        merged = f"solution_{self.results}"
        self.line(depth, f"if {condition.verdict}:")
        positive = self.node(node.otherwise, condition, depth + 1)
        self.line(depth + 1, f"{merged} = {positive.solution or EMPTY}")
        self.line(depth, "else:")
        negative = self.node(node.negative, condition, depth + 1)
        self.line(depth + 1, f"{merged} = {negative.solution or EMPTY}")
        # Either branch may have replaced the feedback, so it is unknown from here on, unless there was none.
        return _Expressions(merged, EMPTY if condition.feedback == EMPTY else "")

    def operator(self, node: Operator, state: _Expressions, depth: int) -> _Expressions:
        if node.name not in CALLS:
            raise RecipeError(f"the operator {node.name} has no counterpart in AFlow. Use some of {', '.join(CALLS)}.")
        if self.vocabulary[node.name].is_ensemble:
            return state  # an ensemble of a single candidate changes nothing
        return self.call(node, state, depth, "")

    def call(self, node: Operator, state: _Expressions, depth: int, solutions: str) -> _Expressions:
        if MODEL in dict(node.arguments):
            raise RecipeError(f"{node.name} names its model, which has no counterpart in an exported AFlow class.")
        arguments, field = CALLS[node.name]
        if "{feedback}" in arguments and not state.feedback:
            raise RecipeError("feedback from before a condition has no counterpart in an exported AFlow class.")
        self.results += 1
        result = f"result_{self.results}"
        instruction = str(dict(node.arguments).get("instruction", ""))
        if instruction and instruction not in self.prompts:
            self.prompts[instruction] = f"PROMPT_{len(self.prompts) + 1}"
        with_attempt = 'problem + "\\n\\nAn earlier attempt, which may be wrong:\\n" + ' + state.solution
        fields = {
            "input": with_attempt if state.solution else "problem",
            "solution": state.solution or EMPTY,
            "feedback": state.feedback,
            "instruction": f"prompt_custom.{self.prompts[instruction]}" if instruction else '""',
            "solutions": solutions,
        }
        self.line(depth, f"{result} = await self.{_attribute(node.name)}({arguments.format(**fields)})")
        verdict = f"{result}[{VERDICT_FIELDS[node.name]!r}]" if node.name in VERDICT_FIELDS else ""
        if node.name == "Review":
            return _Expressions(state.solution, f"{result}[{field!r}]", verdict)
        return _Expressions(f"{result}[{field!r}]", verdict=verdict)


def _attribute(name: str) -> str:
    """Operator name in snake case, as AFlow names its attributes."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).strip("_")
