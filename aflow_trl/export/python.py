"""
A workflow as a script that needs only `openai`: the operators' own source, its prompts, and a small runner.
"""

from __future__ import annotations

import ast
import json
import pprint
from collections.abc import Collection, Iterable
from importlib.resources import files
from typing import Any

from ..dsl import (
    Chain,
    Conditional,
    Node,
    Operator,
    Parallel,
    Repeat,
    Vocabulary,
    Workflow,
    format_workflow,
    operator_table,
    walk,
)
from ..errors import RecipeError
from ..llm import ExecutorConfig
from ..operators import RETRY_HINT

PACKAGE = files("aflow_trl")
TESTER_PARTS = ("_count", "_compiled", "_run", "_failure", "_actual")
FAILURE_CHARS = 2_000
TESTER = """\
import ast, functools, json, sys

FAILURE_CHARS = {failure_chars}


class SolutionError(Exception):
    pass


class NeedsLiveObjectError(Exception):
    pass


{parts}


class checks:
    RECORD = RECORD
    split = staticmethod(split)


spec = json.loads(sys.stdin.read())
scope = {{"__name__": "solution"}}
try:
    exec(compile(spec["solution"], "<solution>", "exec"), scope)
except Exception as error:
    failure = f"{{spec['tests'][0].strip()}}\\nraised {{type(error).__name__}}: {{error}}"
    print(json.dumps({{"passed": 0, "total": len(spec["tests"]), "failure": failure}}))
    sys.exit(0)
report = _count(spec, lambda: (dict(scope), lambda: True))
print("\\n" + json.dumps(report))
"""


def to_python(workflow: Workflow, *, vocabulary: Vocabulary, config: ExecutorConfig, name: str = "workflow.py") -> str:
    """
    Text of a script that runs a workflow.

    Args:
        workflow ([`~aflow_trl.dsl.Workflow`]):
            Workflow.
        vocabulary (`Mapping[str, OperatorSpec]`):
            Operators it may name.
        config ([`~aflow_trl.llm.ExecutorConfig`]):
            Model and sampling parameters.
        name (`str`, *optional*, defaults to `"workflow.py"`):
            Name of the script, for its own help.

    Returns:
        `str`: Python source.

    Raises:
        [`RecipeError`]: It uses an operator that does not ship with the package.
    """
    used = list(dict.fromkeys(node.name for node, _ in walk(workflow.root) if isinstance(node, Operator)))
    if own := [operator for operator in used if operator not in operator_table()]:
        raise RecipeError(f"the operator {own[0]} is not one of the package; an exported script holds only those.")
    parts = {
        "summary": f"Runs the workflow\n\n    {format_workflow(workflow)}",
        "name": name,
        "workflow": _literal(_plain(workflow.root)),
        "prompts": _literal({operator: operator_table()[operator]["prompts"]["default"] for operator in used}),
        "ensembles": _literal([operator for operator in used if vocabulary[operator].is_ensemble]),
        "settings": _literal(
            {
                "temperature": config.executor_temperature,
                "top_p": config.executor_top_p,
                "max_tokens": config.executor_max_tokens,
            }
        ),
        "retry_hint": json.dumps(RETRY_HINT),
        "model": json.dumps(config.executor_model),
        "tester": repr(_tester()) if "Test" in used else '""',
        "operators": _operators(used),
    }
    text = PACKAGE.joinpath("export", "standalone.py.template").read_text(encoding="utf-8")
    for field, value in parts.items():
        text = text.replace("{{" + field + "}}", value)
    return text


def _plain(node: Node) -> tuple[Any, ...]:
    match node:
        case Operator(name, arguments):
            return ("op", name, {key: str(value) for key, value in arguments})
        case Chain(steps):
            return ("seq", [_plain(step) for step in steps])
        case Parallel(branches):
            return ("par", [_plain(branch) for branch in branches])
        case Conditional(condition, negative, otherwise):
            return ("if", _plain(condition), _plain(negative), _plain(otherwise))
        case Repeat(body, times):
            return ("loop", _plain(body), times)
        case _:
            return ("done",)


def _literal(value: Any) -> str:
    return pprint.pformat(value, width=110, sort_dicts=False)


def _operators(used: Iterable[str]) -> str:
    """Source of the data types, the parsing of replies and answers, and the operators that are used."""
    unused = set(operator_table()) - set(used)
    modules = [_source("operators", name) for name in ("types", "replies", "answers")]
    prompts = _source("operators", "prompts", only=("_FIELD", "fill"))
    return "\n\n\n".join([*modules, prompts, _source("operators", "builtin", without=unused)])


def _source(stage: str, module: str, *, without: Collection[str] = (), only: Collection[str] | None = None) -> str:
    """Source of a module without its docstring and its imports, and of its definitions only those that are wanted."""
    text = PACKAGE.joinpath(stage, f"{module}.py").read_text(encoding="utf-8")
    lines = text.splitlines()
    pieces = []
    for index, node in enumerate(ast.parse(text).body):
        target = node.targets[0] if isinstance(node, ast.Assign) else node
        name = getattr(target, "name", getattr(target, "id", ""))
        docstring = index == 0 and isinstance(node, ast.Expr)
        wanted = name not in without and (only is None or name in only)
        if docstring or not wanted or isinstance(node, ast.Import | ast.ImportFrom):
            continue
        first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
        pieces.append("\n".join(lines[first - 1 : node.end_lineno]))
    return "\n\n\n".join(pieces)


def _tester() -> str:
    parts = [_source("sandbox", "checks"), _source("sandbox", "tester", only=TESTER_PARTS)]
    return TESTER.format(failure_chars=FAILURE_CHARS, parts="\n\n\n".join(parts))
