"""
Procedurally generated problems of three domains, and the parser that recovers problem and answer from their text.

A statement is self-contained, so that the simulated executor can work from the messages alone, as a real model has to.
The difficulty is the number of steps in the solution: from 1 to 5, and in the mixed problems, whose other demands
(`traits.py`) can be read in their text as well, from 1 to 9.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

from ..errors import RecipeError
from ..scoring import BUILTIN_DOMAINS
from .schema import Row
from .traits import (
    DISTRACTED,
    EXACT,
    MISLEADING,
    RELATION_RIDDLES,
    RIDDLE,
    SURPRISING,
    UNITS,
    UNSOLVABLE,
    draw_traits,
    mark,
    marked,
    name_relation,
    pose_riddles,
    solve_riddles,
)

MIN_DIFFICULTY, MAX_DIFFICULTY, MAX_MIXED_DIFFICULTY = 1, 5, 9
PUBLIC_TESTS, HIDDEN_TESTS = 2, 4
MAX_TOTAL, MAX_MULTIPLIED = 5_000, 400
"""Bounds on the running total of a math problem, and on a total that may still be multiplied: sane word problems."""
TEST_SPLIT_DENOMINATOR = 4
"""One problem in this many belongs to the test split."""
DISTRACTORS, MANY_DISTRACTORS = 2, 7
"""Numbers of facts in a QA passage that the question does not need, and in one that is meant to confuse."""
DISTRACTING_STEPS = 3
"""Number of steps in a distracting problem of math or code that do not count."""
SMALL_NUMBERS, LARGE_NUMBERS = (2, 9), (201, 999)
"""Bounds of the numbers in a step, and of those that call for a program."""
LARGE_SCALE = 1_013
"""Factor of amounts that call for a program; no other amount reaches it."""
DOZEN = 12

Value = TypeVar("Value", int, list[int])
"""What a solution computes: an amount for math, a list for code."""

_PEOPLE = ("Ana", "Bor", "Cleo", "Dov", "Edda", "Finn", "Gita", "Hugo", "Ines", "Jon", "Kira", "Leo", "Mira", "Nils")
_CITIES = ("Tolva", "Brenn", "Sarno", "Veld", "Ostra", "Lunde", "Perim", "Karst")
_REGIONS = ("Northmark", "Westvale", "Eastmoor", "Southfen", "Midland")
_RIVERS = ("Aller", "Brisk", "Corda", "Dunes", "Elver")
_THINGS = ("apples", "coins", "books", "stones", "cards", "shells")


@dataclass(frozen=True, slots=True)
class Step:
    """A kind of step. `{0}` and `{1}` stand for its numbers."""

    phrase: str
    """Wording in a problem."""
    line: str
    """Line of a program."""
    apply: Callable[..., Any]
    """From the current value and the numbers to the next value."""


@dataclass(frozen=True, slots=True)
class Applied:
    """A step with its numbers filled in."""

    step: Step
    numbers: tuple[int, ...]

    @property
    def line(self) -> str:
        """Program line of the step."""
        return self.step.line.format(*self.numbers)


def _where(predicate: Callable[..., bool]) -> Callable[..., list[int]]:
    return lambda numbers, *parameters: [n for n in numbers if predicate(n, *parameters)]


def _map(function: Callable[..., int]) -> Callable[..., list[int]]:
    return lambda numbers, *parameters: [function(n, *parameters) for n in numbers]


MATH_STEPS = (
    Step("gets {0} more", "total = total + {0}", lambda total, k: total + k),
    Step("gives away {0}", "total = total - {0}", lambda total, k: total - k),
    Step("finds {0} bags with {1} each", "total = total + {0} * {1}", lambda total, k, m: total + k * m),
    Step("multiplies the amount by {0}", "total = total * {0}", lambda total, k: total * k),
    Step("loses {0} boxes of {1} each", "total = total - {0} * {1}", lambda total, k, m: total - k * m),
)
CODE_STEPS = (
    Step("keep only the even numbers", "numbers = [n for n in numbers if n % 2 == 0]", _where(lambda n: n % 2 == 0)),
    Step("keep only the odd numbers", "numbers = [n for n in numbers if n % 2 == 1]", _where(lambda n: n % 2 == 1)),
    Step("keep the numbers greater than {0}", "numbers = [n for n in numbers if n > {0}]", _where(lambda n, k: n > k)),
    Step("keep the numbers less than {0}", "numbers = [n for n in numbers if n < {0}]", _where(lambda n, k: n < k)),
    Step("multiply each number by {0}", "numbers = [n * {0} for n in numbers]", _map(lambda n, k: n * k)),
    Step("add {0} to each number", "numbers = [n + {0} for n in numbers]", _map(lambda n, k: n + k)),
    Step("subtract {0} from each number", "numbers = [n - {0} for n in numbers]", _map(lambda n, k: n - k)),
    Step("sort in ascending order", "numbers = sorted(numbers)", sorted),
    Step("sort in descending order", "numbers = sorted(numbers, reverse=True)", lambda x: sorted(x, reverse=True)),
    Step("reverse the order", "numbers = numbers[::-1]", lambda x: x[::-1]),
    Step("drop the first {0} elements", "numbers = numbers[{0}:]", lambda x, k: x[k:]),
    Step("keep the first {0} elements", "numbers = numbers[:{0}]", lambda x, k: x[:k]),
)
# Kind of subject → relations and the kind of their objects. Cycles among them allow chains of any length.
_RELATIONS: dict[str, dict[str, str]] = {
    "person": {"boss": "person", "friend": "person", "home": "city"},
    "city": {"region": "region", "mayor": "person"},
    "region": {"ruler": "person", "river": "river"},
    "river": {},
}
_POOLS = {"person": _PEOPLE, "city": _CITIES, "region": _REGIONS, "river": _RIVERS}

# Inverses of the templates in the generators below; a change of either has to be made in both.
_MATH = re.compile(r"(\w+) has (\d+) (dozen )?\w+\. (.*?) How many \w+ does \w+ have now\?", re.DOTALL)
_CODE = re.compile(r"Write a function `(\w+)\(numbers\)` on a list of integers: (.*?)\. Return", re.DOTALL)
_QA = re.compile(r"What is the ((?:\w+ of the )*\w+) of (\w+)(, spelled backwards)?\?")
_FACT = re.compile(r"The (\w+) of (\w+) is (\w+)\.")
_OUTDATED = re.compile(r"The \w+ of \w+ was \w+ once\.")


@dataclass(frozen=True, slots=True)
class Solved:
    """A synthetic problem that was recovered from its text."""

    domain: str
    difficulty: int
    steps: tuple[Applied, ...] = ()
    initial: int = 0
    """For math: amount before the first step."""
    entry_point: str = ""
    """For code: name of the function."""
    name: str = ""
    """For QA: the answer."""
    names: tuple[str, ...] = ()
    """For QA: all names in the passages."""
    traits: frozenset[str] = frozenset()
    """What it asks for besides its steps."""

    def answer(self, steps: tuple[Applied, ...] | None = None) -> str:
        """Answer of the problem (a number, a name, or code), or the result of different steps."""
        steps = self.steps if steps is None else steps
        if self.domain == "qa":
            return self.name
        if self.domain == "math":
            return str(_compute(self.initial, steps))
        return function_code(self.entry_point, steps)


def synthetic_rows(seed: int, split: str, *, domains: tuple[str, ...] = BUILTIN_DOMAINS) -> Iterator[Row]:
    """
    Generate an endless stream of distinct problems, cycling through the domains.

    The splits never share a problem, whatever the seeds: the text of a problem decides which split it belongs to.

    Args:
        seed (`int`):
            Seed of the stream.
        split (`str`):
            `"train"` or `"test"`.
        domains (`tuple[str, ...]`, *optional*):
            Domains to cycle through. Defaults to all.

    Returns:
        `Iterator[Row]`: Problems whose gold answer the scorers accept.

    Raises:
        [`RecipeError`]: There are no domains, or one is unknown.
    """
    if not domains:
        raise RecipeError(f"domains is empty. Use some of {', '.join(_GENERATORS)}.")
    if unknown := sorted(set(domains) - set(_GENERATORS)):
        raise RecipeError(f"domains contains {unknown[0]!r}. Use some of {', '.join(_GENERATORS)}.")
    # Not a generator function itself, so that the errors are raised by the call and not by the first `next`.
    return _synthetic_rows(seed, split, domains)


def _synthetic_rows(seed: int, split: str, domains: tuple[str, ...]) -> Iterator[Row]:
    def draw(rng: random.Random, domain: str) -> Row:
        return _GENERATORS[domain](rng, rng.randint(MIN_DIFFICULTY, MAX_DIFFICULTY), frozenset())

    return _distinct_rows(draw, random.Random(f"{seed} {split}"), split, domains)


def mixed_rows(seed: int, split: str) -> Iterator[Row]:
    """
    Generate an endless stream of distinct problems whose demands can be read in their text only: they have from 1 to 9
    steps and the traits of `traits.py`, and neither is a column.

    The splits never share a problem, whatever the seeds.

    Args:
        seed (`int`):
            Seed of the stream.
        split (`str`):
            `"train"` or `"test"`.

    Returns:
        `Iterator[Row]`: Problems, cycling through the domains.
    """

    def draw(rng: random.Random, domain: str) -> Row:
        traits = draw_traits(rng, domain)
        row = _GENERATORS[domain](rng, rng.randint(MIN_DIFFICULTY, MAX_MIXED_DIFFICULTY), traits)
        return replace(row, source=f"synthetic-mixed-{domain}", difficulty=0)

    return _distinct_rows(draw, random.Random(f"{seed} {split} mixed"), split, BUILTIN_DOMAINS)


def _distinct_rows(
    draw: Callable[[random.Random, str], Row], rng: random.Random, split: str, domains: Sequence[str]
) -> Iterator[Row]:
    seen: set[str] = set()
    while True:
        for domain in domains:
            row = draw(rng, domain)
            while row.question + row.context in seen or not _belongs_to(row, split):
                row = draw(rng, domain)
            seen.add(row.question + row.context)
            yield row


def sum_rows(seed: int, split: str) -> Iterator[Row]:
    """
    Generate an endless stream of sums of two small numbers, for a tiny policy that has to answer without an executor.

    The splits never share a text, but they share sums.

    Args:
        seed (`int`):
            Seed of the stream.
        split (`str`):
            `"train"` or `"test"`.

    Yields:
        [`Row`]: Math problems of difficulty 1.
    """
    rng = random.Random(f"{seed} {split} sums")
    while True:
        person, thing = rng.choice(_PEOPLE), rng.choice(_THINGS)
        initial, added = rng.randint(1, 6), rng.randint(1, 6)
        question = f"{person} has {initial} and gets {added}. How many {thing}?"
        row = Row(question, (str(initial + added),), "math", source="synthetic-sums", difficulty=1)
        if _belongs_to(row, split):
            yield row


def _belongs_to(row: Row, split: str) -> bool:
    # Seeded with the text: independent of the stream's seed and position, and stable across Python processes.
    in_test = random.Random(row.question + row.context).randrange(TEST_SPLIT_DENOMINATOR) == 0
    return in_test == (split == "test")


def _math(rng: random.Random, difficulty: int, traits: frozenset[str]) -> Row:
    person, thing, amount = rng.choice(_PEOPLE), rng.choice(_THINGS), rng.randint(20, 60)
    bound, numbers = MAX_TOTAL, SMALL_NUMBERS
    if EXACT in traits:
        amount, bound, numbers = amount * LARGE_SCALE, bound * LARGE_SCALE, LARGE_NUMBERS
    total = amount
    if UNITS in traits:
        total, bound = total * DOZEN, bound * DOZEN
    lowest = -bound if SURPRISING in traits else 0
    sentences = []
    # The steps that a part that is missing would have told count for the answer, but cannot be read.
    for index in range(difficulty + (UNSOLVABLE in traits)):
        while True:
            applied = draw_step(rng, MATH_STEPS, numbers)
            after = _compute(total, (applied,))
            if lowest < after < bound and not ("multiplies" in applied.step.phrase and abs(total) > MAX_MULTIPLIED):
                break
        total = after
        # Stated with the name every time: `read_problem` matches one sentence at a time.
        if index < difficulty:
            sentences.append(f"{person} {_phrase(applied, traits)}.")
    if DISTRACTED in traits:
        for _ in range(DISTRACTING_STEPS):
            other = rng.choice([name for name in _PEOPLE if name != person])
            step = _phrase(draw_step(rng, MATH_STEPS, numbers), traits)
            sentences.insert(rng.randint(0, len(sentences)), f"{other} {step}.")
    if MISLEADING in traits:
        sentences.reverse()
    stated = f"{amount} dozen" if UNITS in traits else str(amount)
    story = f"{person} has {stated} {thing}. {' '.join(sentences)}"
    question = f"{mark(rng, traits)}{story} How many {thing} does {person} have now?"
    return Row(question, (str(total),), "math", source="synthetic-math", difficulty=difficulty)


def _phrase(applied: Applied, traits: frozenset[str]) -> str:
    phrase = applied.step.phrase.format(*applied.numbers)
    return pose_riddles(phrase) if RIDDLE in traits else phrase


def _code(rng: random.Random, difficulty: int, traits: frozenset[str]) -> Row:
    # Without replacement: two filters of one kind would collapse to a single step.
    drawn = [draw_step(rng, (step,)) for step in rng.sample(CODE_STEPS, difficulty + (UNSOLVABLE in traits))]
    steps = tuple(drawn)
    name = f"transform_{rng.randint(10, 99)}"
    parts = [_phrase(applied, traits) for applied in steps[:difficulty]]
    if DISTRACTED in traits:
        for _ in range(DISTRACTING_STEPS):
            parts.insert(rng.randint(0, len(parts)), f"do not {_phrase(draw_step(rng, CODE_STEPS), traits)}")
    if MISLEADING in traits:
        parts.reverse()
    instructions = "; ".join(parts)
    task = f"Write a function `{name}(numbers)` on a list of integers: {instructions}. Return the list."
    question = mark(rng, traits) + task
    inputs = [[rng.randint(-9, 20) for _ in range(rng.randint(5, 9))] for _ in range(PUBLIC_TESTS + HIDDEN_TESTS)]
    tests = tuple(f"assert {name}({numbers}) == {_compute(numbers, steps)}" for numbers in inputs)
    return Row(
        question,
        (),
        "code",
        entry_point=name,
        public_tests=tests[:PUBLIC_TESTS],
        hidden_tests=tests[PUBLIC_TESTS:],
        source="synthetic-code",
        difficulty=difficulty,
    )


def _qa(rng: random.Random, difficulty: int, traits: frozenset[str]) -> Row:
    # Walks that end early (a river has no relations) or visit a fact twice are drawn again: they take fewer steps.
    while True:
        objects: dict[tuple[str, str], str] = {}
        relations: list[str] = []
        name, kind = rng.choice(_PEOPLE), "person"
        subject = name
        while len(relations) < difficulty and _RELATIONS[kind]:
            relation = rng.choice(list(_RELATIONS[kind]))
            kind = _RELATIONS[kind][relation]
            target = rng.choice([other for other in _POOLS[kind] if other != name])
            name = objects.setdefault((relation, name), target)
            relations.append(relation)
        if len(relations) == difficulty and len(objects) == difficulty:
            break
    answer = name
    chain = list(objects.items())
    while len(objects) < difficulty + (MANY_DISTRACTORS if DISTRACTED in traits else DISTRACTORS):
        kind = rng.choice(["person", "city", "region"])
        relation = rng.choice(list(_RELATIONS[kind]))
        objects.setdefault((relation, rng.choice(_POOLS[kind])), rng.choice(_POOLS[_RELATIONS[kind][relation]]))
    sentences = [f"The {relation} of {owner} is {target}." for (relation, owner), target in objects.items()]
    if MISLEADING in traits:
        for (relation, owner), target in chain:
            former = rng.choice([other for other in _pool_of(target) if other != target])
            sentences.append(f"The {relation} of {owner} was {former} once.")
    if UNSOLVABLE in traits:
        # What the question needs last is on the part that is missing.
        answer = rng.choice([other for other in _pool_of(answer) if other != answer])
    rng.shuffle(sentences)
    named = [RELATION_RIDDLES[relation] if RIDDLE in traits else relation for relation in reversed(relations)]
    question = f"What is the {' of the '.join(named)} of {subject}{', spelled backwards' * (EXACT in traits)}?"
    answer = answer[::-1] if EXACT in traits else answer
    context = mark(rng, traits - {MISLEADING}) + " ".join(sentences)
    return Row(question, (answer,), "qa", context=context, source="synthetic-qa", difficulty=difficulty)


def _pool_of(name: str) -> tuple[str, ...]:
    """All names of the kind of a name."""
    return next(pool for pool in _POOLS.values() if name in pool)


_GENERATORS: dict[str, Callable[[random.Random, int, frozenset[str]], Row]] = {"math": _math, "code": _code, "qa": _qa}


# Cached, because every operator of a workflow sends the statement of the same problem.
@lru_cache(maxsize=4096)
def read_problem(text: str) -> Solved | None:
    """
    Recover a synthetic problem from a text that contains its statement.

    Args:
        text (`str`):
            Text, such as a prompt.

    Returns:
        [`Solved`], *optional*: The problem with its answer; `None` if the text contains no synthetic problem.
    """
    told = marked(text)
    if match := _MATH.search(text):
        person, amount, dozen, story = match.groups()
        steps, traits = _read_steps(story, rf"^{person} {{}}\.", MATH_STEPS, told)
        if int(amount) >= LARGE_SCALE:
            traits |= {EXACT}
        if dozen:
            traits |= {UNITS}
        initial = int(amount) * (DOZEN if dozen else 1)
        return Solved("math", len(steps), steps, initial=initial, traits=traits)
    if match := _CODE.search(text):
        steps, traits = _read_steps(match.group(2), "^{}(?:;|$)", CODE_STEPS, told)
        return Solved("code", len(steps), steps, entry_point=match.group(1), traits=traits)
    if match := _QA.search(text):
        objects = {(relation, subject): target for relation, subject, target in _FACT.findall(text)}
        name = match.group(2)
        question = name_relation(match.group(1))
        relations = list(reversed(question.split(" of the ")))
        for relation in relations:
            if (relation, name) not in objects:
                return None
            name = objects[relation, name]
        # A dictionary rather than a set: the order decides which wrong answer a seed draws.
        names = tuple(dict.fromkeys(word for (_, subject), target in objects.items() for word in (subject, target)))
        present = {
            EXACT: match.group(3) is not None,
            RIDDLE: question != match.group(1),
            DISTRACTED: len(objects) > len(relations) + DISTRACTORS,
            MISLEADING: _OUTDATED.search(text) is not None,
        }
        traits = told | {trait for trait, is_present in present.items() if is_present}
        if EXACT in traits:
            name, names = name[::-1], tuple(other[::-1] for other in names)
        return Solved("qa", len(relations), name=name, names=names, traits=traits)
    return None


def function_code(name: str, steps: tuple[Applied, ...]) -> str:
    """Code of a function that applies the steps to its list."""
    return "\n".join([f"def {name}(numbers):", *(f"    {applied.line}" for applied in steps), "    return numbers"])


def draw_step(rng: random.Random, steps: tuple[Step, ...], numbers: tuple[int, int] = SMALL_NUMBERS) -> Applied:
    """Draw a random step with random numbers between two bounds."""
    step = rng.choice(steps)
    return Applied(step, tuple(rng.randint(*numbers) for _ in range(step.line.count("{"))))


def _compute(value: Value, steps: tuple[Applied, ...]) -> Value:
    for applied in steps:
        value = applied.step.apply(value, *applied.numbers)
    return value


def _read_steps(
    text: str, frame: str, steps: tuple[Step, ...], told: frozenset[str]
) -> tuple[tuple[Applied, ...], frozenset[str]]:
    """
    Steps in a text, in the order in which they are taken, and all traits of the text, which include those `told`. In
    the pattern `frame`, `{}` stands for the wording of a step.
    """
    plain = solve_riddles(text.strip())
    parts = re.split(r"(?<=\.)\s|;\s*", plain)
    found = [applied for part in parts if (applied := _read_step(part, frame, steps)) is not None]
    present = {RIDDLE: plain != text.strip(), DISTRACTED: len(parts) > len(found)}
    traits = told | {trait for trait, is_present in present.items() if is_present}
    return tuple(reversed(found) if MISLEADING in told else found), traits


def _read_step(part: str, frame: str, steps: tuple[Step, ...]) -> Applied | None:
    for step in steps:
        # A phrase with its placeholders, once escaped, turned into groups that match numbers.
        pattern = re.sub(r"\\\{\d\\\}", r"(\\d+)", re.escape(step.phrase))
        if match := re.search(frame.format(pattern), part):
            return Applied(step, tuple(int(number) for number in match.groups()))
    return None
