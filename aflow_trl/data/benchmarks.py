"""
The public benchmarks: their location on the Hub, their splits, and how to convert their rows to the row schema.

The converters expect the exact upstream columns. For code, the examples in the prompt or the first test become public
tests; the others become hidden tests, which score.
"""

from __future__ import annotations

import ast
import doctest
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from datasets import get_dataset_config_names, load_dataset

from ..answers import last_boxed, normalize_text
from ..errors import RecipeError
from .schema import Row

UpstreamRow: TypeAlias = Mapping[str, Any]
"""A row in the columns of its benchmark, which differ for each of them."""

MATH_CONFIGS = (
    *("algebra", "counting_and_probability", "geometry", "intermediate_algebra"),
    *("number_theory", "prealgebra", "precalculus"),
)
HOTPOT_LEVELS = {"easy": 1, "medium": 3, "hard": 5}
"""Spread over the scale of MATH, so that balanced batches can mix the two."""
NUMPY_IMPORT = re.compile(r"^import numpy as np$", re.MULTILINE)
NUMPY_STAND_IN = """\
class np:
    ndarray = float32 = float64 = ()

    @staticmethod
    def allclose(left, right, rtol=1e-05, atol=1e-08):
        if isinstance(left, (list, tuple)):
            return len(left) == len(right) and all(np.allclose(a, b, rtol, atol) for a, b in zip(left, right))
        return left == right or abs(left - right) <= atol + rtol * abs(right)
"""
"""The part of numpy that the tests of HumanEval+ and MBPP+ use. The sandbox does not provide numpy itself."""


UNANSWERABLE = "unanswerable"
"""Reply to a question that its context does not answer; the gold answer of such a row is empty."""


class UnusableRowError(Exception):
    """An upstream row cannot be converted. The message is the reason that the data card counts it under."""


_RELATION = re.compile(
    r"[\s`]*(?:#\s*)?"
    r"(?:==?>?|=+>|-+>|➞|→|:|(?:should |must |will )?(?:returns?|be|equals?|give|output)s?\b|is\b)\s*:?\s*(.+)"
)
"""What stands between a call and its value in the docstrings of HumanEval."""
_CONSTANTS = re.compile(r"\b(?:true|false|none)\b")


@dataclass(frozen=True, slots=True)
class BenchmarkRow:
    """A converted row, and a reference solution that the scorer has to accept."""

    row: Row
    reference: str


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A public benchmark."""

    name: str
    hub_id: str
    configs: tuple[str, ...]
    """Configurations on the Hub; empty for the default one."""
    splits: Mapping[str, str]
    """Split (`train`, `valid`, `test`) → upstream split."""
    convert: Callable[[UpstreamRow], BenchmarkRow]
    unanswerable_note: str = ""
    """What a question has to say where some rows have no answer; empty if all have one."""


def load_benchmark(benchmark: Benchmark, split: str, folder: Path | None = None) -> Iterator[UpstreamRow]:
    """
    Load the upstream rows of a split.

    Args:
        benchmark ([`Benchmark`]):
            Benchmark.
        split (`str`):
            Upstream split.
        folder (`Path`, *optional*):
            Folder that contains a copy of each benchmark under its name. Defaults to the Hub.

    Yields:
        `Mapping[str, Any]`: Rows in the upstream columns.

    Raises:
        [`RecipeError`]: The benchmark cannot be loaded.
    """
    path = benchmark.hub_id if folder is None else str(folder / benchmark.name)
    try:
        if folder is not None and (files := _split_files(folder / benchmark.name, split)):
            # One split at a time: a column that is empty in one and filled in another has two types.
            kind = "parquet" if files[0].endswith(".parquet") else "json"
            yield from load_dataset(kind, data_files=files, split="train")
            return
        # A local copy in plain files has no configurations; a clone of the Hub's repository has.
        available = set(get_dataset_config_names(path))
        configs = benchmark.configs if benchmark.configs and available.issuperset(benchmark.configs) else (None,)
        for config in configs:
            yield from load_dataset(path, config, split=split)
    # `datasets` documents no common base class: missing files, network and format errors all differ.
    except Exception as error:
        raise RecipeError(
            f"{benchmark.name} (split {split!r}) cannot be loaded from {path}: {type(error).__name__}: {error}. "
            "Check the connection to the Hub, or use --from with a folder that contains copies of the benchmarks."
        ) from None


def _split_files(folder: Path, split: str) -> list[str]:
    """Plain files of a split: `test.jsonl`, `test.jsonl.gz`, `test-00000-of-00001.parquet`."""
    endings = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
    return sorted(
        str(path)
        for path in (folder.glob(f"{split}*") if folder.is_dir() else ())
        if path.name.endswith(endings) and not path.name[len(split)].isalnum()
    )


def _gsm8k(raw: UpstreamRow) -> BenchmarkRow:
    steps, marker, answer = raw["answer"].rpartition("####")
    if not marker:
        raise UnusableRowError("no final answer")
    gold = answer.strip().replace(",", "")
    # Each calculation of the solution is annotated as <<48/2=24>>.
    difficulty = max(1, steps.count("<<"))
    question = raw["question"].strip()
    # GSM8K has no ids; a digest of the question is stable when rows are added or reordered.
    row = Row(question, (gold,), "math", source="gsm8k", id=_digest_id("gsm8k", question), difficulty=difficulty)
    return BenchmarkRow(row, gold)


def _math(raw: UpstreamRow) -> BenchmarkRow:
    gold = last_boxed(raw["solution"])
    if not gold:
        raise UnusableRowError("no boxed answer")
    level = raw["level"].rpartition(" ")[2]
    question = raw["problem"].strip()
    difficulty = int(level) if level.isdigit() else 0
    row = Row(question, (gold,), "math", source="math", id=_digest_id("math", question), difficulty=difficulty)
    return BenchmarkRow(row, gold)


def _humaneval(raw: UpstreamRow) -> BenchmarkRow:
    return _function_task(raw, "humaneval", raw["test"])


def _humaneval_plus(raw: UpstreamRow) -> BenchmarkRow:
    # Its tests import numpy, see `NUMPY_STAND_IN`.
    return _function_task(raw, "humaneval+", NUMPY_IMPORT.sub(NUMPY_STAND_IN, raw["test"]))


def _function_task(raw: UpstreamRow, source: str, test: str) -> BenchmarkRow:
    prompt, name = raw["prompt"], raw["entry_point"]
    helpers = _helpers(prompt, name)
    row = Row(
        question=f"Complete the function `{name}`.\n\n```python\n{prompt.strip()}\n```",
        answer=(),
        domain="code",
        entry_point=name,
        public_tests=tuple(_examples(prompt, name)),
        hidden_tests=("\n\n".join([*helpers, test.strip()]),),
        source=source,
        id=raw["task_id"].lower(),
    )
    return BenchmarkRow(row, prompt + raw["canonical_solution"])


def _mbpp(raw: UpstreamRow) -> BenchmarkRow:
    setup = [raw.get("test_setup_code") or "", *(raw.get("test_imports") or ())]
    # Each test runs on its own, so each needs the setup.
    tests = [_with_setup(test, setup) for test in [*raw["test_list"], *(raw.get("challenge_test_list") or ())]]
    return _mbpp_row(raw, "mbpp", tests[:1], tests[1:])


def _mbpp_plus(raw: UpstreamRow) -> BenchmarkRow:
    public = [_with_setup(raw["test_list"][0], list(raw.get("test_imports") or ()))]
    return _mbpp_row(raw, "mbpp+", public, [NUMPY_IMPORT.sub(NUMPY_STAND_IN, raw["test"]).strip()])


def _mbpp_row(raw: UpstreamRow, source: str, public: list[str], hidden: list[str]) -> BenchmarkRow:
    if not hidden:
        raise UnusableRowError("too few tests")
    # MBPP calls the column `text`, MBPP+ `prompt`.
    text = (raw.get("text") or raw["prompt"]).strip()
    name = _function_under_test(raw["code"], raw["test_list"][0])
    row = Row(
        question=f"{text}\n\nThe function is called `{name}`; for example:\n{raw['test_list'][0].strip()}",
        answer=(),
        domain="code",
        entry_point=name,
        public_tests=tuple(public),
        hidden_tests=tuple(hidden),
        source=source,
        # MBPP and MBPP+ share their ids, so that the copy check finds a task that one tests and the other trains on.
        id=f"mbpp/{raw['task_id']}",
    )
    return BenchmarkRow(row, raw["code"])


def _hotpotqa(raw: UpstreamRow) -> BenchmarkRow:
    context = raw["context"]
    paragraphs = [
        f"{title}: {''.join(sentences).strip()}"
        for title, sentences in zip(context["title"], context["sentences"], strict=True)
    ]
    difficulty = HOTPOT_LEVELS.get(raw.get("level") or "", 0)
    passages = "\n".join(paragraphs)
    return _question(raw["question"], [raw["answer"]], passages, "hotpotqa", raw["id"], difficulty)


def _drop(raw: UpstreamRow) -> BenchmarkRow:
    spans, types = raw["answers_spans"]["spans"], raw["answers_spans"].get("types") or ()
    # A number or a date is one answer, so several are those of several annotators, any of which is right. Several
    # spans may be parts of one answer; the columns do not say.
    if len({normalize_text(span) for span in spans}) > 1 and not {"number", "date"} & set(types):
        raise UnusableRowError("several spans")
    return _question(raw["question"], spans, raw["passage"], "drop", raw["query_id"])


def _squad_v2(raw: UpstreamRow) -> BenchmarkRow:
    if not raw["answers"]["text"]:
        row = _question(raw["question"], [UNANSWERABLE], raw["context"], "squad_v2", raw["id"]).row
        return BenchmarkRow(replace(row, answer=("",)), UNANSWERABLE)
    return _question(raw["question"], raw["answers"]["text"], raw["context"], "squad_v2", raw["id"])


def _question(
    text: str, golds: Iterable[str], context: str, source: str, upstream_id: str, difficulty: int = 0
) -> BenchmarkRow:
    # Several annotators often gave the same answer.
    answers = tuple(dict.fromkeys(gold.strip() for gold in golds if gold.strip()))
    if not answers:
        raise UnusableRowError("no answer")
    row_id = f"{source}/{upstream_id}"
    row = Row(text.strip(), answers, "qa", context=context.strip(), source=source, id=row_id, difficulty=difficulty)
    return BenchmarkRow(row, answers[0])


def _digest_id(source: str, question: str) -> str:
    return f"{source}/{hashlib.blake2b(question.encode(), digest_size=6).hexdigest()}"


def _with_setup(test: str, setup: list[str]) -> str:
    return "\n".join([*filter(None, setup), test])


def _function_under_test(code: str, test: str) -> str:
    """Name of the first function that the code defines and the test calls."""
    try:
        defined = {node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)}
        called = [node.func for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Call)]
    except SyntaxError:
        raise UnusableRowError("not Python") from None
    names = [function.id for function in called if isinstance(function, ast.Name) and function.id in defined]
    if not names:
        raise UnusableRowError("no function under test")
    return names[0]


def _helpers(prompt: str, name: str) -> list[str]:
    """Functions and imports that a prompt defines besides the requested function, and that its tests may use."""
    tree = _parse_prompt(prompt)
    # Without a helper function, imports alone are left out: the tests bring those they need.
    if not any(isinstance(node, ast.FunctionDef) and node.name != name for node in tree.body):
        return []
    return [ast.unparse(node) for node in tree.body if getattr(node, "name", "") != name]


def _examples(prompt: str, name: str) -> Iterator[str]:
    """
    Examples in a function's docstring as assertions: doctests, or lines such as `f(1) == 2`, `f(1) ➞ 2` and "f(1)
    should return 2". Whatever the reference solution fails is left out later.
    """
    for node in ast.walk(_parse_prompt(prompt)):
        if not isinstance(node, ast.FunctionDef) or node.name != name:
            continue
        docstring = ast.get_docstring(node) or ""
        try:
            examples = [(example.source, example.want) for example in doctest.DocTestParser().get_examples(docstring)]
        except ValueError:  # the docstring merely resembles a doctest
            examples = []
        pairs = examples or [pair for line in docstring.splitlines() if (pair := _example_in(line, name)) is not None]
        for source, want in pairs:
            try:
                expected = ast.literal_eval(want.strip())
                call = ast.unparse(ast.parse(source.strip(), mode="eval"))
            # Prose in a docstring may parse as an example that is not an expression, or whose value is not a literal.
            except (SyntaxError, ValueError):
                continue
            if f"{name}(" in call:
                yield f"assert {call} == {expected!r}"


def _example_in(line: str, name: str) -> tuple[str, str] | None:
    """A call of the function in a line, and the literal that the line says it returns."""
    start = line.find(f"{name}(")
    if start < 0:
        return None
    # The call ends with the first bracket up to which it is an expression.
    ends = [index + 1 for index, char in enumerate(line) if char == ")" and index > start]
    call = next((line[start:end] for end in ends if _is_expression(line[start:end])), None)
    if call is None:
        return None
    relation = _RELATION.match(line[start + len(call) :])
    if relation is None:
        return None
    value = _CONSTANTS.sub(lambda match: match[0].capitalize(), relation[1].strip())
    # Without a comment or a sentence after it.
    cuts = [len(value), *(match.start() for match in re.finditer(r"[#.,;]|\s", value))]
    for cut in sorted(cuts, reverse=True):
        try:
            ast.literal_eval(value[:cut].strip())
        except (SyntaxError, ValueError):
            continue
        return call, value[:cut]
    return None


def _is_expression(text: str) -> bool:
    try:
        ast.parse(text, mode="eval")
    except (SyntaxError, ValueError):
        return False
    return True


def _parse_prompt(prompt: str) -> ast.Module:
    # A prompt may end with a function header, which needs a body to parse.
    for ending in ("", "\n    pass\n"):
        try:
            return ast.parse(prompt + ending)
        except SyntaxError:
            continue
    raise UnusableRowError("not Python")


BENCHMARKS: Mapping[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark("gsm8k", "openai/gsm8k", ("main",), {"train": "train", "test": "test"}, _gsm8k),
        Benchmark("math", "EleutherAI/hendrycks_math", MATH_CONFIGS, {"train": "train", "test": "test"}, _math),
        Benchmark("humaneval", "openai/openai_humaneval", (), {"test": "test"}, _humaneval),
        Benchmark("humaneval+", "evalplus/humanevalplus", (), {"test": "test"}, _humaneval_plus),
        Benchmark(
            "mbpp",
            "google-research-datasets/mbpp",
            ("full",),
            {"train": "train", "valid": "validation", "test": "test"},
            _mbpp,
        ),
        Benchmark("mbpp+", "evalplus/mbppplus", (), {"test": "test"}, _mbpp_plus),
        Benchmark(
            "hotpotqa", "hotpotqa/hotpot_qa", ("distractor",), {"train": "train", "test": "validation"}, _hotpotqa
        ),
        Benchmark("drop", "ucinlp/drop", (), {"train": "train", "test": "validation"}, _drop),
        Benchmark(
            "squad_v2",
            "rajpurkar/squad_v2",
            (),
            {"train": "train", "test": "validation"},
            _squad_v2,
            f"If the text does not answer the question, reply {UNANSWERABLE}.",
        ),
    )
}
