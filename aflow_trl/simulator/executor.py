"""
The simulated executor: a model of known, imperfect skill that works from the messages alone.

It reads the problem out of the prompt, decides by its skill table whether this reply will be right, and writes the
reply in the form asked for: prose, tagged fields, or real code. It is honest about being a simulation; nothing
measured with it says anything about a real model.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from ..assets import read_config
from ..data import CODE_STEPS, MATH_STEPS, Applied, Solved, draw_step, read_problem
from ..operators import extract_answer, vote_key
from .optimizer import current_workflow, propose
from .recognize import recognize

Skill = Mapping[str, Any]


@cache
def default_skill() -> Skill:
    """`configs/simulated_executor.yaml`."""
    table: Skill = read_config("simulated_executor.yaml")
    return table


def reply(prompt: str, seed: int, skill: Skill | None = None) -> str:
    """
    What the simulated executor answers.

    Args:
        prompt (`str`):
            Content of the last user message.
        seed (`int`):
            Sampling seed; equal prompts and seeds get equal replies.
        skill (`Mapping`, *optional*):
            Skill table. Defaults to `configs/simulated_executor.yaml`.

    Returns:
        `str`: The reply.
    """
    if (workflow := current_workflow(prompt)) is not None:
        return propose(workflow, random.Random(f"{seed} {prompt}"))
    name, fields = recognize(prompt)
    digest = hashlib.blake2b(f"{seed} {prompt}".encode("utf-8", errors="replace"), digest_size=8).digest()
    rng = random.Random(int.from_bytes(digest, "big"))
    table = default_skill() if skill is None else skill
    if name not in ("Custom", "Programmer", "CustomCodeGenerate", "Test") and rng.random() < table["malformed"]:
        return "I am not sure how to answer in that form."
    solved = read_problem(fields.get("problem", "") or prompt)
    if solved is None:
        return "I do not know."
    return _WRITERS[name](_Reply(solved, fields, rng, table))


class _Reply:
    """One reply in the making."""

    def __init__(self, solved: Solved, fields: Mapping[str, str], rng: random.Random, skill: Skill) -> None:
        self.solved, self.fields, self.rng, self.skill = solved, fields, rng, skill

    def chance(self, row: Any) -> float:
        """Probability from a row of the table, for this problem."""
        base = float(row[self.solved.difficulty - 1])
        offset = random.Random(self.fields.get("problem", "")).uniform(-1, 1) * self.skill["spread"]
        return float(min(0.99, max(0.01, base + offset)))

    def lucky(self, probability: float) -> bool:
        return self.rng.random() < probability

    def is_right(self, solution: str) -> bool:
        """Whether a solution states the right answer."""
        domain = self.solved.domain
        if "Output: " in solution and domain != "code":
            solution = solution.rsplit("Output: ", 1)[1]
        return vote_key(extract_answer(solution, domain), domain) == vote_key(self.solved.answer(), domain)

    def solves(self, how: str, attempt: str = "") -> bool:
        probability = self.chance(self.skill["solve"][self.solved.domain][how])
        if attempt:
            right = self.is_right(attempt)
            probability = (
                max(probability, self.skill["attempt_right"]) if right else probability * self.skill["attempt_wrong"]
            )
        return self.lucky(probability)

    def steps(self, right: bool) -> tuple[Applied, ...]:
        """Steps of the solution, one of them mistaken if it is to be wrong."""
        steps = self.solved.steps
        if right or not steps:
            return steps
        index = self.rng.randrange(len(steps))
        kinds = MATH_STEPS if self.solved.domain == "math" else CODE_STEPS
        mistake = steps[index]
        while mistake == steps[index]:
            same_kind = steps[index].numbers and self.rng.random() < 0.6
            mistake = draw_step(self.rng, (steps[index].step,) if same_kind else kinds)
        return (*steps[:index], mistake, *steps[index + 1 :])

    def answer(self, right: bool) -> str:
        """A right or a wrong final answer."""
        if self.solved.domain != "qa":
            return self.solved.answer(self.steps(right))
        others = [name for name in self.solved.names if name != self.solved.name]
        return self.solved.name if right else self.rng.choice(others)

    def prose(self, right: bool) -> str:
        """Free text that ends as prompts ask."""
        answer = self.answer(right)
        if self.solved.domain == "code":
            return f"This does what is asked.\n```python\n{answer}\n```"
        return f"Working through the {self.solved.difficulty} step(s).\nThe answer is {answer}."

    def program(self, right: bool) -> str:
        """A program that computes the answer."""
        if self.solved.domain == "code":
            return self.answer(right)
        if self.solved.domain == "qa":
            return f"def solve():\n    return {self.answer(right)!r}"
        lines = [f"total = {self.solved.start}", *(step.line for step in self.steps(right))]
        return "\n".join(["def solve():", *(f"    {line}" for line in lines), "    return total"])

    def code(self, right: bool, crash: bool = False) -> str:
        text = self.program(right)
        return f"```python\n{text if not crash else 'import nonexistent_module' + chr(10) + text}\n```"


def _custom(r: _Reply) -> str:
    return r.prose(r.solves("text", r.fields.get("attempt", "")))


def _answer_generate(r: _Reply) -> str:
    answer = r.answer(r.solves("reasoned", r.fields.get("attempt", "")))
    body = f"```python\n{answer}\n```" if r.solved.domain == "code" else answer
    return f"<thought>Step by step, {r.solved.difficulty} step(s).</thought>\n<answer>{body}</answer>"


def _programmer(r: _Reply) -> str:
    if r.fields.get("failure"):
        return r.code(r.lucky(r.chance(r.skill["repair"])))
    right = r.solves("program", r.fields.get("analysis", ""))
    return r.code(right, crash=r.lucky(r.skill["crash"]))


def _custom_code(r: _Reply) -> str:
    return r.code(r.solves("code", r.fields.get("attempt", "")))


def _test(r: _Reply) -> str:
    return f"The failure shows a mistaken step.\n{r.code(r.lucky(r.chance(r.skill['repair'])))}"


def _review(r: _Reply) -> str:
    review = r.skill["review"]
    right = r.is_right(r.fields["solution"])
    accepted = not r.lucky(review["false_alarm"]) if right else not r.lucky(r.chance(review["detects_wrong"]))
    feedback = "Every step holds." if accepted else "A step is mistaken; check them one by one."
    return f"<feedback>{feedback}</feedback>\n<verdict>{'correct' if accepted else 'incorrect'}</verdict>"


def _revise(r: _Reply) -> str:
    revise = r.skill["revise"]
    if r.is_right(r.fields["solution"]):
        right = not r.lucky(revise["breaks"])
    else:
        useful = "mistaken" in r.fields.get("feedback", "")
        right = r.lucky(r.chance(revise["fixes" if useful else "fixes_without_feedback"]))
    return f"<solution>{r.prose(right)}</solution>"


def _format(r: _Reply) -> str:
    solution = r.fields.get("solution", "")
    if r.solved.domain == "code":
        return f"<answer>```python\n{extract_answer(solution, 'code')}\n```</answer>"
    text = solution.rsplit("Output: ", 1)[-1]
    answer = extract_answer(text, r.solved.domain)
    return f"<answer>{r.answer(False) if r.lucky(r.skill['garbles']) else answer}</answer>"


def _choose(r: _Reply) -> str:
    candidates = re.split(r"^(?=[A-Z]: )", r.fields["candidates"], flags=re.MULTILINE)
    letters = [(text[0], r.is_right(text[3:])) for text in candidates if text[1:3] == ": "]
    right = [letter for letter, good in letters if good]
    chosen = right if right and r.lucky(r.skill["chooses_right"]) else [letter for letter, _ in letters]
    return f"<choice>{r.rng.choice(chosen)}</choice>"


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
