"""The evaluation command: loads problems and policies, evaluates them, and writes the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..data import Row, load_rows, normal_form, selection_split, split_digest
from ..dsl import format_workflow, parse
from ..engine import Engine
from ..errors import DataError, RecipeError
from ..event_loops import run_coroutine
from ..llm import SIMULATED, LLMClient
from ..operators import OperatorRegistry, Problem
from ..policies import Policy, choose_budget, is_adapter, read_spec, weights_digest
from ..rollouts import Rollouts
from ..storage import check_or_write_settings, versions, write_json
from .baselines import evaluate
from .report import markdown_evaluation, plot_evaluation
from .systems import SystemEvaluator

DEFAULT_WORKFLOWS = (
    "Custom",
    "AnswerGenerate",
    "Programmer",
    "CustomCodeGenerate -> Test",
    "Custom -> Review ? Revise : done",
    "Programmer -> Review ? Revise : done",
    "[AnswerGenerate, AnswerGenerate, AnswerGenerate] -> ScEnsemble",
    "[AnswerGenerate, Programmer, Custom] -> ScEnsemble",
)
"""Fixed workflows that are evaluated where the user lists none."""
SETTINGS_FILE = "evaluation_settings.json"


@dataclass(frozen=True, slots=True)
class PolicyChoice:
    """A policy to evaluate."""

    model: str
    """Output folder of a run, adapter, model folder or Hub id."""
    checkpoint: int | None = None
    """Step of a checkpoint in the output folder. Defaults to the final model."""
    prompt: str | None = None
    """Name of the prompt. Defaults to that of the training."""
    temperature: float | None = None
    """Sampling temperature; 0 decodes greedily. Defaults to that of the training."""
    budget: str | None = None
    """Budget that it is asked for. Defaults to each that it was trained for."""

    def __post_init__(self) -> None:
        if self.temperature is not None and not self.temperature >= 0:
            raise RecipeError(f"the temperature must be 0 or more, got {self.temperature:g}. 0 decodes greedily.")


def run_evaluation(
    engine: Engine,
    *,
    data: str,
    valid: str | None,
    policy: PolicyChoice | None,
    workflows: Sequence[str],
    seeds: Sequence[int],
    limit: int,
    out: Path,
    on_progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """
    Evaluate a policy and its baselines, and write `results.json`, `results.md` and `accuracy_cost.png` into a folder.

    Args:
        engine ([`~aflow_trl.engine.Engine`]):
            Runs the workflows. Its connections are closed at the end.
        data (`str`):
            Problems to report on.
        valid (`str`, *optional*):
            Problems that the best fixed workflow is chosen on.
        policy ([`PolicyChoice`], *optional*):
            Policy. If it is an adapter, its base model is evaluated as the untrained policy.
        workflows (`Sequence[str]`):
            Fixed workflows; [`DEFAULT_WORKFLOWS`] if empty.
        seeds (`Sequence[int]`):
            Seeds of the repetitions.
        limit (`int`):
            Maximum number of problems.
        out (`Path`):
            Folder to write. Finished results of an earlier evaluation with the same settings are not repeated.
        on_progress (`Callable[[str, int, int], None]`):
            Called with the name of a system, its number of finished problems and the number of all.

    Returns:
        `dict[str, Any]`: The report, as in `results.json`.

    Raises:
        [`RecipeError`]: An argument is wrong, or the folder holds an evaluation with other settings.
        [`DataError`]: A problem is in both `data` and `valid`.
    """
    if limit < 1:
        raise RecipeError(f"the number of problems (--limit) must be at least 1, got {limit}.")
    listed = [format_workflow(parse(text, vocabulary=engine.vocabulary)) for text in workflows or DEFAULT_WORKFLOWS]
    rows, valid_rows = _load_problems(data, valid, limit)
    # Without workflows and seeds: results are stored for each of them, so further ones can be added to the folder.
    settings = {
        "data": split_digest(rows),
        "valid": split_digest(valid_rows) if valid_rows else None,
        # A digest of the weights, because a training may have gone on in the same folder.
        "policy": policy and asdict(policy) | {"weights": weights_digest(policy.model, policy.checkpoint)},
        "executor": ", ".join(
            f"{client.config.executor_model} {client.config.executor_base_url}" for client in engine.executors
        ),
    }
    check_or_write_settings(out / SETTINGS_FILE, settings, "Name another folder with --out.")
    rollouts = Rollouts(engine)
    evaluator = SystemEvaluator(rollouts, rows, out / "test", seeds, on_progress)
    validation = SystemEvaluator(rollouts, valid_rows, out / "valid", seeds, on_progress) if valid_rows else None
    policies = _policies(policy, rows, engine.operators) if policy is not None else {}

    async def work() -> dict[str, Any]:
        try:
            await engine.preflight()
            return await evaluate(evaluator, policies=policies, workflows=listed, validation=validation)
        finally:
            await engine.aclose()

    report = run_coroutine(work())
    report |= {"executor": _executor_name(engine.client), "settings": settings, "versions": versions()}
    write_json(out / "results.json", report)
    (out / "results.md").write_text(markdown_evaluation(report), encoding="utf-8")
    plot_evaluation(report, out / "accuracy_cost.png")
    return report


def _load_problems(data: str, valid: str | None, limit: int) -> tuple[list[Row], list[Row] | None]:
    """Problems to report on, and those that the best fixed workflow is chosen on."""
    rows = load_rows(data, split="test", count=limit, seed=0)
    valid_rows = load_rows(valid, split=selection_split(valid), count=limit, seed=0) if valid else None
    # By normal form, because a copy that differs in case, punctuation or spacing is the same problem.
    if shared := {normal_form(row) for row in rows} & {normal_form(row) for row in valid_rows or ()}:
        raise DataError(
            f"{len(shared)} problems are in both {data} and {valid}. Remove them from one of the two: a "
            "workflow chosen on the reported problems looks better than it is."
        )
    return rows, valid_rows


def _policies(
    choice: PolicyChoice, rows: Sequence[Row], operators: OperatorRegistry
) -> Mapping[str, Callable[[int], Sequence[str]]]:
    """
    Functions from a seed to a completion per problem, of the trained policy at each budget, the largest first, and,
    for an adapter, of its base model.
    """
    problems = [Problem(row.question, row.domain, row.context) for row in rows]
    # The untrained policy is sampled at the temperature of the trained one, or their difference would be partly that
    # of the temperatures.
    temperature, spec = choice.temperature, read_spec(choice.model)
    if temperature is None:
        temperature = spec.sampling.temperature
    largest = choose_budget(choice.budget, spec.budgets)

    def sampler(trained: bool, budget: str) -> Callable[[int], list[str]]:
        loaded: list[Policy] = []

        def draw(seed: int) -> list[str]:
            if not loaded:  # only when it is needed: all of its results may be on disk
                loaded.append(
                    Policy(
                        choice.model,
                        operators,
                        checkpoint=choice.checkpoint,
                        prompt=choice.prompt,
                        trained=trained,
                        budget=budget or None,
                    )
                )
            completions = loaded[0].compose(problems, samples=1, temperature=temperature, seed=seed)
            return [texts[0] for texts in completions]

        return draw

    policies = {"trained policy": sampler(True, largest)}
    if choice.budget is None:
        for budget in reversed(spec.budgets[:-1]):
            policies[f"trained policy, {budget} budget"] = sampler(True, budget)
    if is_adapter(choice.model, choice.checkpoint):
        policies["untrained policy"] = sampler(False, largest)
    return policies


def _executor_name(client: LLMClient) -> str:
    simulated = client.config.executor_base_url == SIMULATED
    return "simulated executor" if simulated else f"{client.config.executor_model} at {client.host}"
