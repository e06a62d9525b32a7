"""
Scorer card: how often the strict scorers refuse a right answer in another form, and accept a wrong one.

    python benchmarks/scorers.py [ROWS.jsonl ...] [--limit N]

Every gold answer is written in everyday forms, which have to score 1, and changed so that it is another answer (sign,
base, off by one, per cent, the task restated, a neighbour's gold, taken back), which has to score 0. Rows come from
`aflow-trl data prepare`; without a file, from the synthetic problems.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.table import Table

from aflow_trl.answers import read_number
from aflow_trl.data import load_rows
from aflow_trl.errors import ScorerError
from aflow_trl.runs import report_console
from aflow_trl.scoring import score_math, score_qa

FORMS = (
    *("{}", "**{}**", '"{}"', "“{}”", "<answer>{}</answer>", "The answer is {}.", "**Answer**: {}", "#### {}"),
    *("## Final Answer\n{}", "The final answer is {}. I hope it is correct.", "Thus the answer is {}, as required."),
)
MATH_FORMS = (
    *("${}$", "$${}$$", r"\[{}\]", r"\boxed{{{}}}", "Therefore the sum is ${}$, as required."),
    "The final answer is: $\\boxed{{{}}}$. I hope it is correct.",
)
DENIALS = ("The answer is {}, which is wrong.", "The answer is not {}.", "I doubt that the answer is {}.")


def mutations(gold: str, neighbour: str, domain: str) -> Iterator[tuple[str, str]]:
    """Answers that are not the gold, with the name of what was changed."""
    yield "a neighbour's gold", neighbour
    yield "two candidates", f"{gold} or {neighbour}"
    for denial in DENIALS:
        yield "taken back", denial.format(gold)
    number = read_number(gold)
    if domain != "math" or number is None or number.unit or number.percent:
        return
    value = number.value
    if value:
        yield "sign", f"-{gold}" if not gold.startswith("-") else gold[1:]
    yield "off by one", str(value + 1)
    yield "echo of the task", f"{value - 2} + 2"
    yield "base", f"{gold}_8"
    if value:
        yield "per cent", f"{value * 3}%"


def card(paths: list[str], limit: int) -> None:
    """Print the card."""
    rows = [row for path in paths for row in load_rows(path)] or load_rows("synthetic", split="test", count=limit)
    random.Random(0).shuffle(rows)
    for domain in ("math", "qa"):
        golds = list(dict.fromkeys(row.answer[0] for row in rows if row.domain == domain))[:limit]
        score: Callable[[str, str], object] = score_math if domain == "math" else score_qa
        refused, accepted, tried = Counter[str](), Counter[str](), Counter[str]()
        for index, gold in enumerate(golds):
            for form in FORMS + (MATH_FORMS if domain == "math" else ()):
                tried[form] += 1
                refused[form] += _value(score, form.format(gold), gold) != 1.0
            neighbour = golds[(index + 1) % len(golds)]
            if _value(score, neighbour, gold) == 1.0:
                continue  # 0.5 and 1/2
            for name, text in mutations(gold, neighbour, domain):
                tried[name] += 1
                accepted[name] += _value(score, text, gold) == 1.0
        table = Table(title=f"{domain}: {len(golds)} golds", title_justify="left")
        for heading in ("form or change", "tried", "false refusals", "false accepts"):
            table.add_column(heading, justify="left" if heading.startswith("form") else "right", overflow="fold")
        for name, count in tried.items():
            is_form = name in FORMS or name in MATH_FORMS
            table.add_row(
                repr(name), str(count), str(refused[name]) if is_form else "", "" if is_form else str(accepted[name])
            )
        totals = [sum(counts.values()) for counts in (tried, refused, accepted)]
        table.add_row("together", *map(str, totals))
        report_console().print(table)


def _value(score: Callable[[str, str], object], prediction: str, gold: str) -> float:
    try:
        return float(score(prediction, gold).value)  # type: ignore[attr-defined]
    except ScorerError:
        return 0.0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help="files of rows, as `aflow-trl data prepare` writes them")
    parser.add_argument("--limit", type=int, default=500, help="maximum number of golds per domain (default: 500)")
    options = parser.parse_args()
    card([str(Path(path)) for path in options.rows], options.limit)
