"""Row schema, public benchmarks, generated problems, and the prompts of the policy."""

from .benchmarks import BENCHMARKS, Benchmark, BenchmarkRow, UnusableRowError, load_benchmark
from .budgets import with_budgets
from .dedup import near_copies, normal_form
from .files import is_data_file
from .loading import SYNTHETIC, build_dataset, load_questions, load_rows, selection_split
from .mixing import mix, read_ratio, shares, split_digest
from .prepare import DataCard, prepare, print_card
from .prompts import Message, PolicyPrompt, check_policy_prompt, policy_prompts, statement
from .schema import FIELDS, Row, holds_tests, read_row
from .synthetic import (
    CODE_STEPS,
    MATH_STEPS,
    Applied,
    Solved,
    draw_step,
    mixed_rows,
    read_problem,
    sum_rows,
    synthetic_rows,
)
from .traits import TRAITS

__all__ = [
    "BENCHMARKS",
    "CODE_STEPS",
    "FIELDS",
    "MATH_STEPS",
    "SYNTHETIC",
    "TRAITS",
    "Applied",
    "Benchmark",
    "BenchmarkRow",
    "DataCard",
    "Message",
    "PolicyPrompt",
    "Row",
    "Solved",
    "UnusableRowError",
    "build_dataset",
    "check_policy_prompt",
    "draw_step",
    "holds_tests",
    "is_data_file",
    "load_benchmark",
    "load_questions",
    "load_rows",
    "mix",
    "mixed_rows",
    "near_copies",
    "normal_form",
    "policy_prompts",
    "prepare",
    "print_card",
    "read_problem",
    "read_ratio",
    "read_row",
    "selection_split",
    "shares",
    "split_digest",
    "statement",
    "sum_rows",
    "synthetic_rows",
    "with_budgets",
]
