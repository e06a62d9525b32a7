"""
Exports a workflow as a script that needs only `openai`.

The script consists of the operators' source, their prompts, and a small runner. The source is copied rather than
written a second time, so that an exported workflow cannot behave differently from the engine.
"""

from __future__ import annotations

import ast
import json
import pprint
import re
from collections.abc import Collection, Iterable, Mapping
from importlib.resources import files
from typing import TypeAlias

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
PlainNode: TypeAlias = tuple[object, ...]
"""A node as a literal of the script: its kind, then its children; see `WORKFLOW` in the template."""
# What reads dates, of the forms of answers.
DATE_PARTS = ("_MONTH_NAMES", "_MONTHS", "_MONTH", "_DAY_FIRST", "_MONTH_FIRST", "_ISO", "read_date")
# Functions of the sandbox's tester that run tests in one process with the solution.
TESTER_PARTS = ("_count", "_compiled", "_run", "_failure", "_actual")
FAILURE_CHARS = 2_000
TESTER = """\
import ast, functools, importlib, json, sys

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


def to_python(
    workflow: Workflow,
    *,
    vocabulary: Vocabulary,
    config: ExecutorConfig,
    models: Mapping[str, ExecutorConfig] | None = None,
    name: str = "workflow.py",
) -> str:
    """
    Write a workflow as a script.

    Args:
        workflow ([`~aflow_trl.dsl.Workflow`]):
            Workflow.
        vocabulary (`Mapping[str, OperatorSpec]`):
            Operators that the workflow may use.
        config ([`~aflow_trl.llm.ExecutorConfig`]):
            Model and sampling parameters.
        models (`Mapping[str, ExecutorConfig]`, *optional*):
            Executors of the models that the workflow names.
        name (`str`, *optional*, defaults to `"workflow.py"`):
            Name of the script, for its usage message.

    Returns:
        `str`: Python source.

    Raises:
        [`RecipeError`]: The workflow uses an operator that does not ship with the package.
    """
    used = list(dict.fromkeys(node.name for node, _ in walk(workflow.root) if isinstance(node, Operator)))
    if custom := [operator for operator in used if operator not in operator_table()]:
        # Its module may import anything, so its source alone would not run.
        raise RecipeError(
            f"the operator {custom[0]} does not ship with aflow_trl, so it cannot be exported. "
            f"Use some of {', '.join(operator_table())}."
        )
    named = {value for node, _ in walk(workflow.root) if isinstance(node, Operator) for _, value in node.arguments}
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
        "models": _literal({key: _endpoint(own, config) for key, own in (models or {}).items() if key in named}),
        "tester": repr(_tester()) if "Test" in used else '""',
        "operators": _operators(used),
    }
    text = (PACKAGE / "export" / "standalone.py.template").read_text(encoding="utf-8")
    # Not `str.format`, because the template is full of braces; in one pass, because a value may hold `{{name}}`.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts.get(match.group(1), match.group()), text)


def _plain(node: Node) -> PlainNode:
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


def _endpoint(config: ExecutorConfig, main: ExecutorConfig) -> dict[str, str | None]:
    """Model, endpoint and key of a named model; the endpoint is `None` if it is that of the script."""
    elsewhere = config.executor_base_url != main.executor_base_url
    return {
        "model": config.executor_model,
        "base_url": config.executor_base_url if elsewhere else None,
        "api_key_env": config.executor_api_key_env if elsewhere else None,
    }


def _literal(value: object) -> str:
    return pprint.pformat(value, width=110, sort_dicts=False)


def _operators(used: Iterable[str]) -> str:
    """Source of the operators that are used, and of the data types and parsers they need."""
    unused = set(operator_table()) - set(used)
    modules = [_source("", "text")]
    modules += [_source("answers", name) for name in ("text", "reader", "units", "numbers")]
    modules += [_source("answers", "forms", only=DATE_PARTS), _source("answers", "keys")]
    modules += [_source("operators", name) for name in ("types", "replies", "final_answer")]
    prompts = _source("operators", "prompts", only=("_FIELD", "fill"))
    return "\n\n\n".join([*modules, prompts, _source("operators", "builtin", without=unused)])


def _source(stage: str, module: str, *, without: Collection[str] = (), only: Collection[str] | None = None) -> str:
    """Source of a module without its docstring and imports, restricted to some of its definitions."""
    text = (PACKAGE / stage / f"{module}.py").read_text(encoding="utf-8")
    lines = text.splitlines()
    pieces = []
    for index, node in enumerate(ast.parse(text).body):
        target = node.targets[0] if isinstance(node, ast.Assign) else node
        name = getattr(target, "name", getattr(target, "id", ""))
        docstring = index == 0 and isinstance(node, ast.Expr)
        selected = name not in without and (only is None or name in only)
        if docstring or not selected or isinstance(node, ast.Import | ast.ImportFrom):
            continue
        # A function's own line number is that of `def`, after its decorators.
        first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
        pieces.append("\n".join(lines[first - 1 : node.end_lineno]))
    return "\n\n\n".join(pieces)


def _tester() -> str:
    parts = [_source("sandbox", "checks"), _source("sandbox", "tester", only=TESTER_PARTS)]
    return TESTER.format(failure_chars=FAILURE_CHARS, parts="\n\n\n".join(parts))
