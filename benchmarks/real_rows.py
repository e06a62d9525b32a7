"""
Rows of public benchmarks through the whole path: format and scoring, not skill.

    python benchmarks/real_rows.py COPIES [--eval N] [--out FOLDER]

COPIES holds a folder for each benchmark in its upstream format, as `aflow-trl data prepare --from` reads it. Every
reference solution has to be judged right, and wrong if it returns nothing, something else, raises, or is cut in half;
every gold has to be accepted, and refused when it is another number or the gold of another row. Then `aflow-trl eval`
runs fixed workflows on N rows of each benchmark against a server that knows the golds and replies as each operator
asks, and once more against a server that is always wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aiohttp import web
from rich.table import Table

from aflow_trl.answers import gold_answer, read_number
from aflow_trl.console import report_console
from aflow_trl.data import BENCHMARKS, Benchmark, BenchmarkRow, UnusableRowError, load_benchmark
from aflow_trl.scoring import score_answer, score_code
from aflow_trl.simulator.recognize import recognize

ALTER = """
def _altered(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float, complex)):
        return value + 1
    if isinstance(value, str):
        return value + "?"
    if isinstance(value, (list, tuple)):
        return type(value)([*value, 0]) if type(value) in (list, tuple) else None
    return 0 if value is None or isinstance(value, (dict, set)) else None

_right_{name} = {name}
def {name}(*args, **kwargs):
    return _altered(_right_{name}(*args, **kwargs))
"""
WORKFLOWS = {
    "code": ["CustomCodeGenerate", "CustomCodeGenerate -> Test", "Custom -> Review ? Revise : done"],
    "text": [
        "Custom",
        "AnswerGenerate",
        "Programmer",
        "AnswerGenerate -> Format",
        "[AnswerGenerate, AnswerGenerate, Custom] -> ScEnsemble",
        "Custom -> Review ? Revise : done",
    ],
}
"""Fixed workflows of the evaluation."""
WRONG_TEXT, WRONG_CODE = "zebra", "def {name}(*args, **kwargs):\n    return object()"


def broken(item: BenchmarkRow) -> Iterator[tuple[str, str]]:
    """Kinds of broken variants of a reference solution, and the code of each."""
    name = item.row.entry_point
    yield "returns nothing", f"{item.reference}\n\ndef {name}(*args, **kwargs):\n    return None"
    yield "returns something else", item.reference + ALTER.replace("{name}", name)
    yield "raises", f"{item.reference}\n\ndef {name}(*args, **kwargs):\n    raise NotImplementedError"
    yield "is cut in half", item.reference[: len(item.reference) // 2]


def others(golds: Sequence[str], rows: Sequence[BenchmarkRow], rng: random.Random) -> Iterator[tuple[str, str]]:
    """Wrong answers in place of the golds of a row, by kind; several annotators give several golds."""
    numbers = [number.value for gold in golds if (number := read_number(gold)) is not None and number.decimals is None]
    if numbers:
        yield "another number", str(max(numbers) + 1)
    neighbour = rng.choice(rows).row.answer[0].lower()
    if all(neighbour not in gold.lower() and gold.lower() not in neighbour for gold in golds):
        yield "the gold of another row", neighbour


async def judge(rows: Sequence[BenchmarkRow]) -> tuple[Counter[str], list[str]]:
    """How references, golds and wrong ones are judged: counts, and what was judged wrongly."""
    counts: Counter[str] = Counter()
    mistakes: list[str] = []
    rng = random.Random(0)
    limit = asyncio.Semaphore(4)

    def note(kind: str, text: str, row: Any, *, expected: bool, value: float) -> None:
        counts[f"{'right' if expected else 'wrong'}: {kind}"] += 1
        if (value == 1) != expected:
            counts[f"misjudged: {kind}"] += 1
            mistakes.append(f"{row.source} {row.id}: {kind}: {text[:80]!r}")

    async def code(item: BenchmarkRow) -> None:
        row = item.row
        options: dict[str, Any] = {"question": row.question}
        async with limit:
            score = await score_code(item.reference, row.hidden_tests, row.entry_point, **options)
            if score.value != 1:
                # Live objects, such as a match of `re`, do not leave a process.
                options["weak_verdict"] = True
                score = await score_code(item.reference, row.hidden_tests, row.entry_point, **options)
                counts["weak verdicts"] += score.value == 1
            note("reference", item.reference, row, expected=True, value=score.value)
            if score.value != 1:
                return
            for kind, text in broken(item):
                score = await score_code(text, row.hidden_tests, row.entry_point, **options)
                note(kind, text, row, expected=False, value=score.value)

    async def text(item: BenchmarkRow) -> None:
        row = item.row
        answers = [
            ("gold", item.reference),
            *others([gold_answer(text, row.domain) for text in row.answer], rows, rng),
        ]
        async with limit:
            for kind, answer in answers:
                score = await score_answer(answer, domain=row.domain, golds=row.answer, question=row.question)
                note(kind, answer, row, expected=kind == "gold", value=score.value)

    await asyncio.gather(*(code(item) if item.row.domain == "code" else text(item) for item in rows))
    return counts, mistakes


def converted(benchmark: Benchmark, folder: Path) -> Iterator[tuple[str, list[BenchmarkRow]]]:
    """Convertible rows by split."""
    for split, upstream in benchmark.splits.items():
        rows = []
        for raw in load_benchmark(benchmark, upstream, folder):
            try:
                rows.append(benchmark.convert(raw))
            except UnusableRowError:
                continue
        yield split, rows


class Oracle:
    """A server that knows the golds, or is always wrong, and replies as each operator asks."""

    def __init__(self, items: Iterable[BenchmarkRow], *, right: bool) -> None:
        self.right = right
        self.items = {item.row.question: item for item in items}

    def reply(self, prompt: str) -> str:
        """Reply to the last user message."""
        name, fields = recognize(prompt)
        problem = fields.get("problem", prompt)
        item = self.items.get(problem) or next(
            (item for question, item in self.items.items() if problem.endswith(question)), None
        )
        if item is None:
            return "OK"
        is_code = item.row.domain == "code"
        # A question of SQuAD v2 without an answer has an empty gold.
        answer = "" if is_code else gold_answer(item.row.answer[0], item.row.domain) or "unanswerable"
        solution = f"```python\n{item.reference}\n```" if is_code else answer
        if not self.right:
            solution = f"```python\n{WRONG_CODE.format(name=item.row.entry_point)}\n```" if is_code else WRONG_TEXT
        if name in ("ScEnsemble", "MdEnsemble"):
            return "<choice>A</choice>"
        if name == "Review":
            verdict = "correct" if self.right else "incorrect"
            return f"<feedback>It was compared with the task.</feedback>\n<verdict>{verdict}</verdict>"
        if name == "Revise":
            return f"<solution>{solution}</solution>"
        if name in ("AnswerGenerate", "Format"):
            return f"<thought>It is stated.</thought>\n<answer>{solution}</answer>"
        if is_code:
            return solution
        if name == "Programmer":
            return f"```python\nprint({solution!r})\n```"
        return f"Let us see.\n\nThe answer is {solution}."

    async def chat(self, request: web.Request) -> web.Response:
        """`/v1/chat/completions`, with tags only."""
        payload = await request.json()
        if "response_format" in payload:
            return web.json_response({"error": {"message": "response_format is not supported"}}, status=400)
        content = self.reply(payload["messages"][-1]["content"])
        message = {"role": "assistant", "content": content}
        usage = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response({"object": "chat.completion", "choices": [choice], "usage": usage})


async def evaluate(
    items: Sequence[BenchmarkRow], workflows: Sequence[str], out: Path, *, right: bool
) -> Mapping[str, Any]:
    """Report of `aflow-trl eval` against the server."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "rows.jsonl"
    path.write_text("".join(json.dumps(asdict(item.row)) + "\n" for item in items), encoding="utf-8")
    application = web.Application()
    application.router.add_post("/v1/chat/completions", Oracle(items, right=right).chat)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    command = [sys.executable, "-m", "aflow_trl.cli", "eval", str(path), "--base-url", f"http://127.0.0.1:{port}/v1"]
    command += ["--executor", "oracle", "--limit", str(len(items)), "--out", str(out / "evaluation")]
    for workflow in workflows:
        command += ["--workflow", workflow]
    command += ["--set", "executor_api_key_env=null"]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
    if await process.wait():
        raise SystemExit("aflow-trl eval failed")
    await runner.cleanup()
    report: Mapping[str, Any] = json.loads((out / "evaluation" / "results.json").read_text(encoding="utf-8"))
    return report


def main() -> None:
    """Judge every row, evaluate some, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("copies", type=Path)
    parser.add_argument("--eval", type=int, default=40, metavar="N", help="rows of each benchmark in the evaluation")
    parser.add_argument("--out", type=Path, default=Path("runs/real_rows"))
    options = parser.parse_args()
    table = Table("benchmark", "split", "rows", "accepted", "weak", "wrong ones", "refused")
    samples: dict[str, list[BenchmarkRow]] = {"code": [], "text": []}
    mistakes: list[str] = []
    for benchmark in BENCHMARKS.values():
        if not (options.copies / benchmark.name).is_dir():
            continue
        for split, rows in converted(benchmark, options.copies):
            counts, missed = asyncio.run(judge(rows))
            mistakes += missed
            tried = sum(number for kind, number in counts.items() if kind.startswith("wrong: "))
            misjudged = sum(number for kind, number in counts.items() if kind.startswith("misjudged: "))
            right = counts["right: reference"] + counts["right: gold"]
            refused = counts["misjudged: reference"] + counts["misjudged: gold"]
            table.add_row(
                *(benchmark.name, split, str(len(rows)), f"{right - refused}", str(counts["weak verdicts"])),
                *(str(tried), str(tried - (misjudged - refused))),
            )
            if split == "test":
                usable = [item for item in rows if item.row.source + item.row.id not in " ".join(missed)]
                kind = "code" if rows[0].row.domain == "code" else "text"
                samples[kind] += random.Random(0).sample(usable, min(options.eval, len(usable)))
    console = report_console()
    console.print(table)
    for mistake in mistakes:
        console.print(mistake, markup=False)
    for kind, items in samples.items():
        sources = sorted({item.row.source for item in items})
        accuracies = Table(f"{kind}: accuracy, knowing / wrong", *sources)
        reports = [
            asyncio.run(evaluate(items, WORKFLOWS[kind], options.out / f"{kind}-{name}", right=name == "knowing"))
            for name in ("knowing", "wrong")
        ]
        for system in reports[0]["systems"]:
            by_source = [report["systems"][system]["by_source"] for report in reports]
            cells = [" / ".join(f"{found[source]['mean']:.2f}" for found in by_source) for source in sources]
            accuracies.add_row(system, *cells)
        console.print(accuracies)


if __name__ == "__main__":
    main()
