"""Row schema, sources, prompts for the policy, synthetic problems."""

from .duplicates import near_copies, normal_form
from .load import SYNTHETIC, build_dataset, load_rows
from .mixing import mix, read_ratio, shares, split_digest
from .prompts import check_policy_prompt, policy_messages, policy_prompts
from .sources import SOURCES, Source, Sourced, UnusableRowError, load_source
from .synthetic import CODE_STEPS, MATH_STEPS, Applied, Solved, draw_step, read_problem, synthetic_rows
from .types import DOMAINS, FIELDS, Row, read_row

__all__ = [
    "CODE_STEPS",
    "DOMAINS",
    "FIELDS",
    "MATH_STEPS",
    "SOURCES",
    "SYNTHETIC",
    "Applied",
    "Row",
    "Solved",
    "Source",
    "Sourced",
    "UnusableRowError",
    "build_dataset",
    "check_policy_prompt",
    "draw_step",
    "load_rows",
    "load_source",
    "mix",
    "near_copies",
    "normal_form",
    "policy_messages",
    "policy_prompts",
    "read_problem",
    "read_ratio",
    "read_row",
    "shares",
    "split_digest",
    "synthetic_rows",
]
