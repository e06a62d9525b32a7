"""The ten operators that ship with the package. Their prompts are in `configs/operators.yaml`."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from ..answers import code_block, vote_key, with_prompt_imports
from ..sandbox import Status, run, run_tests
from ..text import model_text
from .base import Operator, OperatorCall, OperatorFailureError
from .final_answer import final_answer
from .prompts import render
from .registry import builtin
from .replies import fenced, tagged
from .types import Candidate, Problem, State

PROGRAM_ATTEMPTS = 3
REPAIR_ATTEMPTS = 3
VOTES = 5
"""Votes of `MdEnsemble`; odd, so that two candidates cannot tie."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DEFAULT_INSTRUCTION = "Answer carefully."
DEFAULT_ENTRY_POINT = "solve"
"""Function a program defines where the problem does not name one."""
FAILURE_CHARS = 1_000
"""Part of an error message that a prompt includes."""


def _attempt(state: State) -> str:
    if not state.solution:
        return ""
    return f"An earlier attempt, which may be wrong:\n<attempt>\n{state.solution}\n</attempt>"


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
        reply = await call.ask_for(prompt, tagged("thought", "answer", last_line_counts=True))
        answer = code_block(reply["answer"]) if state.problem.domain == "code" else reply["answer"]
        return state.with_candidate(Candidate(f"{reply['thought']}\nThe answer is {reply['answer']}", answer))


SOLVE = """
if "solve" in globals() and (_answer := solve()) is not None:
    print(_answer)"""
"""End of a program that computes an answer. Models forget `solve()`, or print in it, and print the answer anyway."""


@builtin
class Programmer(Operator):
    """(problem, analysis) → code, output. The verdict says whether the program ran without an error."""

    async def run(self, state: State, arguments: Mapping[str, str], call: OperatorCall) -> State:
        problem, code, failure = state.problem, "", ""
        target, last_line = _program_target(problem)
        analysis = f"Analysis so far:\n<analysis>\n{state.solution}\n</analysis>" if state.solution else ""
        for _ in range(PROGRAM_ATTEMPTS):
            prompt = render("Programmer", analysis=analysis, problem=problem.statement, target=target, failure=failure)
            code = await call.ask_for(prompt, fenced)
            result = await run(f"{code}\n{last_line}\n")
            output = model_text(result.stdout)
            if result.status is Status.OK and (output.strip() or last_line != SOLVE):
                return replace(state.with_candidate(_program(code, output, problem.domain)), verdict=True)
            # The end of a traceback names the error. A program that was killed leaves no message, only a status.
            error = model_text(result.stderr, max_chars=FAILURE_CHARS).strip() or result.status.value
            if result.status is Status.OK:
                error = "It neither defines solve() nor prints an answer."
            failure = f"An earlier program failed:\n<failure>\n{code}\n{error}\n</failure>"
        # An existing solution is worth more than a program that does not run.
        if state.candidates:
            return replace(state, verdict=False)
        return replace(state.with_candidate(_program(code, "", problem.domain)), verdict=False)


def _program_target(problem: Problem) -> tuple[str, str]:
    """Instruction on what the program has to define, and the line appended to it for the run."""
    if problem.domain == "code" and problem.entry_point:
        # Merely naming the function fails if it is not defined; its arguments are unknown, so it cannot be called.
        return f"The program must define `{problem.entry_point}`.", problem.entry_point
    return "Define solve(), which takes no argument and returns the final answer.", SOLVE


def _program(code: str, output: str, domain: str) -> Candidate:
    if domain == "code":
        return Candidate(f"```python\n{code}\n```", code)
    # The last line is what `solve()` returned, if it did; earlier lines are the program's own output.
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
            entry_point=state.problem.entry_point or DEFAULT_ENTRY_POINT,
        )
        code = await call.ask_for(prompt, fenced)
        # Elsewhere code is not an answer, so the answer is extracted from the text, as for any other operator.
        answer = code if state.problem.domain == "code" else None
        return state.with_candidate(Candidate(f"```python\n{code}\n```", answer))


@builtin
class Test(Operator):
    """(problem, solution, entry_point) → verdict, solution. Without public tests it changes nothing."""

    async def run(self, state: State, arguments: Mapping[str, str], call: OperatorCall) -> State:
        problem = state.problem
        # No verdict rather than a positive one: nothing has been tested.
        if not problem.public_tests or not state.candidates:
            return replace(state, verdict=None)
        code = final_answer(state.candidates[0], "code")
        code = with_prompt_imports(code, problem.question)
        # One more test run than repairs: the last repair is tested, too.
        for attempt in range(REPAIR_ATTEMPTS + 1):
            verdict = await run_tests(code, problem.public_tests, entry_point=problem.entry_point)
            passed = verdict.passed == verdict.total
            if passed or attempt == REPAIR_ATTEMPTS:
                break
            prompt = render(
                "Test",
                problem=problem.statement,
                solution=code,
                failure=model_text(verdict.failure[:FAILURE_CHARS]),
                entry_point=problem.entry_point or DEFAULT_ENTRY_POINT,
            )
            code = await call.ask_for(prompt, fenced)
        return replace(state.with_candidate(Candidate(f"```python\n{code}\n```", code)), verdict=passed)


@builtin
class Review(Operator):
    """(problem, solution) → verdict, feedback. The solution stays unchanged."""

    async def run(self, state: State, arguments: Mapping[str, str], call: OperatorCall) -> State:
        solution = state.solution or "(there is no solution yet)"
        prompt = render("Review", problem=state.problem.statement, solution=solution)
        reply = await call.ask_for(
            prompt, tagged("feedback", "verdict", choices={"verdict": ("correct", "incorrect")})
        )
        return replace(state, feedback=reply["feedback"], verdict=reply["verdict"] == "correct")


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
    """(solutions, problem) → solution. An exact vote after normalisation; the model only breaks ties."""

    async def run(self, state: State, arguments: Mapping[str, str], call: OperatorCall) -> State:
        domain = state.problem.domain
        keys = [vote_key(final_answer(candidate, domain), domain) for candidate in state.candidates]
        if not keys:
            return state
        counts = Counter(keys)
        majority = max(counts.values())
        # The model chooses among distinct answers, each represented by its first candidate.
        tied = [state.candidates[keys.index(key)] for key, count in counts.items() if count == majority]
        winner = tied[0] if len(tied) == 1 else tied[await _choose("ScEnsemble", tied, state, call)]
        return state.with_candidate(winner)


@builtin
class MdEnsemble(Operator):
    """(solutions, problem) → solution. Five model votes over shuffled letters; the first candidate wins ties."""

    async def run(self, state: State, arguments: Mapping[str, str], call: OperatorCall) -> State:
        candidates = state.candidates
        if len(candidates) < 2:
            return state if not candidates else state.with_candidate(candidates[0])
        # Models prefer certain letters; a different order in each vote averages that preference out.
        orders = [_shuffled(len(candidates), random.Random(call.draw_seed(f"order {vote}"))) for vote in range(VOTES)]
        votes = await asyncio.gather(*(self._vote(order, state, call) for order in orders), return_exceptions=True)
        # A vote that cannot be parsed is lost; anything else (an endpoint that is down) fails the operator run.
        errors = (vote for vote in votes if isinstance(vote, BaseException))
        if fatal := next((error for error in errors if not isinstance(error, OperatorFailureError)), None):
            raise fatal
        counts = Counter(vote for vote in votes if isinstance(vote, int))
        if not counts:
            raise OperatorFailureError("none of the votes could be parsed")
        return state.with_candidate(candidates[max(sorted(counts), key=lambda index: counts[index])])

    async def _vote(self, order: list[int], state: State, call: OperatorCall) -> int:
        shuffled = [state.candidates[index] for index in order]
        return order[await _choose("MdEnsemble", shuffled, state, call)]


def _shuffled(count: int, rng: random.Random) -> list[int]:
    order = list(range(count))
    rng.shuffle(order)
    return order


async def _choose(operator: str, candidates: list[Candidate], state: State, call: OperatorCall) -> int:
    """Let the model choose a candidate by its letter; returns the index of that candidate."""
    # Not strict: candidates beyond the alphabet have no letter, so they cannot be chosen.
    lettered = "\n".join(f"{letter}: {c.text}" for letter, c in zip(LETTERS, candidates, strict=False))

    prompt = render(operator, problem=state.problem.statement, candidates=lettered)
    reply = await call.ask_for(prompt, tagged("choice", choices={"choice": LETTERS[: len(candidates)]}))
    return LETTERS.index(reply["choice"])
