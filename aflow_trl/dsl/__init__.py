"""The workflow language: grammar, AST, parser, canonical printer, static analysis, drawing. Imports errors only."""

from ..errors import DSLError
from .analysis import DEFAULT_LIMITS, analyze, check, critical_calls
from .ast import (
    Analysis,
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
    Sequence,
    Workflow,
    sequence,
)
from .extraction import CLOSING_TAG, REPAIRS, extract
from .mermaid import mermaid
from .parser import parse
from .printer import format
from .regex import MAX_REGEX_DEPTH, workflow_regex
from .sampling import sample
from .templates import forms
from .traversal import children, walk
from .vocabulary import Vocabulary, builtin_vocabulary, operator_table

__all__ = [
    "CLOSING_TAG",
    "DEFAULT_LIMITS",
    "MAX_REGEX_DEPTH",
    "REPAIRS",
    "Analysis",
    "Conditional",
    "DSLError",
    "Done",
    "Extraction",
    "Limits",
    "Node",
    "Operator",
    "OperatorSpec",
    "Parallel",
    "Position",
    "Repeat",
    "Sequence",
    "Vocabulary",
    "Workflow",
    "analyze",
    "builtin_vocabulary",
    "check",
    "children",
    "critical_calls",
    "extract",
    "format",
    "forms",
    "mermaid",
    "operator_table",
    "parse",
    "sample",
    "sequence",
    "walk",
    "workflow_regex",
]
