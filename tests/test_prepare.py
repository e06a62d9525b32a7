"""Public benchmarks become rows: converted from their exact columns, gold checked, without copies, well mixed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from aflow_trl.cli import main
from aflow_trl.data import (
    BENCHMARKS,
    Row,
    load_rows,
    mix,
    near_copies,
    normal_form,
    prepare,
    print_card,
    read_ratio,
    shares,
    split_digest,
)
from aflow_trl.data.benchmarks import MATH_CONFIGS, NUMPY_STAND_IN, UnusableRowError, load_benchmark
from aflow_trl.data.dedup import shingles, similarity
from aflow_trl.errors import RecipeError
from aflow_trl.scoring import score_qa
from upstream import ROWS, competition, write_upstream


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_upstream(tmp_path_factory.mktemp("upstream"))


@pytest.fixture(scope="module")
def card(upstream: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    # Weights at which every row is used: the tiny files have few code rows.
    out = tmp_path_factory.mktemp("prepared")
    return {"out": out} | prepare(list(BENCHMARKS), out, folder=upstream, ratio=read_ratio("4:1:4"))


def rows(card: dict[str, Any], split: str) -> dict[str, Row]:
    return {row.id: row for row in load_rows(str(card["out"] / f"{split}.jsonl"))}


def by_source(card: dict[str, Any], split: str, source: str) -> list[Row]:
    loaded = load_rows(str(card["out"] / f"{split}.jsonl"))
    return [row for row in loaded if row.source == source]


# Benchmark → number of rows read over all splits, and number of dropped rows by reason.
DROPPED = {
    "gsm8k": (8, {"no final answer": 1, "copies of train rows": 1, "copies of test rows": 1}),
    "math": (4, {"no boxed answer": 1}),
    "humaneval": (3, {"gold not accepted by the scorer": 1}),
    "humaneval+": (1, {}),
    "mbpp": (5, {"too few tests": 1, "copies of test rows": 1}),
    "mbpp+": (1, {}),
    "hotpotqa": (2, {}),
    "drop": (4, {"several spans": 1}),
    "squad_v2": (3, {"unanswerable": 1}),
}


@pytest.mark.parametrize("source", DROPPED)
def test_every_row_is_written_or_counted_with_a_reason(source: str, card: dict[str, Any]) -> None:
    read, reasons = DROPPED[source]
    splits = card["sources"][source].values()
    dropped: dict[str, int] = {}
    for split in splits:
        for reason, count in split["dropped"].items():
            dropped[reason] = dropped.get(reason, 0) + count
    dropped.pop("beyond the ratio", None)
    assert dropped == reasons
    assert sum(split["read"] for split in splits) == read == sum(map(len, ROWS[source].values()))
    for split in splits:
        assert split["read"] == split["written"] + sum(split["dropped"].values())


def test_gsm8k_gold_is_the_number_after_the_marker(card: dict[str, Any]) -> None:
    assert ("2000",) in {row.answer for row in by_source(card, "train", "gsm8k")}


def test_math_gold_is_the_boxed_expression_and_the_difficulty_is_the_level(card: dict[str, Any]) -> None:
    (row,) = by_source(card, "test", "math")
    assert (row.answer, row.difficulty) == (("6",), 5)


def test_humaneval_examples_are_public_and_the_check_is_hidden(card: dict[str, Any]) -> None:
    (row,) = (row for row in by_source(card, "test", "humaneval") if row.id == "humaneval/0")
    assert row.public_tests[0] == "assert has_close_elements([1.0, 2.0, 3.0], 0.5) == False"
    assert "def check" in row.hidden_tests[0] and "def check" not in row.question


def test_hidden_test_includes_the_helpers_of_the_prompt(card: dict[str, Any]) -> None:
    row = rows(card, "test")["humaneval/32"]
    assert "def poly" in row.hidden_tests[0] and "def find_zero" not in row.hidden_tests[0]
    assert row.public_tests == ("assert round(find_zero([1, 2]), 2) == -0.5",)


def test_mbpp_tests_include_their_setup_and_the_first_is_public(card: dict[str, Any]) -> None:
    row = rows(card, "train")["mbpp/601"]
    assert row.public_tests == ("FOUR = 4\nassert seventh(1) == 7",)
    assert row.hidden_tests == ("FOUR = 4\nassert seventh(2) == 14", "FOUR = 4\nassert seventh(FOUR) == 28")


def test_function_under_test_is_found_behind_parentheses(card: dict[str, Any]) -> None:
    assert rows(card, "valid")["mbpp/511"].entry_point == "seventh"


def test_hotpotqa_context_holds_titles_and_sentences(card: dict[str, Any]) -> None:
    (row,) = by_source(card, "test", "hotpotqa")
    assert "First for Women: First for Women is a magazine. It was started in 1989." in row.context


def test_one_question_on_two_passages_is_two_problems(card: dict[str, Any]) -> None:
    assert len(by_source(card, "train", "drop")) == 2


def test_equal_aliases_are_merged(card: dict[str, Any]) -> None:
    (row,) = by_source(card, "train", "squad_v2")
    assert row.answer == ("Oslo",)


def test_no_training_row_is_a_test_row(card: dict[str, Any]) -> None:
    train, test = rows(card, "train"), rows(card, "test")
    assert not train.keys() & test.keys()
    assert not any("crate" in row.question for row in train.values())


def test_split_digests_depend_on_the_rows_and_not_on_their_order(card: dict[str, Any]) -> None:
    train = list(rows(card, "train").values())
    assert card["splits"]["train"]["sha256"] == split_digest(train) == split_digest(train[::-1])
    assert split_digest(train[1:]) != split_digest(train)


def test_domain_without_rows_is_a_warning(upstream: Path, tmp_path: Path) -> None:
    card = prepare(["gsm8k"], tmp_path, folder=upstream, ratio=read_ratio("1:1:1"))
    assert "train has no code row" in card["warnings"] and card["splits"]["train"]["rows"] > 0


def test_equal_seeds_draw_equal_rows(upstream: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"folder": upstream, "ratio": read_ratio("1:1:1"), "limit": 1}
    first, again = (prepare(["gsm8k"], tmp_path / name, **options)["splits"] for name in "ab")
    assert first == again and first["test"]["rows"] == 1


def test_clone_of_a_hub_repository_is_read_with_its_configurations(tmp_path: Path) -> None:
    """A clone declares its configurations, each with its own folder, in the metadata of its README."""
    lines = ["---", "configs:"]
    for number, config in enumerate(MATH_CONFIGS):
        lines += [f"- config_name: {config}", "  data_files:"]
        for split in ("train", "test"):
            lines += [f"  - split: {split}", f"    path: {config}/{split}.jsonl"]
            path = tmp_path / "math" / config / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            problem = competition(
                f"What is {number} + {len(split)}, by {config}?", f"\\boxed{{{number + len(split)}}}"
            )
            path.write_text(json.dumps(problem) + "\n")
    (tmp_path / "math" / "README.md").write_text("\n".join([*lines, "---", ""]))
    card = prepare(["math"], tmp_path / "out", folder=tmp_path, ratio=read_ratio("1:1:1"))
    assert card["sources"]["math"]["test"]["read"] == len(MATH_CONFIGS)


def test_unknown_benchmark_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"gsm9k.*gsm8k"):
        prepare(["gsm9k"], tmp_path, ratio={"math": 1.0})


def test_missing_benchmark_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"gsm8k .*cannot be loaded.*--from"):
        prepare(["gsm8k"], tmp_path, folder=tmp_path / "nowhere", ratio={"math": 1.0})


def test_command_writes_files_that_training_reads(
    upstream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["data", "prepare", str(tmp_path), "--benchmark", "gsm8k", "--benchmark", "mbpp", "--from", str(upstream)])
    card = json.loads((tmp_path / "data_card.json").read_text())
    assert card["splits"]["train"]["sha256"][:16] in capsys.readouterr().out
    assert load_rows(str(tmp_path / "train.jsonl"))


def test_stand_in_for_numpy_respects_the_tolerances() -> None:
    scope: dict[str, Any] = {}
    exec(NUMPY_STAND_IN, scope)
    close = scope["np"].allclose
    assert close([1e-7], [0.0], rtol=1e-7, atol=1e-6) and not close([100.0005], [100.0], rtol=1e-7, atol=1e-6)
    assert close(1.0, 1.0 + 1e-9) and not close([1.0], [1.0, 2.0])


def test_test_rows_of_the_benchmarks_are_shuffled(card: dict[str, Any]) -> None:
    loaded = load_rows(str(card["out"] / "test.jsonl"))
    sources = [row.source for row in loaded]
    assert sources != sorted(sources, key=list(BENCHMARKS).index)


@given(total=st.integers(0, 500), weights=st.dictionaries(st.sampled_from("abcde"), st.floats(0.01, 100), min_size=1))
def test_shares_add_up_and_starve_no_domain(total: int, weights: dict[str, float]) -> None:
    counts = shares(total, weights)
    assert sum(counts.values()) == total
    assert total < len(weights) or min(counts.values()) >= 1


def test_mix_uses_no_row_twice() -> None:
    pool = [Row(f"q{i}", ("1",), ("math", "qa")[i % 3 == 0]) for i in range(30)]
    mixed = mix(pool, {"math": 1.0, "qa": 1.0})
    assert len(mixed) == len({row.question for row in mixed}) == 20


TEXTS = st.lists(st.sampled_from(["red", "blue", "green", "dog", "cat", "runs"]), min_size=1, max_size=12)


@given(texts=st.lists(TEXTS.map(" ".join), max_size=12), min_similarity=st.sampled_from([0.5, 0.8, 1.0]))
def test_every_near_copy_is_reported(texts: list[str], min_similarity: float) -> None:
    pool = [Row(text, ("1",), "math") for text in texts]
    sets = [shingles(text, "math") for text in texts]
    expected = {(i, j) for j in range(len(sets)) for i in range(j) if similarity(sets[i], sets[j]) >= min_similarity}
    assert set(near_copies(pool, min_similarity)) == expected


@pytest.mark.parametrize(
    "text", ["1:1", "math", "math=0", "physics=1", "-1:1:1", "math=nan", "1:1:inf", "math=1=2", ""]
)
def test_malformed_ratio_is_reported(text: str) -> None:
    with pytest.raises(RecipeError, match=r"the ratio .* cannot be read.*math=2"):
        read_ratio(text)


@pytest.mark.parametrize("ratio", [{}, {"math": 0.0}, {"math": -1.0}, {"physics": 1.0}, {"math": float("nan")}])
def test_mix_with_an_impossible_ratio_is_reported(ratio: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match=r"the ratio is .*math, code, qa"):
        mix([Row("q", ("1",), "math")], ratio)


@pytest.mark.parametrize("total", [0, -1])
def test_mix_of_less_than_one_row_is_reported(total: int) -> None:
    with pytest.raises(RecipeError, match=f"total is {total} rows.*at least 1"):
        mix([Row("q", ("1",), "math")], {"math": 1.0}, total)


@pytest.mark.parametrize(
    ("option", "name"), [({"limit": 0}, "limit"), ({"total": 0}, "total"), ({"ratio": {}}, "ratio")]
)
def test_impossible_request_is_reported_before_anything_is_loaded(
    option: dict[str, Any], name: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=f"the {name} is"):
        prepare(["gsm8k"], tmp_path, folder=tmp_path / "missing", **({"ratio": {"math": 1.0}} | option))


def test_mix_of_no_rows_is_empty() -> None:
    assert mix([], {"math": 1.0}) == []


def test_near_copies_at_a_similarity_that_rounds_up_are_reported() -> None:
    """0.55 * 20 is 11.000000000000002 in floating point, and so must not count as 12."""
    tokens = [f"w{number}" for number in range(22)]
    long, short = " ".join(tokens), " ".join(tokens[:13])
    assert similarity(shingles(long), shingles(short)) == 11 / 20
    assert list(near_copies([Row(text, ("1",), "math") for text in (long, short)], 0.55)) == [(0, 1)]


def test_equal_questions_on_different_contexts_are_no_near_copies() -> None:
    pool = [
        Row("How many points?", ("1",), "qa", context=text) for text in ("The Bears scored.", "It rained all day.")
    ]
    assert list(near_copies(pool)) == []


def test_printed_card_shows_counts_digests_and_warnings(upstream: Path, tmp_path: Path) -> None:
    card = prepare(["gsm8k"], tmp_path, folder=upstream, ratio=read_ratio("1:1:1"))
    console = Console(file=io.StringIO(), width=200)
    print_card(card, console)
    printed = console.file.getvalue()
    assert "1 no final answer" in printed and "warning: train has no code row" in printed
    assert all(card["splits"][split]["sha256"][:16] in printed for split in ("train", "valid", "test"))


def math_row(question: str, gold: str) -> Row:
    return Row(question, (gold,), "math")


def test_problems_that_differ_in_a_sign_are_no_copies() -> None:
    assert normal_form(math_row("What is 7 - 3?", "4")) != normal_form(math_row("What is 7 + 3?", "10"))


def test_near_copies_have_an_answer_in_common() -> None:
    question = (
        "A shop sells twelve apples in the morning and {} pears in the afternoon; how many pieces of fruit is that?"
    )
    other = math_row(question.format("nine"), "21")
    assert not list(near_copies([math_row(question.format("seven"), "19"), other]))
    same = [math_row(question.format("nine "), "21.0"), other]
    assert list(near_copies(same)) == [(0, 1)]


def test_numbers_of_several_annotators_are_alternatives_in_drop() -> None:
    raw = {"question": "How many?", "passage": "p", "query_id": "1"}
    numbers = BENCHMARKS["drop"].convert(raw | {"answers_spans": {"spans": ["17", "13"], "types": ["number"] * 2}})
    assert numbers.row.answer == ("17", "13")
    with pytest.raises(UnusableRowError, match="several spans"):
        BENCHMARKS["drop"].convert(raw | {"answers_spans": {"spans": ["Ann", "Bob"], "types": ["span"] * 2}})


def test_a_column_that_is_empty_in_one_split_does_not_spoil_the_other(tmp_path: Path) -> None:
    folder = tmp_path / "mbpp"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"task_id": 1, "challenge_test_list": []}\n')
    (folder / "test.jsonl").write_text('{"task_id": 2, "challenge_test_list": ["assert f(1) == 2"]}\n')
    rows = {split: list(load_benchmark(BENCHMARKS["mbpp"], split, tmp_path)) for split in ("train", "test")}
    assert [len(rows["train"][0]["challenge_test_list"]), len(rows["test"][0]["challenge_test_list"])] == [0, 1]


NOTATIONS = [
    ("f(1) == 2", ["assert f(1) == 2"]),
    ("f([1, 2], 'a)') => [3]", ["assert f([1, 2], 'a)') == [3]"]),
    ("f(3) ➞ False  # because it is odd", ["assert f(3) == False"]),
    ('f(15)   # returns "db1111db"', ["assert f(15) == 'db1111db'"]),
    ("f('Hi') returns 'Hi'", ["assert f('Hi') == 'Hi'"]),
    ('f({"a": 1}) should return True.', ["assert f({'a': 1}) == True"]),
    ("For f(2) the output should be small", []),
    ("f(x) == x", []),
    ("f(2) is even", []),
]


@pytest.mark.parametrize(("line", "tests"), NOTATIONS, ids=[row[0] for row in NOTATIONS])
def test_examples_are_read_in_the_notations_of_humaneval(line: str, tests: list[str]) -> None:
    raw = {"task_id": "HumanEval/1", "entry_point": "f", "canonical_solution": "", "test": "def check(f): assert f"}
    raw["prompt"] = f'def f(x):\n    """Does something.\n\n    Example:\n    {line}\n    """\n'
    assert list(BENCHMARKS["humaneval"].convert(raw).row.public_tests) == tests


def test_unanswerable_questions_are_kept_on_request_with_the_reply_in_every_question(
    upstream: Path, tmp_path: Path
) -> None:
    card = prepare(["squad_v2"], tmp_path, folder=upstream, ratio=read_ratio("0:0:1"), unanswerable=True)
    written = [row for split in ("train", "test") for row in load_rows(str(tmp_path / f"{split}.jsonl"))]
    assert all("reply unanswerable" in row.question for row in written)
    assert len(written) == 3 and sum(row.answer == ("",) for row in written) == 1
    assert not any("unanswerable" in split["dropped"] for split in card["sources"]["squad_v2"].values())
    unanswerable = next(row for row in written if row.answer == ("",))
    assert score_qa("The question is unanswerable.", unanswerable.answer).value == 1
    assert score_qa("Paris", unanswerable.answer).value == 0


def test_limit_draws_the_rows_that_come_first_without_a_limit(upstream: Path, tmp_path: Path) -> None:
    for name, limit in (("all", None), ("two", 2)):
        prepare(["gsm8k"], tmp_path / name, folder=upstream, ratio=read_ratio("1:0:0"), limit=limit)
    everything, two = ({row.id for row in load_rows(str(tmp_path / name / "test.jsonl"))} for name in ("all", "two"))
    assert len(two) <= 2 and two <= everything


def test_tests_that_need_live_objects_become_weak_verdicts_and_are_counted(tmp_path: Path) -> None:
    row = {
        "task_id": 1,
        "text": "Match letters.",
        "code": "import re\ndef find(text):\n    return re.match('[a-z]+', text)",
        "test_list": ["assert find('ab').group() == 'ab'", "assert find('cd').group() == 'cd'"],
        "test_setup_code": "",
        "challenge_test_list": [],
    }
    for split in ("train", "validation", "test"):
        path = tmp_path / "mbpp" / f"{split}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(row) + "\n")
    card = prepare(["mbpp"], tmp_path / "out", folder=tmp_path, ratio=read_ratio("0:1:0"))
    assert [row.weak_verdict for row in load_rows(str(tmp_path / "out" / "test.jsonl"))] == [True]
    assert card["sources"]["mbpp"]["test"]["weak_verdicts"] == 1


def test_tests_that_pass_a_function_that_answers_nothing_are_dropped(tmp_path: Path) -> None:
    # As three rows of MBPP+ are: the verdict is computed and never asserted.
    test = "def assertion(out, exp):\n    exact_match = exp == (out is not None)\n\nassertion(find('ab'), True)"
    row = {
        "task_id": 1,
        "prompt": "Write a function to find letters.",
        "code": "def find(text):\n    return text.isalpha() or None",
        "test_list": ["assert find('ab')"],
        "test_imports": [],
        "test": test,
    }
    path = tmp_path / "mbpp+" / "test.jsonl"
    path.parent.mkdir()
    path.write_text(
        "".join(
            json.dumps(row | {"task_id": number, "test": text}) + "\n"
            for number, text in enumerate([test, "assert find('ab') is True"])
        )
    )
    card = prepare(["mbpp+"], tmp_path / "out", folder=tmp_path, ratio=read_ratio("0:1:0"))
    counts = card["sources"]["mbpp+"]["test"]
    assert (counts["written"], counts["dropped"]) == (1, {"tests that accept anything": 1})
