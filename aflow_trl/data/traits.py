"""
Traits of a generated problem: what it asks of a solver besides its number of steps. Each can be read in the text.

| trait | text | what it means for a solver (`configs/simulated_executor.yaml`) |
|---|---|---|
| `exact` | large amounts; a name to be spelled backwards | only a program gets it right |
| `riddle` | numbers and relations in other words | only a careful reader understands it |
| `units` | an amount in dozens | easily overlooked |
| `distracted` | sentences that the question does not need, a long passage | easily confused |
| `misleading` | told from the end; facts that are out of date | all make the same mistake, so that votes do not help |
| `surprising` | a right answer that looks wrong | a review does harm |
| `unsolvable` | a part is missing | nobody solves it |
"""

from __future__ import annotations

import random
import re

EXACT, RIDDLE, UNITS, DISTRACTED = "exact", "riddle", "units", "distracted"
MISLEADING, SURPRISING, UNSOLVABLE = "misleading", "surprising", "unsolvable"
TRAITS: dict[str, tuple[str, ...]] = {
    "math": (EXACT, RIDDLE, UNITS, DISTRACTED, MISLEADING, SURPRISING),
    "code": (RIDDLE, DISTRACTED, MISLEADING, SURPRISING),
    "qa": (EXACT, RIDDLE, DISTRACTED, MISLEADING, SURPRISING),
}
"""Traits that occur together or alone, by domain. `unsolvable` occurs alone, in every domain."""
MAX_TRAITS = 2
UNSOLVABLE_SHARE = 0.06
TRAIT_COUNTS = (0.3, 0.45, 0.25)
"""Shares of the other problems with no trait, one, and two."""
MARKS = {
    MISLEADING: ("This is told from the end.", "The last step comes first here.", "Read the steps in reverse."),
    SURPRISING: ("The result may look wrong.", "All of this is fiction.", "Do not be surprised by the result."),
    UNSOLVABLE: ("The second page is lost.", "A part of this text is missing.", "Some of this cannot be read."),
}
"""Sentences, one of which tells of the trait."""
NUMBER_RIDDLES = {
    2: "the number of wheels of a bicycle",
    3: "the number of corners of a triangle",
    4: "the number of seasons of a year",
    5: "the number of fingers of a hand",
    6: "the number of sides of a die",
    7: "the number of days of a week",
    8: "the number of legs of a spider",
    9: "the number of lives of a cat",
}
RELATION_RIDDLES = {
    "boss": "superior",
    "friend": "companion",
    "home": "residence",
    "region": "surroundings",
    "mayor": "head",
    "ruler": "sovereign",
    "river": "stream",
}
_WORDS = {text: str(number) for number, text in NUMBER_RIDDLES.items()}
_RELATIONS = {text: relation for relation, text in RELATION_RIDDLES.items()}
_NUMBER_RIDDLE = re.compile("|".join(map(re.escape, _WORDS)))
_RELATION_RIDDLE = re.compile(rf"\b({'|'.join(_RELATIONS)})\b")


def draw_traits(rng: random.Random, domain: str) -> frozenset[str]:
    """Draw the traits of a problem of a domain."""
    if rng.random() < UNSOLVABLE_SHARE:
        return frozenset({UNSOLVABLE})
    count = rng.choices(range(MAX_TRAITS + 1), TRAIT_COUNTS)[0]
    traits = frozenset(rng.sample(TRAITS[domain], count))
    # Large amounts have no riddles.
    return traits - {RIDDLE} if domain == "math" and EXACT in traits else traits


def mark(rng: random.Random, traits: frozenset[str]) -> str:
    """Sentences that tell of traits, each followed by a space; empty if none of them needs any."""
    return "".join(f"{rng.choice(MARKS[trait])} " for trait in sorted(traits & MARKS.keys()))


def marked(text: str) -> frozenset[str]:
    """Traits that sentences of a text tell of."""
    return frozenset(trait for trait, sentences in MARKS.items() if any(map(text.__contains__, sentences)))


def pose_riddles(phrase: str) -> str:
    """A phrase with its numbers from 2 to 9 in other words."""
    return re.sub(r"\b[2-9]\b", lambda match: NUMBER_RIDDLES[int(match.group())], phrase)


def solve_riddles(text: str) -> str:
    """A text with the numbers that riddles stand for."""
    return _NUMBER_RIDDLE.sub(lambda match: _WORDS[match.group()], text)


def name_relation(text: str) -> str:
    """A text with the relations that riddles stand for."""
    return _RELATION_RIDDLE.sub(lambda match: _RELATIONS[match.group()], text)
