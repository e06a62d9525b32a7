"""
Scorer card: how often the strict scorers refuse a right answer in another form, and accept a wrong one.

    python benchmarks/scorers.py [ROWS.jsonl ...] [--limit N]

Every gold answer is written in everyday forms, which have to score 1, and changed so that it is another answer, which
must not. Rows come from `aflow-trl data prepare`; without a file, from the golds below and the synthetic problems.
"""

from __future__ import annotations

import argparse
import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.table import Table

from aflow_trl.answers import gold_answer, read_date, read_interval, read_number, read_time, split_list
from aflow_trl.console import report_console
from aflow_trl.data import Row, load_rows
from aflow_trl.errors import ScorerError
from aflow_trl.scoring import score_math, score_qa

FORMS = (
    *("{}", "**{}**", '"{}"', "“{}”", "<answer>{}</answer>", "The answer is {}.", "**Answer**: {}", "#### {}"),
    *("## Final Answer\n{}", "The final answer is {}. I hope it is correct.", "Thus the answer is {}, as required."),
)
MATH_FORMS = (
    *("${}$", "$${}$$", r"\[{}\]", r"\boxed{{{}}}", r"\boxed{{ {} }}", "Therefore the sum is ${}$, as required."),
    "The final answer is: $\\boxed{{{}}}$. I hope it is correct.",
)
DENIALS = ("The answer is {}, which is wrong.", "The answer is not {}.", "I doubt that the answer is {}.")
UNITS = {"km": "m", "m": "km", "kg": "g", "g": "kg", "hours": "minutes", "minutes": "hours", "years": "days"}
GOLDS = {
    "math": (
        *(
            "7",
            "-3",
            "1200",
            "1,250,000",
            "0",
            "0.25",
            "3.5",
            "-0.125",
            "45\\%",
            "\\frac{3}{4}",
            "-\\frac{2}{7}",
            "5/6",
        ),
        *("2\\sqrt{3}", "\\pi", "x^2+1", "3x-2", "2^{10}x", "(1,2)", "(-3,0,5)", "[0,5)", "(-\\infty,2]", "1,4"),
        *("\\{1,2,3\\}", "12\\text{ cm}", "30^\\circ", "\\text{Monday}", "\\text{(C)}"),
    ),
    "qa": (
        *(
            "Marie Curie",
            "New York City",
            "José Martí",
            "St. Louis",
            "J. K. Rowling",
            "Franco-Prussian War",
            "O'Brien",
        ),
        *(
            "The Old Man and the Sea",
            "12 May 1804",
            "1969",
            "42",
            "2 million",
            "30 km",
            "3 hours",
            "7:30 pm",
            "yes",
            "no",
        ),
        *("lithium carbonate", "the second floor", "Charles III", "University of Leeds"),
    ),
}
"""Golds of every family, so that a change for the worse shows without any data set."""


@dataclass(slots=True)
class Tally:
    """Counts of one family of golds."""

    golds: int = 0
    forms: int = 0
    changes: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Forms of a right answer that did not score 1, with the gold."""
    accepted: Counter[str] = field(default_factory=Counter)
    """Changed answers that scored 1, with the gold."""


def family(gold: str, domain: str) -> str:
    """Kind of a gold answer."""
    bare = gold_answer(gold, domain)
    if domain == "qa" and bare.lower() in ("yes", "no", "true", "false"):
        return "yes or no"
    if domain == "qa" and (read_date(bare) or read_time(bare)):
        return "date or time"
    number = read_number(bare)
    if number is not None:
        if number.unit:
            return "number with unit"
        return "number" if re.fullmatch(r"[-+−\d.,]+", bare) else "number in another notation"
    if domain == "qa":
        return "name of one word" if len(bare.split()) == 1 else "phrase"
    if read_interval(bare):
        return "interval"
    if split_list(bare) and len(split_list(bare)) > 1:
        return "list"
    return "text" if "\\text" in gold else "expression"


def forms(gold: str, domain: str) -> Iterator[tuple[str, str]]:
    """The gold in other forms, with the name of the form."""
    for form in FORMS + (MATH_FORMS if domain == "math" else ()):
        yield form, form.format(gold)
    yield "decomposed accents", unicodedata.normalize("NFD", gold)
    yield "white space around", f"  {gold}\n"
    if domain == "qa":
        yield "typographic dashes and quotes", gold.replace("-", "–").replace("'", "’")
        yield "no-break spaces", gold.replace(" ", "\u00a0")
        yield "capitals", gold.upper()
    elif gold.startswith("-"):
        yield "typographic minus", f"−{gold[1:]}"
    if domain == "math" and "\\frac" in gold:
        yield "dfrac", gold.replace("\\frac", "\\dfrac")


def changes(gold: str, neighbour: str, domain: str) -> Iterator[tuple[str, str]]:
    """Answers that are not the gold, with the name of what was changed."""
    yield "a neighbour's gold", neighbour
    yield "two candidates", f"{gold} or {neighbour}"
    for denial in DENIALS:
        yield "taken back", denial.format(gold)
    words = gold.split()
    if domain == "qa" and len(words) > 1 and not any(character.isdigit() for character in gold):
        yield "a word", " ".join([*words[:-1], "Xanadu"])
    number = read_number(gold)
    if number is not None and domain == "qa" and words[-1] in UNITS:
        yield "unit", " ".join([*words[:-1], UNITS[words[-1]]])
    if domain == "math" and (read_interval(gold) is None) and (items := split_list(gold)) and len(set(items)) > 1:
        if gold.startswith("("):
            yield "order", f"({','.join(reversed(items))})"
        elif "{" not in gold:
            yield "an item left out", ", ".join(items[:-1])
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


def measure(golds: Sequence[str], domain: str) -> dict[str, Tally]:
    """Tallies by family. Changes that happen to be right, such as 0.5 beside 1/2, are left out."""
    tallies: defaultdict[str, Tally] = defaultdict(Tally)
    for index, gold in enumerate(golds):
        tally = tallies[family(gold, domain)]
        tally.golds += 1
        for name, text in forms(gold, domain):
            tally.forms += 1
            tally.refused[f"{name!r} of {gold}"] += _value(text, gold, domain) != 1.0
        neighbour = golds[(index + 1) % len(golds)]
        if _value(neighbour, gold, domain) == 1.0:
            continue
        for name, text in changes(gold, neighbour, domain):
            tally.changes += 1
            tally.accepted[f"{name}: {text} for {gold}"] += _value(text, gold, domain) == 1.0
    return dict(tallies)


def card(golds: dict[str, list[str]]) -> None:
    """Print the card."""
    table = Table(title="Scorer card", title_justify="left")
    for heading in ("domain", "golds", "of them", "forms", "refused", "changes", "accepted"):
        table.add_column(heading, justify="left" if heading in ("domain", "golds") else "right")
    failures: list[str] = []
    for domain, texts in golds.items():
        for name, tally in sorted(measure(texts, domain).items()):
            refused, accepted = (sum(counts.values()) for counts in (tally.refused, tally.accepted))
            numbers = (tally.golds, tally.forms, refused, tally.changes, accepted)
            table.add_row(domain, name, *(f"{number:,}" for number in numbers))
            failures += [f"refused: {text}" for text, count in tally.refused.items() if count]
            failures += [f"accepted: {text}" for text, count in tally.accepted.items() if count]
    console = report_console()
    console.print(table)
    for failure in failures:
        console.print(failure)


def _value(prediction: str, gold: str, domain: str) -> float:
    try:
        return (score_math(prediction, gold) if domain == "math" else score_qa(prediction, gold)).value
    except ScorerError:
        return 0.0


def _golds(rows: Sequence[Row], limit: int) -> dict[str, list[str]]:
    return {
        domain: list(dict.fromkeys(row.answer[0] for row in rows if row.domain == domain))[:limit]
        for domain in ("math", "qa")
    }


def main() -> None:
    """Read the rows and print the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help="files of rows, as `aflow-trl data prepare` writes them")
    parser.add_argument("--limit", type=int, default=500, help="maximum number of golds per domain (default: 500)")
    options = parser.parse_args()
    if options.rows:
        rows = [row for path in options.rows for row in load_rows(path)]
        random.Random(0).shuffle(rows)
        card(_golds(rows, options.limit))
        return
    synthetic = _golds(load_rows("synthetic", split="test", count=options.limit), options.limit)
    card({domain: [*GOLDS[domain], *synthetic[domain]] for domain in synthetic})


if __name__ == "__main__":
    main()
