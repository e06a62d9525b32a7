"""Running and evaluating workflows from Python, in scripts and notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .dsl import format_workflow, parse
from .engine import Engine
from .errors import RecipeError
from .evaluation import PolicyChoice, run_evaluation
from .event_loops import run_coroutine
from .inference import Answered, Question, answer_questions
from .llm import SIMULATED, ExecutorConfig, LLMClient
from .operators import Problem
from .policies import Policy
from .scoring import domain_remedy, known_domains
from .simulator import simulated_client


def run(
    question: str,
    *,
    executor: ExecutorConfig | LLMClient,
    workflow: str = "Custom",
    policy: str | None = None,
    best_of: int | None = None,
    budget: str | None = None,
    domain: str = "math",
    context: str = "",
    entry_point: str | None = None,
    seed: int = 0,
    models: Mapping[str, ExecutorConfig] | None = None,
) -> Answered:
    """
    Answer a question with a workflow, fixed or composed by a policy.

    Args:
        question (`str`):
            Question.
        executor ([`~aflow_trl.llm.ExecutorConfig`] or [`~aflow_trl.llm.LLMClient`]):
            The model that operators call.
        workflow (`str`, *optional*, defaults to `"Custom"`):
            Workflow to run.
        policy (`str`, *optional*):
            Policy that composes the workflow instead: output folder of a run, adapter, model folder or Hub id.
        best_of (`int`, *optional*):
            Number of workflows that the policy samples; their answers are voted on.
        budget (`str`, *optional*):
            How much a workflow may cost: one of the budgets that the policy was trained for. Defaults to the largest.
        domain (`str`, *optional*, defaults to `"math"`):
            `"math"`, `"code"`, `"qa"`, or one that [`~aflow_trl.scoring.scorer`] has added.
        context (`str`, *optional*, defaults to `""`):
            Passages that the question is about.
        entry_point (`str`, *optional*):
            Function that a programming task asks for.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the executor's sampling.
        models (`Mapping[str, ExecutorConfig]`, *optional*):
            Further executors, by the operator they serve or by the name that a workflow calls them by.

    Returns:
        [`Answered`]: The answer, with a trace of every workflow.

    Raises:
        [`DSLError`]: The workflow is not valid.
        [`FatalEndpointError`]: The executor cannot be used.

    Example:

    ```python
    from aflow_trl import run
    from aflow_trl.llm import ExecutorConfig

    answered = run("What is 6 * 7?", executor=ExecutorConfig(executor_model="gpt-4o-mini"))
    print(answered.best.answer)
    ```
    """
    if domain not in known_domains():
        raise RecipeError(f"domain is {domain!r}. {domain_remedy()}")
    if budget is not None and policy is None:
        raise RecipeError(
            f"budget is {budget!r}, but there is no policy to ask for it. Name one, or remove the budget."
        )
    engine = engine_of(executor, models)
    problem = Problem(question, domain, context, entry_point)
    if policy is None:
        workflows = [[format_workflow(parse(workflow, vocabulary=engine.vocabulary))]]
    else:
        composer = Policy(policy, engine.operators, budget=budget)
        workflows = composer.compose([problem], samples=best_of, seed=seed)

    async def answer() -> Answered:
        try:
            await engine.preflight()
            questions = [Question("", problem)]
            answers = [item async for item in answer_questions(engine, questions, workflows, salt=str(seed))]
            return answers[0]
        finally:
            await engine.aclose()

    return run_coroutine(answer())


def evaluate(
    data: str,
    *,
    executor: ExecutorConfig | LLMClient,
    policy: str | None = None,
    workflows: Sequence[str] = (),
    valid: str | None = None,
    seeds: Sequence[int] = (0,),
    limit: int = 300,
    out: str | Path = "evaluation",
    models: Mapping[str, ExecutorConfig] | None = None,
) -> dict[str, Any]:
    """
    Evaluate a policy and baselines on problems, as `aflow-trl eval`.

    Args:
        data (`str`):
            Problems: a file, a Hub dataset, or `"synthetic"`.
        executor ([`~aflow_trl.llm.ExecutorConfig`] or [`~aflow_trl.llm.LLMClient`]):
            The model that operators call.
        policy (`str`, *optional*):
            Output folder of a run, adapter, model folder or Hub id.
        workflows (`Sequence[str]`, *optional*, defaults to `()`):
            Fixed workflows. If empty, a list of common ones.
        valid (`str`, *optional*):
            Problems that the best fixed workflow is chosen on.
        seeds (`Sequence[int]`, *optional*, defaults to `(0,)`):
            Seeds of the repetitions.
        limit (`int`, *optional*, defaults to `300`):
            Maximum number of problems.
        out (`str` or `Path`, *optional*, defaults to `"evaluation"`):
            Folder to write; an interrupted evaluation in it is continued.
        models (`Mapping[str, ExecutorConfig]`, *optional*):
            Further executors, as for [`run`].

    Returns:
        `dict[str, Any]`: The report, as in `results.json`.
    """
    return run_evaluation(
        engine_of(executor, models),
        data=data,
        valid=valid,
        policy=None if policy is None else PolicyChoice(policy),
        workflows=workflows,
        seeds=seeds,
        limit=limit,
        out=Path(out),
        on_progress=lambda name, finished, total: None,
    )


def client_of(executor: ExecutorConfig | LLMClient) -> LLMClient:
    """The client of an executor, which may be the simulated one."""
    if isinstance(executor, LLMClient):
        return executor
    return simulated_client(executor) if executor.executor_base_url == SIMULATED else LLMClient(executor)


def engine_of(executor: ExecutorConfig | LLMClient, models: Mapping[str, ExecutorConfig] | None) -> Engine:
    """The engine of an executor and of further ones."""
    return Engine(client_of(executor), models={name: client_of(config) for name, config in (models or {}).items()})
