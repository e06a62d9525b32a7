"""Row schema, sources, prompts for the policy, synthetic problems."""

from .duplicates import near_copies, normal_form
from .graph import UntranslatableError, translate
from .improvement import (
    Attempt,
    Failure,
    Improvement,
    improvement_messages,
    load_improvements,
    read_improvement,
    write_improvements,
)
from .load import SYNTHETIC, build_dataset, load_questions, load_rows, selection_split
from .mixing import mix, read_ratio, shares, split_digest
from .prompts import check_policy_prompt, policy_messages, policy_prompts, reasoning_messages
from .sources import SOURCES, Source, Sourced, UnusableRowError, load_source
from .synthetic import CODE_STEPS, MATH_STEPS, Applied, Solved, draw_step, read_problem, sum_rows, synthetic_rows
from .types import DOMAINS, FIELDS, Row, read_row
from .workspace import Report, import_workspace

__all__ = [
    "CODE_STEPS",
    "DOMAINS",
    "FIELDS",
    "MATH_STEPS",
    "SOURCES",
    "SYNTHETIC",
    "Applied",
    "Attempt",
    "Failure",
    "Improvement",
    "Report",
    "Row",
    "Solved",
    "Source",
    "Sourced",
    "UntranslatableError",
    "UnusableRowError",
    "build_dataset",
    "check_policy_prompt",
    "draw_step",
    "import_workspace",
    "improvement_messages",
    "load_improvements",
    "load_questions",
    "load_rows",
    "load_source",
    "mix",
    "near_copies",
    "normal_form",
    "policy_messages",
    "policy_prompts",
    "read_improvement",
    "read_problem",
    "read_ratio",
    "read_row",
    "reasoning_messages",
    "selection_split",
    "shares",
    "split_digest",
    "sum_rows",
    "synthetic_rows",
    "translate",
    "write_improvements",
]
