"""An operator for executors that are too small to follow a described form: it shows two examples of it."""

from __future__ import annotations

from collections.abc import Mapping

from aflow_trl.operators import Candidate, Operator, State, operator
from aflow_trl.operators.base import OperatorCall

SHOTS = [
    ("Ivan lives in Lyon and works as a clerk.\n\nWhere does Ivan live?", "The answer is Lyon."),
    ("Bea lives in Sofia and works as a miner.\n\nWhat is the job of Bea?", "The answer is miner."),
]


@operator(description="Looks a fact up in the passage.", max_calls=1)
class Lookup(Operator):
    """(problem) → a short answer from its passage."""

    async def run(self, state: State, arguments: Mapping[str, str], call: OperatorCall) -> State:
        return state.with_candidate(Candidate(await call.ask(state.problem.statement, shots=SHOTS)))
