"""Row schema, sources, prompts for the policy, synthetic problems."""

from .load import SYNTHETIC, build_dataset, load_rows
from .prompts import check_policy_prompt, policy_messages, policy_prompts
from .synthetic import CODE_STEPS, MATH_STEPS, Applied, Solved, draw_step, read_problem, synthetic_rows
from .types import DOMAINS, FIELDS, Row, read_row

__all__ = [
    "CODE_STEPS",
    "DOMAINS",
    "FIELDS",
    "MATH_STEPS",
    "SYNTHETIC",
    "Applied",
    "Row",
    "Solved",
    "build_dataset",
    "check_policy_prompt",
    "draw_step",
    "load_rows",
    "policy_messages",
    "policy_prompts",
    "read_problem",
    "read_row",
    "synthetic_rows",
]
