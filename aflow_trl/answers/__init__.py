"""Reading answers: what a text states, and what kind of answer it is. Scorers, votes and ensembles share it."""

from .forms import (
    Interval,
    is_bracketed,
    lists_in_words,
    read_based,
    read_date,
    read_interval,
    read_time,
    split_list,
)
from .keys import vote_key
from .numbers import RELATIVE_TOLERANCE, Number, read_number, same_number, units_agree
from .reader import bare_answer, code_block, extract_answer, gold_answer, last_boxed, with_prompt_imports
from .text import normalize_text
from .units import is_unit

__all__ = [
    "RELATIVE_TOLERANCE",
    "Interval",
    "Number",
    "bare_answer",
    "code_block",
    "extract_answer",
    "gold_answer",
    "is_bracketed",
    "is_unit",
    "last_boxed",
    "lists_in_words",
    "normalize_text",
    "read_based",
    "read_date",
    "read_interval",
    "read_number",
    "read_time",
    "same_number",
    "split_list",
    "units_agree",
    "vote_key",
    "with_prompt_imports",
]
