"""Warm start of the policy: a search for good workflows by execution, and fine-tuning on the winners, before RL."""

from .candidates import candidate_workflows, group_of, group_rows
from .choice import search_prices, winners_at
from .halving import HalvingSearch, Measure, successive_halving
from .search_log import SearchLog
from .settings import WarmStartSettings, read_settings
from .sft import draw_winner, fine_tune, sft_examples
from .types import Candidate, EvalRequest, EvalResult, Group

__all__ = [
    "Candidate",
    "EvalRequest",
    "EvalResult",
    "Group",
    "HalvingSearch",
    "Measure",
    "SearchLog",
    "WarmStartSettings",
    "candidate_workflows",
    "draw_winner",
    "fine_tune",
    "group_of",
    "group_rows",
    "read_settings",
    "search_prices",
    "sft_examples",
    "successive_halving",
    "winners_at",
]
