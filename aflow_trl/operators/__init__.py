"""The operators of a workflow, a small class each, and the registry and decorator that add others."""

from .base import RETRY_HINT, Operator, OperatorCall, OperatorFailureError
from .builtin import (
    AnswerGenerate,
    Custom,
    CustomCodeGenerate,
    Format,
    MdEnsemble,
    Programmer,
    Review,
    Revise,
    ScEnsemble,
    Test,
)
from .final_answer import final_answer
from .preflight import preflight
from .registry import DEFAULT_OPERATORS, OperatorRegistry, load_operators, operator
from .replies import ReplyError, ReplyForm, tagged
from .types import Candidate, Problem, State

__all__ = [
    "DEFAULT_OPERATORS",
    "RETRY_HINT",
    "AnswerGenerate",
    "Candidate",
    "Custom",
    "CustomCodeGenerate",
    "Format",
    "MdEnsemble",
    "Operator",
    "OperatorCall",
    "OperatorFailureError",
    "OperatorRegistry",
    "Problem",
    "Programmer",
    "ReplyError",
    "ReplyForm",
    "Review",
    "Revise",
    "ScEnsemble",
    "State",
    "Test",
    "final_answer",
    "load_operators",
    "operator",
    "preflight",
    "tagged",
]
