"""
Procedurally generated problems of three domains with known answers, and the parser that reads them back.

Every text carries its whole problem, so that a simulated executor can work from the messages alone, as a real model
has to. Difficulty 1 to 5 is the number of steps a solution takes.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from .schema import DOMAINS, Row

MAX_DIFFICULTY = 5
PUBLIC_TESTS, HIDDEN_TESTS = 2, 4

_PEOPLE = ("Ana", "Bor", "Cleo", "Dov", "Edda", "Finn", "Gita", "Hugo", "Ines", "Jon", "Kira", "Leo", "Mira", "Nils")
_CITIES = ("Tolva", "Brenn", "Sarno", "Veld", "Ostra", "Lunde", "Perim", "Karst")
_REGIONS = ("Northmark", "Westvale", "Eastmoor", "Southfen", "Midland")
_RIVERS = ("Aller", "Brisk", "Corda", "Dunes", "Elver")
_THINGS = ("apples", "coins", "books", "stones", "cards", "shells")


@dataclass(frozen=True, slots=True)
class Step:
    """One kind of step: how a problem words it, how a program writes it, what it computes."""

    phrase: str
    line: str
    apply: Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Applied:
    """A step with its numbers filled in."""

    step: Step
    numbers: tuple[int, ...]

    @property
    def line(self) -> str:
        """Program line of the step."""
        return self.step.line.format(*self.numbers)


def _keep(test: Callable[..., bool]) -> Callable[..., list[int]]:
    return lambda numbers, *given: [n for n in numbers if test(n, *given)]


def _each(change: Callable[..., int]) -> Callable[..., list[int]]:
    return lambda numbers, *given: [change(n, *given) for n in numbers]


MATH_STEPS = (
    Step("gets {0} more", "total = total + {0}", lambda total, k: total + k),
    Step("gives away {0}", "total = total - {0}", lambda total, k: total - k),
    Step("finds {0} bags with {1} each", "total = total + {0} * {1}", lambda total, k, m: total + k * m),
    Step("multiplies the amount by {0}", "total = total * {0}", lambda total, k: total * k),
    Step("loses {0} boxes of {1} each", "total = total - {0} * {1}", lambda total, k, m: total - k * m),
)
CODE_STEPS = (
    Step("keep only the even numbers", "numbers = [n for n in numbers if n % 2 == 0]", _keep(lambda n: n % 2 == 0)),
    Step("keep only the odd numbers", "numbers = [n for n in numbers if n % 2 == 1]", _keep(lambda n: n % 2 == 1)),
    Step("keep the numbers greater than {0}", "numbers = [n for n in numbers if n > {0}]", _keep(lambda n, k: n > k)),
    Step("keep the numbers less than {0}", "numbers = [n for n in numbers if n < {0}]", _keep(lambda n, k: n < k)),
    Step("multiply each number by {0}", "numbers = [n * {0} for n in numbers]", _each(lambda n, k: n * k)),
    Step("add {0} to each number", "numbers = [n + {0} for n in numbers]", _each(lambda n, k: n + k)),
    Step("subtract {0} from each number", "numbers = [n - {0} for n in numbers]", _each(lambda n, k: n - k)),
    Step("sort in ascending order", "numbers = sorted(numbers)", sorted),
    Step("sort in descending order", "numbers = sorted(numbers, reverse=True)", lambda x: sorted(x, reverse=True)),
    Step("reverse the order", "numbers = numbers[::-1]", lambda x: x[::-1]),
    Step("drop the first {0} elements", "numbers = numbers[{0}:]", lambda x, k: x[k:]),
    Step("keep the first {0} elements", "numbers = numbers[:{0}]", lambda x, k: x[:k]),
)
_RELATIONS: dict[str, dict[str, str]] = {
    "person": {"boss": "person", "friend": "person", "home": "city"},
    "city": {"region": "region", "mayor": "person"},
    "region": {"ruler": "person", "river": "river"},
    "river": {},
}
_POOLS = {"person": _PEOPLE, "city": _CITIES, "region": _REGIONS, "river": _RIVERS}

_MATH = re.compile(r"(\w+) has (\d+) (\w+)\. (.*?) How many \w+ does \w+ have now\?", re.DOTALL)
_CODE = re.compile(r"Write a function `(\w+)\(numbers\)` on a list of integers: (.*?)\. Return", re.DOTALL)
_QA = re.compile(r"What is the ((?:\w+ of the )*\w+) of (\w+)\?")
_FACT = re.compile(r"The (\w+) of (\w+) is (\w+)\.")


@dataclass(frozen=True, slots=True)
class Solved:
    """A synthetic problem that was read back."""

    domain: str
    difficulty: int
    steps: tuple[Applied, ...] = ()
    start: int = 0
    """For math: the amount before the first step."""
    entry_point: str = ""
    """For code: name of the function."""
    name: str = ""
    """For QA: the answer."""
    names: tuple[str, ...] = ()
    """For QA: every name in the passages."""

    def answer(self, steps: tuple[Applied, ...] | None = None) -> str:
        """The answer, or what comes out with other steps: a number, a name, or code."""
        steps = self.steps if steps is None else steps
        if self.domain == "qa":
            return self.name
        if self.domain == "math":
            return str(_compute(self.start, steps))
        return function_code(self.entry_point, steps)


def synthetic_rows(seed: int, split: str, *, domains: tuple[str, ...] = DOMAINS) -> Iterator[Row]:
    """
    Endless stream of problems, domains in turn. Splits never share a problem: its digest decides where it belongs.

    Args:
        seed (`int`):
            Seed of the stream.
        split (`str`):
            `"train"` or `"test"`.
        domains (`tuple[str, ...]`, *optional*):
            Domains to draw from.

    Yields:
        [`Row`]: Problems whose gold answer the scorers accept.
    """
    rng = random.Random(f"{seed} {split}")
    seen: set[str] = set()
    while True:
        for domain in domains:
            row = _GENERATORS[domain](rng)
            while row.question + row.context in seen or (_bucket(row) == 0) != (split == "test"):
                row = _GENERATORS[domain](rng)
            seen.add(row.question + row.context)
            yield row


def sum_rows(seed: int, split: str) -> Iterator[Row]:
    """
    Endless stream of sums of two small numbers in words, for a tiny policy that answers by itself. Texts of the two
    splits differ; the numbers in them need not.

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
        start, more = rng.randint(1, 6), rng.randint(1, 6)
        question = f"{person} has {start} and gets {more}. How many {thing}?"
        row = Row(question, (str(start + more),), "math", source="synthetic-sums", difficulty=1)
        if (_bucket(row) == 0) == (split == "test"):
            yield row


def _bucket(row: Row) -> int:
    return random.Random(row.question + row.context).randrange(4)


def _difficulty(rng: random.Random) -> int:
    return rng.randint(1, MAX_DIFFICULTY)


def _math(rng: random.Random) -> Row:
    difficulty = _difficulty(rng)
    person, thing, start = rng.choice(_PEOPLE), rng.choice(_THINGS), rng.randint(20, 60)
    total, sentences = start, []
    for _ in range(difficulty):
        while True:
            applied = draw_step(rng, MATH_STEPS)
            after = _compute(total, (applied,))
            if 0 < after < 5_000 and not ("multiplies" in applied.step.phrase and total > 400):
                break
        total = after
        sentences.append(f"{person} {applied.step.phrase.format(*applied.numbers)}.")
    question = f"{person} has {start} {thing}. {' '.join(sentences)} How many {thing} does {person} have now?"
    return Row(question, (str(total),), "math", source="synthetic-math", difficulty=difficulty)


def _code(rng: random.Random) -> Row:
    difficulty = _difficulty(rng)
    steps = tuple(draw_step(rng, (step,)) for step in rng.sample(CODE_STEPS, difficulty))
    name = f"transform_{rng.randint(10, 99)}"
    listed = "; ".join(applied.step.phrase.format(*applied.numbers) for applied in steps)
    question = f"Write a function `{name}(numbers)` on a list of integers: {listed}. Return the list."
    inputs = [[rng.randint(-9, 20) for _ in range(rng.randint(5, 9))] for _ in range(PUBLIC_TESTS + HIDDEN_TESTS)]
    tests = tuple(f"assert {name}({given}) == {_compute(given, steps)}" for given in inputs)
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


def _qa(rng: random.Random) -> Row:
    difficulty = _difficulty(rng)
    while True:
        world: dict[tuple[str, str], str] = {}
        chain: list[str] = []
        name, kind = rng.choice(_PEOPLE), "person"
        start = name
        while len(chain) < difficulty and _RELATIONS[kind]:
            relation = rng.choice(list(_RELATIONS[kind]))
            kind = _RELATIONS[kind][relation]
            target = rng.choice([other for other in _POOLS[kind] if other != name])
            name = world.setdefault((relation, name), target)
            chain.append(relation)
        if len(chain) == difficulty and len(world) == difficulty:
            break
    answer = name
    while len(world) < difficulty + 2:
        kind = rng.choice(["person", "city", "region"])
        relation = rng.choice(list(_RELATIONS[kind]))
        world.setdefault((relation, rng.choice(_POOLS[kind])), rng.choice(_POOLS[_RELATIONS[kind][relation]]))
    facts = [f"The {relation} of {subject} is {target}." for (relation, subject), target in world.items()]
    rng.shuffle(facts)
    question = f"What is the {' of the '.join(reversed(chain))} of {start}?"
    return Row(question, (answer,), "qa", context=" ".join(facts), source="synthetic-qa", difficulty=difficulty)


_GENERATORS: dict[str, Callable[[random.Random], Row]] = {"math": _math, "code": _code, "qa": _qa}


@lru_cache(maxsize=4096)
def read_problem(text: str) -> Solved | None:
    """
    Read a synthetic problem back from any text that holds its statement.

    Args:
        text (`str`):
            Statement, as prompts show it.

    Returns:
        [`Solved`], *optional*: The problem with its answer; `None` if the text holds no synthetic problem.
    """
    if match := _MATH.search(text):
        steps = tuple(_read_steps(match.group(4), r"\w+ {}\.", MATH_STEPS))
        return Solved("math", len(steps), steps, start=int(match.group(2)))
    if match := _CODE.search(text):
        steps = tuple(_read_steps(match.group(2), "{}(?:;|$)", CODE_STEPS))
        return Solved("code", len(steps), steps, entry_point=match.group(1))
    if match := _QA.search(text):
        facts = {(relation, subject): target for relation, subject, target in _FACT.findall(text)}
        name = match.group(2)
        chain = list(reversed(match.group(1).split(" of the ")))
        for relation in chain:
            if (relation, name) not in facts:
                return None
            name = facts[relation, name]
        names = tuple(dict.fromkeys(word for (_, subject), target in facts.items() for word in (subject, target)))
        return Solved("qa", len(chain), name=name, names=names)
    return None


def function_code(name: str, steps: tuple[Applied, ...]) -> str:
    """Code of a function with the given steps, in the form every solution of these tasks has."""
    return "\n".join([f"def {name}(numbers):", *(f"    {applied.line}" for applied in steps), "    return numbers"])


def draw_step(rng: random.Random, steps: tuple[Step, ...]) -> Applied:
    """A random step with random numbers."""
    step = rng.choice(steps)
    return Applied(step, tuple(rng.randint(2, 9) for _ in range(step.line.count("{"))))


def _compute(value: Any, steps: tuple[Applied, ...]) -> Any:
    for applied in steps:
        value = applied.step.apply(value, *applied.numbers)
    return value


def _read_steps(text: str, frame: str, steps: tuple[Step, ...]) -> Iterator[Applied]:
    for part in re.split(r"(?<=\.)\s|;\s*", text.strip()):
        for step in steps:
            pattern = re.sub(r"\\\{\d\\\}", r"(\\d+)", re.escape(step.phrase))
            if match := re.search(frame.format(pattern), part):
                yield Applied(step, tuple(int(number) for number in match.groups()))
                break
