"""Interpreter of the workflow language: runs one workflow on one problem."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from ..answers import vote_key
from ..dsl import MODEL, Chain, Conditional, Done, Node, Operator, Parallel, Repeat, Workflow, walk
from ..errors import BudgetExceededError, RejectedRequestError
from ..llm import LLMClient, Priority
from ..operators import (
    OperatorCall,
    OperatorFailureError,
    OperatorRegistry,
    Problem,
    State,
    final_answer,
)
from ..text import model_text
from .priority import remaining_calls
from .single_flight import Numbering, SingleFlight, digest
from .trace import Budget, NodeRecord, total

Lanes: TypeAlias = tuple[State, ...]
Execution: TypeAlias = tuple[State, NodeRecord]
"""Result of one operator run, shared by all callers with the same key."""
DEFAULT_MODEL = ""
"""Key of the executor that serves every operator without a dedicated one."""


@dataclass(frozen=True, slots=True)
class Flow:
    """Result of a node: its lanes, whether `done` was reached in a loop, and the seconds on its critical path."""

    lanes: Lanes
    exits_loop: bool = False
    seconds: float = 0.0


class Interpreter:
    """
    Runs one workflow on one problem.

    Args:
        clients (`Mapping[str, LLMClient]`):
            Executors by the operator they serve; `""` serves all others.
        operators ([`~aflow_trl.operators.OperatorRegistry`]):
            Operators the workflow may use.
        executions ([`SingleFlight`]):
            Executions of the step to which this rollout belongs.
        problem ([`~aflow_trl.operators.Problem`]):
            Problem to solve.
        budget ([`Budget`]):
            Budget of the workflow.
        salt (`str`):
            Separates the randomness of this step from that of other steps.
    """

    def __init__(
        self,
        clients: Mapping[str, LLMClient],
        operators: OperatorRegistry,
        executions: SingleFlight[Execution],
        problem: Problem,
        budget: Budget,
        salt: str,
    ) -> None:
        # Filled as the workflow runs, so that a rollout that fails midway still has a trace.
        self.nodes: list[NodeRecord] = []
        self.first_answer: str | None = None
        self._first_rank: tuple[float, int] = (math.inf, 0)
        self._source_order: dict[int, int] = {}
        self._remaining: dict[int, int] = {}
        self._clients, self._operators = clients, operators
        self._executions, self._problem, self._budget = executions, problem, budget
        self._problem_key = digest(problem.domain, problem.statement, problem.entry_point, problem.public_tests, salt)

    async def run(self, workflow: Workflow) -> tuple[str, float]:
        """
        Run the workflow.

        Args:
            workflow ([`~aflow_trl.dsl.Workflow`]):
                Workflow that passes the static checks.

        Returns:
            `tuple[str, float]`: Final answer (a majority vote if several candidates remain, the first wins ties) and
            the seconds on the critical path.

        Raises:
            [`BudgetExceededError`]: The workflow exceeded its budget.
            [`EndpointError`]: An endpoint did not deliver.
        """
        self._remaining = remaining_calls(workflow.root, self._operators.vocabulary)
        self._source_order = {id(node): index for index, (node, _) in enumerate(walk(workflow.root))}
        lanes = (State(self._problem),)
        flow = await self._run(workflow.root, lanes, Numbering(_key(lanes)), in_loop=False)
        return self._answer(self._vote(flow.lanes)), flow.seconds

    async def _run(self, node: Node, lanes: Lanes, numbering: Numbering, *, in_loop: bool) -> Flow:
        match node:
            case Operator():
                return await self._run_operator(node, lanes, numbering)
            case Chain():
                return await self._run_chain(node, lanes, numbering, in_loop=in_loop)
            case Parallel():
                return await self._run_parallel(node, lanes, numbering)
            case Conditional():
                return await self._run_conditional(node, lanes, numbering, in_loop=in_loop)
            case Repeat():
                return await self._run_repeat(node, lanes, numbering)
            case Done():
                return Flow(lanes, exits_loop=in_loop)

    async def _run_chain(self, node: Chain, lanes: Lanes, numbering: Numbering, *, in_loop: bool) -> Flow:
        seconds = 0.0
        for step in node.steps:
            flow = await self._run(step, lanes, numbering, in_loop=in_loop)
            lanes, seconds = flow.lanes, seconds + flow.seconds
            if flow.exits_loop:
                return Flow(lanes, exits_loop=True, seconds=seconds)
        return Flow(lanes, seconds=seconds)

    async def _run_repeat(self, node: Repeat, lanes: Lanes, numbering: Numbering) -> Flow:
        seconds = 0.0
        for _ in range(node.times):
            flow = await self._run(node.body, lanes, numbering, in_loop=True)
            lanes, seconds = flow.lanes, seconds + flow.seconds
            if flow.exits_loop:
                break
        # `exits_loop` is not passed on: `done` leaves the innermost loop only.
        return Flow(lanes, seconds=seconds)

    async def _run_parallel(self, node: Parallel, lanes: Lanes, numbering: Numbering) -> Flow:
        """Run every branch on the incoming lanes; each leaves one lane, and `done` in a branch ends only that one."""
        state = _key(lanes)
        flows = await _gather(
            self._run(branch, lanes, numbering.branch(state, node.branches[:index]), in_loop=False)
            for index, branch in enumerate(node.branches)
        )
        # Each branch is reduced to one lane, so that the number of lanes is that of the static bound.
        return Flow(tuple(self._vote(flow.lanes) for flow in flows), seconds=max(flow.seconds for flow in flows))

    async def _run_conditional(self, node: Conditional, lanes: Lanes, numbering: Numbering, *, in_loop: bool) -> Flow:
        """Run condition and branch for each lane separately; a loop exits once every lane has reached `done`."""

        async def run_lane(lane: State, numbering: Numbering) -> Flow:
            condition = await self._run(node.condition, (lane,), numbering, in_loop=False)
            # Only a negative verdict counts: an operator that failed gives none, and must not trigger a repair.
            branch = node.negative if condition.lanes[0].verdict is False else node.otherwise
            flow = await self._run(branch, condition.lanes, numbering, in_loop=in_loop)
            return Flow((self._vote(flow.lanes),), flow.exits_loop, condition.seconds + flow.seconds)

        if len(lanes) == 1:
            return await run_lane(lanes[0], numbering)
        flows = await _gather(run_lane(*pair) for pair in _number_lanes(node, lanes, numbering))
        exits_loop, seconds = all(flow.exits_loop for flow in flows), max(flow.seconds for flow in flows)
        return Flow(tuple(lane for flow in flows for lane in flow.lanes), exits_loop, seconds)

    async def _run_operator(self, node: Operator, lanes: Lanes, numbering: Numbering) -> Flow:
        if len(lanes) == 1:
            return await self._call(node, lanes[0], numbering)
        if self._operators[node.name].spec.is_ensemble:
            candidates = tuple(candidate for lane in lanes for candidate in lane.candidates)
            return await self._call(node, State(self._problem, candidates), numbering)
        flows = await _gather(self._call(node, *pair) for pair in _number_lanes(node, lanes, numbering))
        return Flow(tuple(flow.lanes[0] for flow in flows), seconds=max(flow.seconds for flow in flows))

    async def _call(self, node: Operator, state: State, numbering: Numbering) -> Flow:
        state_key = _key((state,))
        sample = numbering.draw((node.name, node.arguments), state_key)
        key = digest(node.name, node.arguments, self._problem_key, state_key, sample)
        (state, record), shared = await self._executions.get(
            key, lambda priority: self._execute(node, state, sample, key, priority), self._remaining[id(node)]
        )
        self.nodes.append(replace(record, shared=shared))
        self._check_budget()
        # First in source order, not first to finish: branches finish in any order.
        rank = (self._source_order[id(node)], sample)
        if state.candidates and rank < self._first_rank:
            self._first_rank, self.first_answer = rank, self._answer(state)
        return Flow((state,), seconds=record.wall_s - record.queued_s)

    async def _execute(self, node: Operator, state: State, sample: int, key: str, priority: Priority) -> Execution:
        arguments = {name: str(value) for name, value in node.arguments}
        if self._operators.models and MODEL in arguments:
            client = self._clients[arguments.pop(MODEL)]
        else:
            client = self._clients.get(node.name, self._clients[DEFAULT_MODEL])
        # Derived from the key: equal calls draw equal samples even where they are not shared.
        call = OperatorCall(client, seed=int(key[:15], 16), priority=priority)
        started = time.monotonic()
        failure, rejected = "", 0
        try:
            state = await self._operators[node.name]().run(state, arguments, call)
        except (OperatorFailureError, RejectedRequestError) as error:
            failure = f"{type(error).__name__}: {error}"
            rejected = int(isinstance(error, RejectedRequestError))
            # An ensemble that fails keeps its first candidate: later steps expect a single lane.
            state = replace(state, candidates=state.candidates[:1], verdict=None)
        candidate = state.candidates[0] if state.candidates else None
        usages = [completion.usage for completion in call.completions]
        costs = [client.config.cost(usage) for usage in usages]
        paid = [cost for cost, completion in zip(costs, call.completions, strict=True) if not completion.cached]
        return state, NodeRecord(
            operator=node.name,
            model=client.config.executor_model,
            arguments=dict(node.arguments),
            sample=sample,
            key=key,
            text=candidate.text if candidate else "",
            answer=candidate.answer if candidate else None,
            feedback=state.feedback,
            verdict=state.verdict,
            model_calls=len(usages),
            prompt_tokens=sum(usage.prompt_tokens for usage in usages),
            completion_tokens=sum(usage.completion_tokens for usage in usages),
            estimated_usage=any(usage.estimated for usage in usages),
            usd=total(costs),
            wall_s=time.monotonic() - started,
            queued_s=sum(completion.queued_s for completion in call.completions),
            calls_s=sum(completion.wall_s for completion in call.completions if not completion.cached),
            parse_errors=call.parse_errors,
            asked_again=call.asked_again,
            truncated=sum(completion.truncated for completion in call.completions),
            refused=sum(completion.refused for completion in call.completions),
            thought_out=sum(completion.thought_out for completion in call.completions),
            thinking=model_text(call.completions[-1].thinking) if call.completions else "",
            rejected=rejected,
            cached_calls=sum(completion.cached for completion in call.completions),
            paid_usd=total(paid),
            failure=failure,
        )

    def _check_budget(self) -> None:
        # Checked after every operator run and on sums only, so that the outcome does not depend on which branch
        # finishes first.
        calls = sum(node.model_calls - node.asked_again for node in self.nodes)
        tokens = sum(node.prompt_tokens + node.completion_tokens for node in self.nodes)
        if calls > self._budget.max_calls:
            raise BudgetExceededError(f"more than {self._budget.max_calls} model calls")
        if tokens > self._budget.max_tokens:
            raise BudgetExceededError(f"{tokens} tokens, more than {self._budget.max_tokens}")

    def _vote(self, lanes: Lanes) -> State:
        """The lane whose answer the largest number of lanes share; the first wins ties."""
        # A lane without a candidate has no vote.
        voters = [lane for lane in lanes if lane.candidates] or list(lanes)
        keys = [vote_key(self._answer(lane), self._problem.domain) for lane in voters]
        counts = Counter(keys)
        return max(zip(voters, keys, strict=True), key=lambda pair: counts[pair[1]])[0]

    def _answer(self, lane: State) -> str:
        return final_answer(lane.candidates[0], self._problem.domain) if lane.candidates else ""


def _number_lanes(node: Node, lanes: Lanes, numbering: Numbering) -> list[tuple[State, Numbering]]:
    """Lanes with a numbering for each, so that equal lanes draw different samples."""
    keys = [_key((lane,)) for lane in lanes]
    return [
        (lane, numbering.branch(key, [node] * keys[:index].count(key)))
        for index, (lane, key) in enumerate(zip(lanes, keys, strict=True))
    ]


def _key(lanes: Lanes) -> str:
    return digest([lane.fingerprint() for lane in lanes])


async def _gather(flows: Iterable[Awaitable[Flow]]) -> list[Flow]:
    """Run all flows concurrently; if one fails, the others are stopped before the failure is raised."""
    # `asyncio.TaskGroup` does this from Python 3.11 on, but raises an exception group.
    tasks = [asyncio.ensure_future(flow) for flow in flows]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
