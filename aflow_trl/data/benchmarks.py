"""
The public benchmarks: for each, where it lives on the Hub, its splits, and how one of its rows becomes one of ours.

Readers take rows in the exact upstream columns. Of a code row the examples its prompt shows, or the first test, are
public; the others score.
"""

from __future__ import annotations

import ast
import doctest
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import get_dataset_config_names, load_dataset

from ..errors import RecipeError
from ..operators import last_boxed, normalize_text
from .schema import Row

MATH_CONFIGS = (
    *("algebra", "counting_and_probability", "geometry", "intermediate_algebra"),
    *("number_theory", "prealgebra", "precalculus"),
)
HOTPOT_LEVELS = {"easy": 1, "medium": 3, "hard": 5}
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
"""What the tests of HumanEval+ and MBPP+ use of numpy, which is not in the sandbox."""


class UnusableRowError(Exception):
    """An upstream row that cannot become one of ours; the text says why."""


@dataclass(frozen=True, slots=True)
class BenchmarkRow:
    """A row with the solution that must be right if the row is."""

    row: Row
    reference: str


@dataclass(frozen=True, slots=True)
class Source:
    """One benchmark."""

    name: str
    hub_id: str
    configs: tuple[str, ...]
    splits: Mapping[str, str]
    """Our split (`train`, `valid`, `test`) → the upstream one."""
    read: Callable[[Mapping[str, Any]], BenchmarkRow]


def load_benchmark(source: Source, split: str, folder: Path | None = None) -> Iterator[Mapping[str, Any]]:
    """
    Upstream rows of one split.

    Args:
        source ([`Source`]):
            Benchmark.
        split (`str`):
            Upstream split.
        folder (`Path`, *optional*):
            Folder with a copy of each benchmark, by its name. Defaults to the Hub.

    Raises:
        [`RecipeError`]: It cannot be loaded.
    """
    path = source.hub_id if folder is None else str(folder / source.name)
    try:
        known = set(get_dataset_config_names(path))
        configs = source.configs if source.configs and known.issuperset(source.configs) else (None,)
        for config in configs:
            yield from load_dataset(path, config, split=split)
    except Exception as error:
        raise RecipeError(
            f"{source.name} (split {split!r}) cannot be loaded from {path}: {type(error).__name__}: {error}. "
            "Check the connection to the Hub, or give a folder with copies of the benchmarks (--from)."
        ) from None


def _gsm8k(raw: Mapping[str, Any]) -> BenchmarkRow:
    steps, marker, answer = raw["answer"].rpartition("####")
    if not marker:
        raise UnusableRowError("no final answer")
    gold = answer.strip().replace(",", "")
    difficulty = max(1, steps.count("<<"))
    question = raw["question"].strip()
    row = Row(question, (gold,), "math", source="gsm8k", id=_digest_id("gsm8k", question), difficulty=difficulty)
    return BenchmarkRow(row, gold)


def _math(raw: Mapping[str, Any]) -> BenchmarkRow:
    gold = last_boxed(raw["solution"])
    if not gold:
        raise UnusableRowError("no boxed answer")
    level = raw["level"].rpartition(" ")[2]
    question = raw["problem"].strip()
    difficulty = int(level) if level.isdigit() else 0
    row = Row(question, (gold,), "math", source="math", id=_digest_id("math", question), difficulty=difficulty)
    return BenchmarkRow(row, gold)


def _humaneval(raw: Mapping[str, Any]) -> BenchmarkRow:
    return _function_task(raw, "humaneval", raw["test"])


def _humaneval_plus(raw: Mapping[str, Any]) -> BenchmarkRow:
    return _function_task(raw, "humaneval+", NUMPY_IMPORT.sub(NUMPY_STAND_IN, raw["test"]))


def _function_task(raw: Mapping[str, Any], source: str, test: str) -> BenchmarkRow:
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


def _mbpp(raw: Mapping[str, Any]) -> BenchmarkRow:
    setup = [raw.get("test_setup_code") or "", *(raw.get("test_imports") or ())]
    tests = [_with_setup(test, setup) for test in [*raw["test_list"], *(raw.get("challenge_test_list") or ())]]
    return _mbpp_row(raw, "mbpp", tests[:1], tests[1:])


def _mbpp_plus(raw: Mapping[str, Any]) -> BenchmarkRow:
    public = [_with_setup(raw["test_list"][0], list(raw.get("test_imports") or ()))]
    return _mbpp_row(raw, "mbpp+", public, [NUMPY_IMPORT.sub(NUMPY_STAND_IN, raw["test"]).strip()])


def _mbpp_row(raw: Mapping[str, Any], source: str, public: list[str], hidden: list[str]) -> BenchmarkRow:
    if not hidden:
        raise UnusableRowError("too few tests")
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
        # The same task has the same id in both, so that none is trained on and tested.
        id=f"mbpp/{raw['task_id']}",
    )
    return BenchmarkRow(row, raw["code"])


def _hotpotqa(raw: Mapping[str, Any]) -> BenchmarkRow:
    context = raw["context"]
    paragraphs = [
        f"{title}: {''.join(sentences).strip()}"
        for title, sentences in zip(context["title"], context["sentences"], strict=True)
    ]
    difficulty = HOTPOT_LEVELS.get(raw.get("level") or "", 0)
    passages = "\n".join(paragraphs)
    return _question(raw["question"], [raw["answer"]], passages, "hotpotqa", raw["id"], difficulty)


def _drop(raw: Mapping[str, Any]) -> BenchmarkRow:
    spans = raw["answers_spans"]["spans"]
    if len({normalize_text(span) for span in spans}) > 1:
        # Parts of one answer, or answers of several annotators: the columns do not tell.
        raise UnusableRowError("several spans")
    return _question(raw["question"], spans, raw["passage"], "drop", raw["query_id"])


def _squad_v2(raw: Mapping[str, Any]) -> BenchmarkRow:
    if not raw["answers"]["text"]:
        raise UnusableRowError("unanswerable")
    return _question(raw["question"], raw["answers"]["text"], raw["context"], "squad_v2", raw["id"])


def _question(text: str, golds: Any, context: str, source: str, own_id: str, difficulty: int = 0) -> BenchmarkRow:
    answers = tuple(dict.fromkeys(gold.strip() for gold in golds if gold.strip()))
    if not answers:
        raise UnusableRowError("no answer")
    own_id = f"{source}/{own_id}"
    row = Row(text.strip(), answers, "qa", context=context.strip(), source=source, id=own_id, difficulty=difficulty)
    return BenchmarkRow(row, answers[0])


def _digest_id(source: str, question: str) -> str:
    return f"{source}/{hashlib.blake2b(question.encode(), digest_size=6).hexdigest()}"


def _with_setup(test: str, setup: list[str]) -> str:
    return "\n".join([*filter(None, setup), test])


def _function_under_test(code: str, test: str) -> str:
    """Name of the function that the code defines and the test calls."""
    try:
        defined = {node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)}
        called = [node.func for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Call)]
    except SyntaxError:
        raise UnusableRowError("no Python") from None
    names = [function.id for function in called if isinstance(function, ast.Name) and function.id in defined]
    if not names:
        raise UnusableRowError("no function under test")
    return names[0]


def _helpers(prompt: str, name: str) -> list[str]:
    """Functions and imports a prompt defines beside the one asked for, which its tests may use."""
    tree = _parse_prompt(prompt)
    if not any(isinstance(node, ast.FunctionDef) and node.name != name for node in tree.body):
        return []
    return [ast.unparse(node) for node in tree.body if getattr(node, "name", "") != name]


def _examples(prompt: str, name: str) -> Iterator[str]:
    """The examples of a docstring, as assertions."""
    for node in ast.walk(_parse_prompt(prompt)):
        if not isinstance(node, ast.FunctionDef) or node.name != name:
            continue
        try:
            examples = doctest.DocTestParser().get_examples(ast.get_docstring(node) or "")
        except ValueError:  # a docstring that only looks like a doctest
            continue
        for example in examples:
            try:
                due = ast.literal_eval(example.want.strip())
                call = ast.unparse(ast.parse(example.source.strip(), mode="eval"))
            except (SyntaxError, ValueError):
                continue
            if f"{name}(" in call:
                yield f"assert {call} == {due!r}"


def _parse_prompt(prompt: str) -> ast.Module:
    for ending in ("", "\n    pass\n"):
        try:
            return ast.parse(prompt + ending)
        except SyntaxError:
            continue
    raise UnusableRowError("no Python")


SOURCES: Mapping[str, Source] = {
    source.name: source
    for source in (
        Source("gsm8k", "openai/gsm8k", ("main",), {"train": "train", "test": "test"}, _gsm8k),
        Source("math", "EleutherAI/hendrycks_math", MATH_CONFIGS, {"train": "train", "test": "test"}, _math),
        Source("humaneval", "openai/openai_humaneval", (), {"test": "test"}, _humaneval),
        Source("humaneval+", "evalplus/humanevalplus", (), {"test": "test"}, _humaneval_plus),
        Source(
            "mbpp",
            "google-research-datasets/mbpp",
            ("full",),
            {"train": "train", "valid": "validation", "test": "test"},
            _mbpp,
        ),
        Source("mbpp+", "evalplus/mbppplus", (), {"test": "test"}, _mbpp_plus),
        Source("hotpotqa", "hotpotqa/hotpot_qa", ("distractor",), {"train": "train", "test": "validation"}, _hotpotqa),
        Source("drop", "ucinlp/drop", (), {"train": "train", "test": "validation"}, _drop),
        Source("squad_v2", "rajpurkar/squad_v2", (), {"train": "train", "test": "validation"}, _squad_v2),
    )
}
