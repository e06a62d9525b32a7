"""Scorers of answers. A wrong answer scores 0; a scorer that fails raises [`~aflow_trl.errors.ScorerError`]."""

from .aflow_metrics import BENCHMARKS as AFLOW_BENCHMARKS
from .aflow_metrics import Variant as AflowVariant
from .aflow_metrics import score_aflow
from .code import score_code
from .dispatch import score_answer
from .domains import BUILTIN_DOMAINS, custom_domain, domain_remedy, known_domains, load_scorers, scorer
from .llm_judge import LLMJudge
from .math import score_math
from .qa import score_qa
from .types import LEVELS, NO_ANSWER, WEAK_VERDICT, WRONG_TYPE, Score, quantize

__all__ = [
    "AFLOW_BENCHMARKS",
    "BUILTIN_DOMAINS",
    "LEVELS",
    "NO_ANSWER",
    "WEAK_VERDICT",
    "WRONG_TYPE",
    "AflowVariant",
    "LLMJudge",
    "Score",
    "custom_domain",
    "domain_remedy",
    "known_domains",
    "load_scorers",
    "quantize",
    "score_aflow",
    "score_answer",
    "score_code",
    "score_math",
    "score_qa",
    "scorer",
]
