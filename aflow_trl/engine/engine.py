"""The engine: runs a batch of workflows concurrently and returns a trace for each, whatever happens inside."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from ..dsl import DEFAULT_LIMITS, Extraction, Limits, Vocabulary, Workflow, analyze, extract, format_workflow
from ..errors import AflowError, BudgetExceededError, FatalEndpointError
from ..llm import LLMClient
from ..operators import DEFAULT_OPERATORS, OperatorRegistry, preflight
from .garbage_collection import no_full_collections
from .interpreter import DEFAULT_MODEL, Execution, Interpreter
from .single_flight import SingleFlight
from .trace import Budget, Outcome, RolloutRequest, Trace

logger = logging.getLogger(__name__)

DEFAULT_STEP_TIMEOUT_S = 1_800.0
STARTS_PER_TURN = 16
"""Rollouts that may start in one turn of the event loop: parsing one takes up to a millisecond."""
MAX_CACHED_EXTRACTIONS = 4_096
"""Completions whose extraction is cached: equal completions recur within a group and from step to step."""
SHARE_MODES = ("step", "group", "off")


class Engine:
    """
    Runs workflows on operators.

    Args:
        client ([`~aflow_trl.llm.LLMClient`]):
            Client of the executor.
        operators ([`~aflow_trl.operators.OperatorRegistry`], *optional*):
            Operators a workflow may use. Defaults to [`~aflow_trl.operators.DEFAULT_OPERATORS`].
        limits ([`~aflow_trl.dsl.Limits`], *optional*):
            Static limits of a workflow.
        budget ([`Budget`], *optional*):
            Budget of a running workflow. Defaults to `Budget()`.
        step_timeout_s (`float`, *optional*, defaults to `1800.0`):
            Deadline of a batch in seconds; rollouts that have not finished by then are `unavailable`.
        share (`str`, *optional*, defaults to `"step"`):
            Scope within which equal operator calls are one execution: the whole batch (`"step"`), a group (`"group"`),
            or nothing (`"off"`: equal calls still draw equal samples, but each is paid for).
        models (`Mapping[str, LLMClient]`, *optional*):
            Clients of further executors: by the operator that they serve, or by the name that a workflow calls them
            by, as in `Review(model="strong")`.

    Raises:
        `ValueError`: `share` is not one of these modes.

    Example:

    ```python
    >>> engine = Engine(LLMClient(ExecutorConfig(executor_base_url="http://localhost:8000/v1", ...)))
    >>> traces = await engine.run([RolloutRequest("Custom -> Review ? Revise : done", Problem("What is 6 * 7?"))])
    >>> traces[0].answer
    '42'
    ```
    """

    def __init__(
        self,
        client: LLMClient,
        *,
        operators: OperatorRegistry | None = None,
        limits: Limits = DEFAULT_LIMITS,
        budget: Budget | None = None,
        step_timeout_s: float = DEFAULT_STEP_TIMEOUT_S,
        share: str = "step",
        models: Mapping[str, LLMClient] | None = None,
    ) -> None:
        if share not in SHARE_MODES:
            raise ValueError(f"share is {share!r}. Use one of {', '.join(SHARE_MODES)}.")
        self.share = share
        self.client = client
        self.clients = {DEFAULT_MODEL: client, **(models or {})}
        """Clients by the operator they serve, or by the name that workflows know them by."""
        operators = DEFAULT_OPERATORS if operators is None else operators
        named = tuple(name for name in models or () if name not in operators)
        # The registry itself where nothing differs: operators may still be added to it.
        self.operators = operators if named == operators.models else operators.with_models(named)
        self.limits = limits
        self.budget = budget or Budget()
        self.step_timeout_s = step_timeout_s
        self._extractions: dict[str, Extraction] = {}
        self.fatal: FatalEndpointError | None = None
        """First error after which no call can succeed; once it is set, the run has to stop."""

    @property
    def executors(self) -> list[LLMClient]:
        """The clients, each once, the default one first."""
        return list(dict.fromkeys(self.clients.values()))

    @property
    def concurrency(self) -> int:
        """Model calls that may be in flight at once, over all executors."""
        return sum(client.concurrency for client in self.executors)

    async def preflight(self) -> None:
        """
        Find out what every executor takes and gives, before the first workflow.

        Raises:
            [`FatalEndpointError`]: One can serve no call.
        """
        for client in self.executors:
            await preflight(client)

    async def aclose(self) -> None:
        """Close the connections of all executors, on the running event loop."""
        for client in self.executors:
            await client.aclose()

    @property
    def vocabulary(self) -> Vocabulary:
        """Specs of the operators a workflow may use."""
        return self.operators.vocabulary

    async def run(
        self,
        requests: Sequence[RolloutRequest],
        *,
        salt: str = "",
        on_trace: Callable[[int, Trace], None] | None = None,
    ) -> list[Trace]:
        """
        Run a batch. Equal operator calls are executed once (see `single_flight.py`).

        Args:
            requests (`Sequence[RolloutRequest]`):
                Workflows and problems.
            salt (`str`, *optional*, defaults to `""`):
                Separates the randomness of this batch from that of other batches.
            on_trace (`Callable[[int, Trace], None]`, *optional*):
                Called once for each request, with its index and trace, as soon as the rollout has finished.

        Returns:
            `list[Trace]`: One trace for each request, in order, even if rollouts fail.
        """
        report = on_trace or (lambda index, trace: None)
        with no_full_collections():
            results = await self._run_all(requests, salt, report)
        traces = []
        for index, (request, result) in enumerate(zip(requests, results, strict=True)):
            if isinstance(result, Trace):
                trace = result
            else:
                trace = self._unfinished(request, result)
                report(index, trace)
            traces.append(trace)
        return traces

    async def _run_all(
        self, requests: Sequence[RolloutRequest], salt: str, report: Callable[[int, Trace], None]
    ) -> list[Trace | BaseException]:
        async def run_one(index: int, request: RolloutRequest) -> Trace:
            trace = await self._rollout(request, executions, salt)
            report(index, trace)
            return trace

        executions: SingleFlight[Execution] = SingleFlight(enabled=self.share != "off")
        started: dict[int, asyncio.Task[Trace]] = {}
        try:
            # Long workflows start first; otherwise short ones take the slots, and the batch ends on a long one alone.
            for index in sorted(range(len(requests)), key=lambda index: -_estimated_steps(requests[index])):
                started[index] = asyncio.ensure_future(run_one(index, requests[index]))
                if len(started) % STARTS_PER_TURN == 0:
                    # The first ones run while the others are still to be parsed, and other tasks get their turns.
                    await asyncio.sleep(0)
            tasks = [started[index] for index in range(len(requests))]
            if tasks:
                await asyncio.wait(tasks, timeout=self.step_timeout_s)
            for task in tasks:
                task.cancel()
            return await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            # Reached early if the batch itself is cancelled.
            for task in started.values():
                task.cancel()
            await executions.close()

    async def _rollout(self, request: RolloutRequest, executions: SingleFlight[Execution], salt: str) -> Trace:
        extraction = self._extraction(request.workflow)
        workflow = extraction.workflow
        if workflow is None:
            error = extraction.error
            label, detail = (error.label, str(error)) if error else ("invalid", "")
            return Trace(Outcome.INVALID, request.problem, label=label, detail=detail, repairs=extraction.repairs)
        analysis = analyze(workflow, vocabulary=self.vocabulary)
        trace = Trace(
            Outcome.OK,
            request.problem,
            workflow=format_workflow(workflow),
            repairs=extraction.repairs,
            operators=analysis.operators,
            depth=analysis.depth,
        )
        started = time.monotonic()
        # The salt is part of every key, so calls of different groups never share one.
        if self.share == "group":
            salt = f"{salt} {request.group}"
        interpreter = Interpreter(self.clients, self.operators, executions, request.problem, self.budget, salt)
        try:
            # Rollouts that start after a fatal error need not find it out again by a failing call.
            if self.fatal is not None:
                raise self.fatal
            trace.answer, trace.critical_path_s = await interpreter.run(workflow)
        except BudgetExceededError as error:
            trace.outcome, trace.label, trace.detail = Outcome.OVER_BUDGET, "budget", str(error)
        except AflowError as error:
            self.note_fatal(error)
            trace.outcome, trace.label, trace.detail = Outcome.UNAVAILABLE, type(error).__name__, str(error)
        trace.nodes = interpreter.nodes
        trace.first_answer = interpreter.first_answer or ""
        trace.wall_s = time.monotonic() - started
        return trace

    def _extraction(self, workflow: Workflow | Extraction | str) -> Extraction:
        if isinstance(workflow, Workflow):
            return Extraction(workflow, None)
        if isinstance(workflow, Extraction):
            return workflow
        if workflow not in self._extractions:
            # Cleared rather than evicted in order: what recurs is cached again within a step.
            if len(self._extractions) >= MAX_CACHED_EXTRACTIONS:
                self._extractions.clear()
            self._extractions[workflow] = extract(workflow, vocabulary=self.vocabulary, limits=self.limits)
        return self._extractions[workflow]

    def canonical(self, text: str) -> str | None:
        """Canonical workflow of a completion or a bare workflow; `None` if the text contains no valid workflow."""
        workflow = self._extraction(text).workflow
        return None if workflow is None else format_workflow(workflow)

    def note_fatal(self, error: Exception) -> None:
        """Store the first error after which no call can succeed; other errors are ignored."""
        if isinstance(error, FatalEndpointError) and self.fatal is None:
            self.fatal = error
            logger.error("the run has to stop: %s", error)

    def _unfinished(self, request: RolloutRequest, reason: BaseException) -> Trace:
        """Trace of a rollout that was stopped by the deadline or by an unexpected error in an operator."""
        if not isinstance(reason, asyncio.CancelledError):
            logger.error("a rollout failed unexpectedly", exc_info=reason)
            return Trace(Outcome.UNAVAILABLE, request.problem, label=type(reason).__name__, detail=str(reason))
        detail = f"not finished within the step's deadline of {self.step_timeout_s:g} s"
        return Trace(Outcome.UNAVAILABLE, request.problem, label="deadline", detail=detail)


def _estimated_steps(request: RolloutRequest) -> int:
    """Rough length of a workflow before it is parsed."""
    return request.workflow.count("->") if isinstance(request.workflow, str) else 0
