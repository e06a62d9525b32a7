"""The workflow language: grammar, AST, parser, canonical printer, static analysis, sampling and drawing."""

from ..errors import DSLError
from .analysis import DEFAULT_LIMITS, analyze, check, critical_calls, worst_case_cost
from .ast import (
    MODEL,
    Analysis,
    Arguments,
    ArgumentValue,
    Chain,
    Conditional,
    Done,
    Extraction,
    Limits,
    Node,
    Operator,
    OperatorSpec,
    Parallel,
    Position,
    Repeat,
    Workflow,
    chain,
)
from .extraction import CLOSING_TAG, REPAIRS, extract
from .mermaid import mermaid
from .parser import parse
from .printer import format_workflow
from .regex import MAX_REGEX_DEPTH, workflow_regex
from .sampling import sample_workflow
from .templates import workflow_templates
from .traversal import children, walk
from .vocabulary import OperatorEntry, Vocabulary, builtin_vocabulary, operator_table

format = format_workflow
"""Public alias of [`format_workflow`]."""

__all__ = [
    "CLOSING_TAG",
    "DEFAULT_LIMITS",
    "MAX_REGEX_DEPTH",
    "MODEL",
    "REPAIRS",
    "Analysis",
    "ArgumentValue",
    "Arguments",
    "Chain",
    "Conditional",
    "DSLError",
    "Done",
    "Extraction",
    "Limits",
    "Node",
    "Operator",
    "OperatorEntry",
    "OperatorSpec",
    "Parallel",
    "Position",
    "Repeat",
    "Vocabulary",
    "Workflow",
    "analyze",
    "builtin_vocabulary",
    "chain",
    "check",
    "children",
    "critical_calls",
    "extract",
    "format",
    "format_workflow",
    "mermaid",
    "operator_table",
    "parse",
    "sample_workflow",
    "walk",
    "workflow_regex",
    "workflow_templates",
    "worst_case_cost",
]
