"""Runs one workflow on one problem: the meaning of every form of the language."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from ..dsl import Chain, Conditional, Done, Node, Operator, Parallel, Repeat, Workflow, walk
from ..errors import BudgetExceededError, RejectedRequestError
from ..llm import LLMClient, Priority
from ..operators import (
    OperatorCall,
    OperatorFailureError,
    OperatorRegistry,
    Problem,
    State,
    final_answer,
    vote_key,
)
from .priority import remaining_calls
from .single_flight import Numbering, Shared, digest
from .trace import Budget, NodeRecord, total

Lanes: TypeAlias = tuple[State, ...]
DEFAULT_MODEL = ""
"""Stands for every operator that has no executor of its own."""


@dataclass(frozen=True, slots=True)
class Executed:
    """Result of one operator run, shared by everybody with the same key."""

    state: State
    model_calls: int
    prompt_tokens: int
    completion_tokens: int
    estimated_usage: bool
    usd: float | None
    wall_s: float
    parse_errors: int
    asked_again: int
    truncated: int
    refused: int
    rejected: int
    cached_calls: int
    paid_usd: float | None
    failure: str


@dataclass(frozen=True, slots=True)
class Flow:
    """What a node leaves: its lanes, whether `done` was reached, and the seconds on its critical path."""

    lanes: Lanes
    left: bool = False
    seconds: float = 0.0


class Interpreter:
    """
    Runs one workflow on one problem.

    Args:
        clients (`Mapping[str, LLMClient]`):
            Executors by the operator they serve; `""` serves the others.
        operators ([`~aflow_trl.operators.OperatorRegistry`]):
            Operators the workflow may name.
        shared ([`Shared`]):
            Executions of the step this rollout belongs to.
        problem ([`~aflow_trl.operators.Problem`]):
            Problem to solve.
        budget ([`Budget`]):
            What the workflow may spend.
        salt (`str`):
            Sets this step's randomness apart from other steps'.
    """

    def __init__(
        self,
        clients: Mapping[str, LLMClient],
        operators: OperatorRegistry,
        shared: Shared[Executed],
        problem: Problem,
        budget: Budget,
        salt: str,
    ) -> None:
        self.nodes: list[NodeRecord] = []
        self.first_answer: str | None = None
        self._first_place: tuple[float, int] = (math.inf, 0)
        self._order: dict[int, int] = {}
        self._remaining: dict[int, int] = {}
        self._clients, self._operators = clients, operators
        self._shared, self._problem, self._budget = shared, problem, budget
        self._problem_key = digest(problem.domain, problem.statement, problem.entry_point, problem.public_tests, salt)

    async def run(self, workflow: Workflow) -> tuple[str, float]:
        """
        Run the workflow.

        Returns:
            `tuple[str, float]`: Final answer (a majority vote if several candidates are left, first wins ties) and the
            seconds on the critical path.
        """
        self._remaining = remaining_calls(workflow.root, self._operators.vocabulary)
        self._order = {id(node): order for order, (node, _) in enumerate(walk(workflow.root))}
        start = (State(self._problem),)
        flow = await self._run(workflow.root, start, Numbering(_key(start)), in_loop=False)
        return self._answer(self._vote(flow.lanes)), flow.seconds

    async def _run(self, node: Node, lanes: Lanes, numbering: Numbering, *, in_loop: bool) -> Flow:
        match node:
            case Operator():
                return await self._operator(node, lanes, numbering)
            case Chain():
                return await self._sequence(node, lanes, numbering, in_loop=in_loop)
            case Parallel():
                return await self._parallel(node, lanes, numbering)
            case Conditional():
                return await self._conditional(node, lanes, numbering, in_loop=in_loop)
            case Repeat():
                return await self._repeat(node, lanes, numbering)
            case Done():
                return Flow(lanes, left=in_loop)

    async def _sequence(self, node: Chain, lanes: Lanes, numbering: Numbering, *, in_loop: bool) -> Flow:
        seconds = 0.0
        for step in node.steps:
            flow = await self._run(step, lanes, numbering, in_loop=in_loop)
            lanes, seconds = flow.lanes, seconds + flow.seconds
            if flow.left:
                return Flow(lanes, left=True, seconds=seconds)
        return Flow(lanes, seconds=seconds)

    async def _repeat(self, node: Repeat, lanes: Lanes, numbering: Numbering) -> Flow:
        seconds = 0.0
        for _ in range(node.times):
            flow = await self._run(node.body, lanes, numbering, in_loop=True)
            lanes, seconds = flow.lanes, seconds + flow.seconds
            if flow.left:
                break
        return Flow(lanes, seconds=seconds)

    async def _parallel(self, node: Parallel, lanes: Lanes, numbering: Numbering) -> Flow:
        """Every branch starts from the incoming lanes and leaves one; `done` in a branch ends that branch only."""
        state = _key(lanes)
        flows = await _gather(
            self._run(branch, lanes, numbering.branch(state, node.branches[:index]), in_loop=False)
            for index, branch in enumerate(node.branches)
        )
        return Flow(tuple(self._vote(flow.lanes) for flow in flows), seconds=max(flow.seconds for flow in flows))

    async def _conditional(self, node: Conditional, lanes: Lanes, numbering: Numbering, *, in_loop: bool) -> Flow:
        """Each lane is judged and goes its own way; a loop is left once every lane has reached `done`."""

        async def judge(lane: State, own: Numbering) -> Flow:
            condition = await self._run(node.condition, (lane,), own, in_loop=False)
            branch = node.negative if condition.lanes[0].verdict is False else node.otherwise
            flow = await self._run(branch, condition.lanes, own, in_loop=in_loop)
            return Flow((self._vote(flow.lanes),), flow.left, condition.seconds + flow.seconds)

        if len(lanes) == 1:
            return await judge(lanes[0], numbering)
        flows = await _gather(judge(lane, own) for lane, own in _map(node, lanes, numbering))
        left, seconds = all(flow.left for flow in flows), max(flow.seconds for flow in flows)
        return Flow(tuple(lane for flow in flows for lane in flow.lanes), left, seconds)

    async def _operator(self, node: Operator, lanes: Lanes, numbering: Numbering) -> Flow:
        if len(lanes) == 1:
            return await self._call(node, lanes[0], numbering)
        if self._operators[node.name].spec.is_ensemble:
            candidates = tuple(candidate for lane in lanes for candidate in lane.candidates)
            return await self._call(node, State(self._problem, candidates), numbering)
        flows = await _gather(self._call(node, lane, own) for lane, own in _map(node, lanes, numbering))
        return Flow(tuple(flow.lanes[0] for flow in flows), seconds=max(flow.seconds for flow in flows))

    async def _call(self, node: Operator, state: State, numbering: Numbering) -> Flow:
        state_key = _key((state,))
        sample = numbering.draw((node.name, node.arguments), state_key)
        key = digest(node.name, node.arguments, self._problem_key, state_key, sample)
        done, shared = await self._shared.get(
            key, lambda priority: self._execute(node, state, key, priority), self._remaining[id(node)]
        )
        self._record(node, sample, key, done, shared)
        self._check_budget()
        place = (self._order[id(node)], sample)
        if done.state.candidates and place < self._first_place:
            # First as the workflow is written, not first to end: branches end in any order.
            self._first_place, self.first_answer = place, self._answer(done.state)
        return Flow((done.state,), seconds=done.wall_s)

    async def _execute(self, node: Operator, state: State, key: str, priority: Priority) -> Executed:
        client = self._clients.get(node.name, self._clients[DEFAULT_MODEL])
        call = OperatorCall(client, seed=int(key[:15], 16), priority=priority)
        started = time.monotonic()
        failure, rejected = "", 0
        try:
            arguments = {name: str(value) for name, value in node.arguments}
            state = await self._operators[node.name]().run(state, arguments, call)
        except (OperatorFailureError, RejectedRequestError) as error:
            failure = f"{type(error).__name__}: {error}"
            rejected = int(isinstance(error, RejectedRequestError))
            state = replace(state, candidates=state.candidates[:1], verdict=None)
        usages = [completion.usage for completion in call.completions]
        costs = [client.config.price.cost(usage) for usage in usages]
        paid = [cost for cost, completion in zip(costs, call.completions, strict=True) if not completion.cached]
        return Executed(
            state=state,
            model_calls=len(usages),
            prompt_tokens=sum(usage.prompt_tokens for usage in usages),
            completion_tokens=sum(usage.completion_tokens for usage in usages),
            estimated_usage=any(usage.estimated for usage in usages),
            usd=total(costs),
            cached_calls=sum(completion.cached for completion in call.completions),
            paid_usd=total(paid),
            wall_s=time.monotonic() - started,
            parse_errors=call.parse_errors,
            asked_again=call.asked_again,
            truncated=sum(completion.truncated for completion in call.completions),
            refused=sum(completion.refused for completion in call.completions),
            rejected=rejected,
            failure=failure,
        )

    def _record(self, node: Operator, sample: int, key: str, done: Executed, shared: bool) -> None:
        candidate = done.state.candidates[0] if done.state.candidates else None
        self.nodes.append(
            NodeRecord(
                operator=node.name,
                arguments=dict(node.arguments),
                sample=sample,
                key=key,
                text=candidate.text if candidate else "",
                answer=candidate.answer if candidate else None,
                feedback=done.state.feedback,
                verdict=done.state.verdict,
                model_calls=done.model_calls,
                prompt_tokens=done.prompt_tokens,
                completion_tokens=done.completion_tokens,
                estimated_usage=done.estimated_usage,
                usd=done.usd,
                wall_s=done.wall_s,
                shared=shared,
                parse_errors=done.parse_errors,
                asked_again=done.asked_again,
                truncated=done.truncated,
                refused=done.refused,
                rejected=done.rejected,
                cached_calls=done.cached_calls,
                paid_usd=done.paid_usd,
                failure=done.failure,
            )
        )

    def _check_budget(self) -> None:
        # Checked after every run of an operator: whether it is exceeded depends on sums alone, never on which branch
        # ends first.
        calls = sum(node.model_calls - node.asked_again for node in self.nodes)
        tokens = sum(node.prompt_tokens + node.completion_tokens for node in self.nodes)
        if calls > self._budget.max_calls:
            raise BudgetExceededError(f"more than {self._budget.max_calls} model calls")
        if tokens > self._budget.max_tokens:
            raise BudgetExceededError(f"{tokens} tokens, more than {self._budget.max_tokens}")

    def _vote(self, lanes: Lanes) -> State:
        """The lane whose answer most lanes agree on; the first wins ties."""
        filled = [lane for lane in lanes if lane.candidates] or list(lanes)
        keys = [vote_key(self._answer(lane), self._problem.domain) for lane in filled]
        counts = Counter(keys)
        return max(zip(filled, keys, strict=True), key=lambda pair: counts[pair[1]])[0]

    def _answer(self, lane: State) -> str:
        return final_answer(lane.candidates[0], self._problem.domain) if lane.candidates else ""


def _map(node: Node, lanes: Lanes, numbering: Numbering) -> list[tuple[State, Numbering]]:
    """Lanes with a numbering each: equal lanes draw different samples."""
    keys = [_key((lane,)) for lane in lanes]
    return [
        (lane, numbering.branch(key, [node] * keys[:index].count(key)))
        for index, (lane, key) in enumerate(zip(lanes, keys, strict=True))
    ]


def _key(lanes: Lanes) -> str:
    return digest([lane.fingerprint() for lane in lanes])


async def _gather(flows: Iterable[Coroutine[Any, Any, Flow]]) -> list[Flow]:
    """All flows at once; if one fails, the others end before the failure is raised."""
    tasks = [asyncio.ensure_future(flow) for flow in flows]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
