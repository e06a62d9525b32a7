"""The operators of a workflow, one small class each, and the decorator for a user's own."""

from .answers import extract_answer, final_answer, last_boxed, normalize_text, vote_key
from .base import (
    REGISTRY,
    RETRY_HINT,
    Operator,
    OperatorCall,
    OperatorFailureError,
    describe,
    load_operators,
    operator,
    vocabulary,
)
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
from .types import Candidate, Problem, State

__all__ = [
    "REGISTRY",
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
    "Problem",
    "Programmer",
    "Review",
    "Revise",
    "ScEnsemble",
    "State",
    "Test",
    "describe",
    "extract_answer",
    "final_answer",
    "last_boxed",
    "load_operators",
    "normalize_text",
    "operator",
    "vocabulary",
    "vote_key",
]
