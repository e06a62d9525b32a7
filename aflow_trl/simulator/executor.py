"""
The simulated executor: a model with a known, imperfect skill that works from the messages alone.

It recovers the problem from the prompt, decides by its skill table whether this reply is right, and writes the reply
in the requested format: prose, tagged fields, or real code. Measurements with it say nothing about real models.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TypedDict

from ..answers import extract_answer, vote_key
from ..assets import read_config
from ..data import CODE_STEPS, MATH_STEPS, Applied, Solved, draw_step, read_problem
from .optimizer import current_workflow, propose
from .recognize import recognize

MIN_PROBABILITY, MAX_PROBABILITY = 0.01, 0.99
"""No problem is certain: a group of equal rewards would teach nothing."""
WRONG_NUMBER_SHARE = 0.6
"""Share of mistakes that change the number of a step, rather than the step itself."""


class ReviewSkill(TypedDict):
    """Skill of the `Review` operator."""

    detects_wrong: list[float]
    """Probability of rejecting a wrong solution, by difficulty."""
    false_alarm: float
    """Probability of rejecting a right solution."""


class ReviseSkill(TypedDict):
    """Skill of the `Revise` operator."""

    fixes: list[float]
    """Probability of correcting a wrong solution with useful feedback, by difficulty."""
    fixes_without_feedback: list[float]
    breaks: float
    """Probability of breaking a right solution."""


class Skill(TypedDict):
    """Skill table: probabilities, those in lists by difficulty from 1 to 9."""

    spread: float
    """Maximum deviation of a problem's probabilities from those of its difficulty."""
    solve: dict[str, dict[str, list[float]]]
    """Probability of a right reply by domain, way of solving and difficulty."""
    attempt_right: float
    """Minimum probability if the prompt contains a right attempt."""
    attempt_wrong: float
    """Factor on the probability if the prompt contains a wrong attempt."""
    crash: float
    """Probability of a program that raises an exception."""
    repair: list[float]
    review: ReviewSkill
    revise: ReviseSkill
    chooses_right: float
    """Probability that an ensemble considers only right candidates."""
    garbles: float
    """Probability that `Format` loses the answer."""
    malformed: float
    """Probability of a structured reply in the wrong format."""
    models: dict[str, float]
    """Models that are better than the table, and the share of its failures that they avoid."""
    traits: dict[str, dict[str, dict[str, float]]]
    """
    Factors on probabilities by domain and trait of the problem: on those of `solve` by way of solving, and on
    `detects_wrong`, `false_alarm`, `fixes` and `breaks`. `shared` is no factor, but the share of problems on which all
    replies err alike.
    """


@cache
def default_skill() -> Skill:
    """Content of `configs/simulated_executor.yaml`."""
    table: Skill = read_config("simulated_executor.yaml")
    return table


def reply(prompt: str, seed: int, skill: Skill | None = None, model: str = "") -> str:
    """
    Reply to a prompt.

    Args:
        prompt (`str`):
            Content of the last user message.
        seed (`int`):
            Sampling seed. Equal prompts and seeds get equal replies.
        skill ([`Skill`], *optional*):
            Skill table. Defaults to `configs/simulated_executor.yaml`.
        model (`str`, *optional*):
            Model that is asked. One that the table does not name has exactly the skill of the table.

    Returns:
        `str`: Text of the reply.
    """
    # A search may use the executor's endpoint for its optimizer as well.
    if (workflow := current_workflow(prompt)) is not None:
        return propose(workflow, random.Random(f"{seed} {prompt}"))
    name, fields = recognize(prompt)
    # Not `hash`, which differs between Python processes.
    digest = hashlib.blake2b(f"{seed} {prompt}".encode("utf-8", errors="replace"), digest_size=8).digest()
    rng = random.Random(int.from_bytes(digest, "big"))
    table = default_skill() if skill is None else skill
    # Free text and fenced code cannot be malformed.
    if name not in ("Custom", "Programmer", "CustomCodeGenerate", "Test") and rng.random() < table["malformed"]:
        return "I am not sure how to answer in that form."
    solved = read_problem(fields.get("problem", "") or prompt)
    if solved is None:
        return "I do not know."
    return _WRITERS[name](_Reply(solved, fields, rng, table, table["models"].get(model, 0.0)))


def knows(problem: str) -> bool:
    """Whether a problem is one of those that the simulated executor can solve, right or wrong."""
    return read_problem(problem) is not None


class _Reply:
    """State of a reply that is being written."""

    def __init__(
        self, solved: Solved, fields: Mapping[str, str], rng: random.Random, skill: Skill, avoided: float
    ) -> None:
        self.solved, self.fields, self.rng, self.skill = solved, fields, rng, skill
        self.avoided = avoided
        """Share of the failures of the table that the model avoids."""
        self.mistakes, self.luck = rng, rng
        """What decides whether a solution errs, and how: where all replies err alike, the problem's own draws."""
        self.traits = [skill["traits"][solved.domain].get(trait, {}) for trait in solved.traits]
        share = max((trait.get("shared", 0.0) for trait in self.traits), default=0.0)
        problem = fields.get("problem", "")
        if share and random.Random(f"shared {problem}").random() < share:
            self.mistakes, self.luck = random.Random(f"mistake {problem}"), random.Random(f"luck {problem}")

    def probability(self, by_difficulty: Sequence[float], name: str = "") -> float:
        """Probability for this problem, from a row of the skill table; `name` is the one that traits know it by."""
        base = by_difficulty[self.solved.difficulty - 1]
        # Seeded with the problem, so that it is equally hard or easy in every reply.
        offset = random.Random(self.fields.get("problem", "")).uniform(-1, 1) * self.skill["spread"]
        better = base + offset + self.avoided * max(0.0, 1 - base - offset)
        return min(MAX_PROBABILITY, max(MIN_PROBABILITY, better * self.factor(name)))

    def failure(self, probability: float, name: str = "") -> float:
        """Probability of something that should not happen."""
        return min(MAX_PROBABILITY, probability * (1 - self.avoided) * self.factor(name))

    def factor(self, name: str) -> float:
        """Product of what the traits of the problem multiply a probability by."""
        return math.prod(trait.get(name, 1.0) for trait in self.traits)

    def draw(self, probability: float) -> bool:
        """Draw an event of this probability."""
        return self.rng.random() < probability

    def is_right(self, solution: str) -> bool:
        """Whether a solution gives the right answer."""
        domain = self.solved.domain
        # A program's output, not its source, is what it answers.
        if "Output: " in solution and domain != "code":
            solution = solution.rsplit("Output: ", 1)[1]
        return vote_key(extract_answer(solution, domain), domain) == vote_key(self.solved.answer(), domain)

    def solves(self, how: str, attempt: str = "") -> bool:
        """Draw whether this reply is right, given how it solves the problem and the attempt in the prompt."""
        probability = self.probability(self.skill["solve"][self.solved.domain][how], how)
        if attempt and self.is_right(attempt):
            probability = max(probability, self.skill["attempt_right"])
        elif attempt:
            probability *= self.skill["attempt_wrong"]
        return self.luck.random() < probability

    def steps(self, right: bool) -> tuple[Applied, ...]:
        """Steps of the solution, with a mistake in one of them unless it is to be right."""
        steps = self.solved.steps
        if right or not steps:
            return steps
        index = self.mistakes.randrange(len(steps))
        kinds = MATH_STEPS if self.solved.domain == "math" else CODE_STEPS
        mistake = steps[index]
        while mistake == steps[index]:
            # Mistakes of real models are often the right step with a wrong number.
            same_kind = steps[index].numbers and self.mistakes.random() < WRONG_NUMBER_SHARE
            mistake = draw_step(self.mistakes, (steps[index].step,) if same_kind else kinds)
        return (*steps[:index], mistake, *steps[index + 1 :])

    def answer(self, right: bool) -> str:
        """Right or wrong final answer."""
        if self.solved.domain != "qa":
            return self.solved.answer(self.steps(right))
        # A wrong answer is another name from the passages, as a real model would confuse.
        others = [name for name in self.solved.names if name != self.solved.name]
        return self.solved.name if right else self.mistakes.choice(others)

    def prose(self, right: bool) -> str:
        """Free text that ends in the requested way."""
        answer = self.answer(right)
        if self.solved.domain == "code":
            return f"This code follows the instructions.\n```python\n{answer}\n```"
        return f"Working through the {self.solved.difficulty} step(s).\nThe answer is {answer}."

    def program(self, right: bool) -> str:
        """Program that computes the answer."""
        if self.solved.domain == "code":
            return self.answer(right)
        if self.solved.domain == "qa":
            return f"def solve():\n    return {self.answer(right)!r}"
        lines = [f"total = {self.solved.initial}", *(step.line for step in self.steps(right))]
        return "\n".join(["def solve():", *(f"    {line}" for line in lines), "    return total"])

    def code(self, right: bool, crash: bool = False) -> str:
        """Program in a fenced block."""
        text = f"import nonexistent_module\n{self.program(right)}" if crash else self.program(right)
        return f"```python\n{text}\n```"


def _custom(r: _Reply) -> str:
    return r.prose(r.solves("text", r.fields.get("attempt", "")))


def _answer_generate(r: _Reply) -> str:
    answer = r.answer(r.solves("reasoned", r.fields.get("attempt", "")))
    body = f"```python\n{answer}\n```" if r.solved.domain == "code" else answer
    return f"<thought>Step by step, {r.solved.difficulty} step(s).</thought>\n<answer>{body}</answer>"


def _programmer(r: _Reply) -> str:
    if r.fields.get("failure"):
        return r.code(r.draw(r.probability(r.skill["repair"])))
    right = r.solves("program", r.fields.get("analysis", ""))
    return r.code(right, crash=r.draw(r.skill["crash"]))


def _custom_code(r: _Reply) -> str:
    return r.code(r.solves("code", r.fields.get("attempt", "")))


def _test(r: _Reply) -> str:
    return f"The failure shows a mistaken step.\n{r.code(r.draw(r.probability(r.skill['repair'])))}"


def _review(r: _Reply) -> str:
    review = r.skill["review"]
    right = r.is_right(r.fields["solution"])
    if right:
        accepted = not r.draw(r.failure(review["false_alarm"], "false_alarm"))
    else:
        accepted = not r.draw(r.probability(review["detects_wrong"], "detects_wrong"))
    feedback = "Every step holds." if accepted else "A step is mistaken; check them one by one."
    return f"<feedback>{feedback}</feedback>\n<verdict>{'correct' if accepted else 'incorrect'}</verdict>"


def _revise(r: _Reply) -> str:
    revise = r.skill["revise"]
    if r.is_right(r.fields["solution"]):
        right = not r.draw(r.failure(revise["breaks"], "breaks"))
    else:
        # The word that `_review` uses for a wrong solution.
        useful = "mistaken" in r.fields.get("feedback", "")
        right = r.draw(r.probability(revise["fixes" if useful else "fixes_without_feedback"], "fixes"))
    return f"<solution>{r.prose(right)}</solution>"


def _format(r: _Reply) -> str:
    solution = r.fields.get("solution", "")
    if r.solved.domain == "code":
        return f"<answer>```python\n{extract_answer(solution, 'code')}\n```</answer>"
    text = solution.rsplit("Output: ", 1)[-1]
    answer = extract_answer(text, r.solved.domain)
    return f"<answer>{r.answer(False) if r.draw(r.skill['garbles']) else answer}</answer>"


def _choose(r: _Reply) -> str:
    # Candidates are lettered "A: …"; their text may span several lines.
    candidates = re.split(r"^(?=[A-Z]: )", r.fields["candidates"], flags=re.MULTILINE)
    letters = {text[0]: r.is_right(text[3:]) for text in candidates if text[1:3] == ": "}
    right = [letter for letter, is_right in letters.items() if is_right]
    eligible = right if right and r.draw(r.skill["chooses_right"]) else list(letters)
    return f"<choice>{r.rng.choice(eligible)}</choice>"


_WRITERS: dict[str, Callable[[_Reply], str]] = {
    "Custom": _custom,
    "AnswerGenerate": _answer_generate,
    "Programmer": _programmer,
    "CustomCodeGenerate": _custom_code,
    "Test": _test,
    "Review": _review,
    "Revise": _revise,
    "Format": _format,
    "ScEnsemble": _choose,
    "MdEnsemble": _choose,
}
