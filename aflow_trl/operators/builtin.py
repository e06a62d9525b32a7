"""The ten operators that ship with the package. Their prompts stand in `configs/operators.yaml`."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from ..sandbox import Status, judge, run
from .answers import code_block, final_answer, vote_key
from .base import Operator, OperatorCall, OperatorFailureError
from .prompts import render
from .registry import builtin
from .replies import ReplyError, fenced, tagged
from .types import Candidate, State

PROGRAM_ATTEMPTS = 3
REPAIR_ATTEMPTS = 3
VOTES = 5
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DEFAULT_INSTRUCTION = "Answer carefully."
FAILURE_CHARS = 1_000
"""How much of an error message a prompt shows."""


def _attempt(state: State) -> str:
    return (
        f"An earlier attempt, which may be wrong:\n<attempt>\n{state.solution}\n</attempt>" if state.solution else ""
    )


@builtin
class Custom(Operator):
    """(input, instruction) → response."""

    async def run(self, state: State, arguments: Mapping[str, str], call: OperatorCall) -> State:
        instruction = arguments.get("instruction", DEFAULT_INSTRUCTION)
        problem = state.problem.statement
        text = await call.ask(render("Custom", instruction=instruction, attempt=_attempt(state), problem=problem))
        return state.with_candidate(Candidate(text))


@builtin
class AnswerGenerate(Operator):
    """(input) → thought, answer."""

    async def run(self, state: State, arguments: Mapping[str, str], call: OperatorCall) -> State:
        prompt = render("AnswerGenerate", attempt=_attempt(state), problem=state.problem.statement)
        reply = await call.ask_for(prompt, tagged("thought", "answer"))
        answer = code_block(reply["answer"]) if state.problem.domain == "code" else reply["answer"]
        return state.with_candidate(Candidate(f"{reply['thought']}\nThe answer is {reply['answer']}", answer))


@builtin
class Programmer(Operator):
    """(problem, analysis) → code, output. The verdict is whether the program ran."""

    async def run(self, state: State, arguments: Mapping[str, str], call: OperatorCall) -> State:
        problem, failure = state.problem, ""
        target, call_line = "Define solve(), which takes no argument and returns the final answer.", "print(solve())"
        if problem.domain == "code" and problem.entry_point:
            target, call_line = f"The program must define `{problem.entry_point}`.", problem.entry_point
        analysis = f"Analysis so far:\n<analysis>\n{state.solution}\n</analysis>" if state.solution else ""
        code = ""
        for _ in range(PROGRAM_ATTEMPTS):
            prompt = render("Programmer", analysis=analysis, problem=problem.statement, target=target, failure=failure)
            code = await call.ask_for(prompt, fenced)
            result = await run(f"{code}\n{call_line}\n")
            if result.status is Status.OK:
                return replace(state.with_candidate(_program(code, result.stdout, problem.domain)), verdict=True)
            error = result.stderr.strip()[-FAILURE_CHARS:] or result.status.value
            failure = f"An earlier program failed:\n<failure>\n{code}\n{error}\n</failure>"
        if state.candidates:
            return replace(state, verdict=False)
        return replace(state.with_candidate(_program(code, "", problem.domain)), verdict=False)


def _program(code: str, output: str, domain: str) -> Candidate:
    if domain == "code":
        return Candidate(f"```python\n{code}\n```", code)
    lines = output.strip().splitlines()
    answer = lines[-1] if lines else ""
    return Candidate(f"```python\n{code}\n```\nOutput: {answer}", answer)


@builtin
class CustomCodeGenerate(Operator):
    """(problem, entry_point, instruction) → code."""

    async def run(self, state: State, arguments: Mapping[str, str], call: OperatorCall) -> State:
        prompt = render(
            "CustomCodeGenerate",
            instruction=arguments.get("instruction", DEFAULT_INSTRUCTION),
            attempt=_attempt(state),
            problem=state.problem.statement,
            entry_point=state.problem.entry_point or "solve",
        )
        code = await call.ask_for(prompt, fenced)
        answer = code if state.problem.domain == "code" else None
        return state.with_candidate(Candidate(f"```python\n{code}\n```", answer))


@builtin
class Test(Operator):
    """(problem, solution, entry_point) → verdict, solution. Without public tests it changes nothing."""

    async def run(self, state: State, arguments: Mapping[str, str], call: OperatorCall) -> State:
        problem = state.problem
        if not problem.public_tests or not state.candidates:
            return replace(state, verdict=None)
        code = final_answer(state.candidates[0], "code")
        for attempt in range(REPAIR_ATTEMPTS + 1):
            verdict = await judge(code, problem.public_tests, entry_point=problem.entry_point)
            passed = verdict.passed == verdict.total
            if passed or attempt == REPAIR_ATTEMPTS:
                break
            prompt = render(
                "Test",
                problem=problem.statement,
                solution=code,
                failure=verdict.failure[:FAILURE_CHARS],
                entry_point=problem.entry_point or "solve",
            )
            code = await call.ask_for(prompt, fenced)
        return replace(state.with_candidate(Candidate(f"```python\n{code}\n```", code)), verdict=passed)


@builtin
class Review(Operator):
    """(problem, solution) → verdict, feedback. The solution stays what it was."""

    async def run(self, state: State, arguments: Mapping[str, str], call: OperatorCall) -> State:
        solution = state.solution or "(there is no solution yet)"
        prompt = render("Review", problem=state.problem.statement, solution=solution)
        feedback, verdict = await call.ask_for(prompt, _parse_review)
        return replace(state, feedback=feedback, verdict=verdict)


def _parse_review(text: str) -> tuple[str, bool]:
    reply = tagged("feedback", "verdict")(text)
    word = reply["verdict"].lower().strip(" .")
    if word not in ("correct", "incorrect"):
        raise ReplyError(f"the verdict is {word!r}, neither correct nor incorrect")
    return reply["feedback"], word == "correct"


@builtin
class Revise(Operator):
    """(problem, solution, feedback) → solution."""

    async def run(self, state: State, arguments: Mapping[str, str], call: OperatorCall) -> State:
        prompt = render(
            "Revise",
            problem=state.problem.statement,
            solution=state.solution or "(there is no solution yet)",
            feedback=state.feedback or "(there is no feedback; look for mistakes yourself)",
        )
        reply = await call.ask_for(prompt, tagged("solution"))
        return state.with_candidate(Candidate(reply["solution"]))


@builtin
class Format(Operator):
    """(problem, solution) → concise final answer."""

    async def run(self, state: State, arguments: Mapping[str, str], call: OperatorCall) -> State:
        prompt = render("Format", problem=state.problem.statement, solution=state.solution)
        reply = await call.ask_for(prompt, tagged("answer"))
        answer = code_block(reply["answer"]) if state.problem.domain == "code" else reply["answer"]
        return state.with_candidate(Candidate(reply["answer"], answer))


@builtin
class ScEnsemble(Operator):
    """(solutions, problem) → solution. An exact vote after normalisation; the model breaks ties only."""

    async def run(self, state: State, arguments: Mapping[str, str], call: OperatorCall) -> State:
        domain = state.problem.domain
        keys = [vote_key(final_answer(candidate, domain), domain) for candidate in state.candidates]
        if not keys:
            return state
        counts = Counter(keys)
        most = max(counts.values())
        tied = [state.candidates[keys.index(key)] for key, count in counts.items() if count == most]
        chosen = tied[0] if len(tied) == 1 else tied[await _choose("ScEnsemble", tied, state, call)]
        return state.with_candidate(chosen)


@builtin
class MdEnsemble(Operator):
    """(solutions, problem) → solution. Five votes of the model over shuffled letters; first wins ties."""

    async def run(self, state: State, arguments: Mapping[str, str], call: OperatorCall) -> State:
        candidates = state.candidates
        if len(candidates) < 2:
            return state if not candidates else state.with_candidate(candidates[0])
        orders = []
        for vote in range(VOTES):
            order = list(range(len(candidates)))
            random.Random(call.draw_seed(f"order {vote}")).shuffle(order)
            orders.append(order)
        votes = await asyncio.gather(*(self._vote(order, state, call) for order in orders), return_exceptions=True)
        if fatal := [v for v in votes if isinstance(v, BaseException) and not isinstance(v, OperatorFailureError)]:
            raise fatal[0]
        counts = Counter(vote for vote in votes if isinstance(vote, int))
        if not counts:
            raise OperatorFailureError("no vote could be read")
        return state.with_candidate(candidates[max(sorted(counts), key=lambda index: counts[index])])

    async def _vote(self, order: list[int], state: State, call: OperatorCall) -> int:
        shuffled = [state.candidates[index] for index in order]
        return order[await _choose("MdEnsemble", shuffled, state, call)]


async def _choose(operator: str, candidates: list[Candidate], state: State, call: OperatorCall) -> int:
    """Ask the model for a letter; returns the index of the chosen candidate."""
    lettered = "\n".join(f"{letter}: {c.text}" for letter, c in zip(LETTERS, candidates, strict=False))

    def parse(text: str) -> int:
        letter = tagged("choice")(text)["choice"].strip(" .").upper()
        if letter not in LETTERS[: len(candidates)] or len(letter) != 1:
            raise ReplyError(f"{letter!r} is no letter of a candidate")
        return LETTERS.index(letter)

    prompt = render(operator, problem=state.problem.statement, candidates=lettered)
    return await call.ask_for(prompt, parse)
