"""Runs a batch of workflows: everything at once, a trace for each, whatever happens inside."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from ..dsl import DEFAULT_LIMITS, Extraction, Limits, Vocabulary, Workflow, analyze, extract, format_workflow
from ..errors import AflowError, BudgetExceededError, FatalEndpointError
from ..llm import LLMClient
from ..operators import DEFAULT_OPERATORS, OperatorRegistry
from .garbage_collection import no_full_collections
from .interpreter import DEFAULT_MODEL, Executed, Interpreter
from .single_flight import Shared
from .trace import Budget, Outcome, RolloutRequest, Trace

logger = logging.getLogger(__name__)

DEFAULT_STEP_TIMEOUT_S = 1_800.0
STARTS_AT_ONCE = 16
"""Rollouts that may start in one turn of the event loop: parsing one takes up to a millisecond."""
KNOWN_TEXTS = 4_096
"""Completions whose workflow is remembered: the same ones come again in a group and from step to step."""
SHARE_MODES = ("step", "group", "off")


class Engine:
    """
    Executes workflows on operators through one executor.

    Args:
        client ([`~aflow_trl.llm.LLMClient`]):
            The executor.
        operators ([`~aflow_trl.operators.OperatorRegistry`], *optional*):
            Operators a workflow may name. Defaults to [`~aflow_trl.operators.DEFAULT_OPERATORS`].
        limits ([`~aflow_trl.dsl.Limits`], *optional*):
            Static limits of a workflow.
        budget ([`Budget`], *optional*):
            What one workflow may spend when it runs.
        step_timeout_s (`float`, *optional*, defaults to `1800.0`):
            Deadline of one batch in seconds; what has not ended by then is `unavailable`.
        share (`str`, *optional*, defaults to `"step"`):
            Which equal operator calls are one execution: those of the whole batch (`"step"`), of a group (`"group"`),
            or none (`"off"`: equal calls still draw equal samples, each paid for by itself).
        models (`Mapping[str, LLMClient]`, *optional*):
            Executors of their own for some operators.

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
        """Executors by the operator they serve."""
        self.operators = DEFAULT_OPERATORS if operators is None else operators
        self.limits = limits
        self.budget = budget or Budget()
        self.step_timeout_s = step_timeout_s
        self._extractions: dict[str, Extraction] = {}
        self.fatal: FatalEndpointError | None = None
        """Set once no later call can succeed; the run has to stop."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Specs of the operators a workflow may name."""
        return self.operators.vocabulary

    async def run(
        self,
        requests: Sequence[RolloutRequest],
        *,
        salt: str = "",
        on_trace: Callable[[int, Trace], None] | None = None,
    ) -> list[Trace]:
        """
        Run a batch. Equal operator calls are made once (see `sharing.py`).

        Args:
            requests (`Sequence[RolloutRequest]`):
                Workflows and problems.
            salt (`str`, *optional*, defaults to `""`):
                Sets the randomness of this batch apart from other batches'.
            on_trace (`Callable[[int, Trace], None]`, *optional*):
                Called with index and trace as soon as a rollout has ended, once for each request.

        Returns:
            `list[Trace]`: One trace for each request, in order, always.
        """
        told = on_trace or (lambda index, trace: None)
        with no_full_collections():
            ended = await self._run_all(requests, salt, told)
        traces = []
        for index, (request, trace) in enumerate(zip(requests, ended, strict=True)):
            if not isinstance(trace, Trace):
                trace = self._lost(request, trace)
                told(index, trace)
            traces.append(trace)
        return traces

    async def _run_all(
        self, requests: Sequence[RolloutRequest], salt: str, on_trace: Callable[[int, Trace], None]
    ) -> list[Trace | BaseException]:
        async def one(index: int, request: RolloutRequest) -> Trace:
            trace = await self._rollout(request, shared, salt)
            on_trace(index, trace)
            return trace

        shared: Shared[Executed] = Shared(enabled=self.share != "off")
        started: dict[int, asyncio.Task[Trace]] = {}
        tasks: list[asyncio.Task[Trace]] = []
        try:
            for index in sorted(range(len(requests)), key=lambda index: -_apparent_steps(requests[index])):
                started[index] = asyncio.ensure_future(one(index, requests[index]))
                if len(started) % STARTS_AT_ONCE == 0:
                    # The first run while the others are still to be parsed, and the loop serves others in between.
                    await asyncio.sleep(0)
            tasks = [started[index] for index in range(len(requests))]
            if tasks:
                await asyncio.wait(tasks, timeout=self.step_timeout_s)
            for task in tasks:
                task.cancel()
            return await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for task in started.values():
                task.cancel()
            await shared.close()

    async def _rollout(self, request: RolloutRequest, shared: Shared[Executed], salt: str) -> Trace:
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
        if self.share == "group":
            salt = f"{salt} {request.group}"
        interpreter = Interpreter(self.clients, self.operators, shared, request.problem, self.budget, salt)
        try:
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
            if len(self._extractions) >= KNOWN_TEXTS:
                self._extractions.clear()
            self._extractions[workflow] = extract(workflow, vocabulary=self.vocabulary, limits=self.limits)
        return self._extractions[workflow]

    def canonical(self, text: str) -> str | None:
        """Canonical workflow of a completion or a bare workflow; `None` if it holds none."""
        workflow = self._extraction(text).workflow
        return None if workflow is None else format_workflow(workflow)

    def note_fatal(self, error: Exception) -> None:
        """Remember an error after which no call can succeed; others are ignored."""
        if isinstance(error, FatalEndpointError) and self.fatal is None:
            self.fatal = error
            logger.error("the run has to stop: %s", error)

    def _lost(self, request: RolloutRequest, reason: BaseException) -> Trace:
        """Trace of a rollout that was cut off by the deadline or by an unexpected error in an operator."""
        if not isinstance(reason, asyncio.CancelledError):
            logger.error("a rollout failed unexpectedly", exc_info=reason)
            return Trace(Outcome.UNAVAILABLE, request.problem, label=type(reason).__name__, detail=str(reason))
        detail = f"not finished within the step's {self.step_timeout_s:g} s"
        return Trace(Outcome.UNAVAILABLE, request.problem, label="deadline", detail=detail)


def _apparent_steps(request: RolloutRequest) -> int:
    """Length of a workflow as it shows before parsing: the longest start first, or short ones take the places."""
    return request.workflow.count("->") if isinstance(request.workflow, str) else 0
