"""Policies and baselines side by side on one data file: accuracy with intervals, cost, and what was left unscored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data import Row, load_rows, normal_form, selection_split, split_digest
from ..dsl import Vocabulary, format_workflow, parse
from ..engine import Engine
from ..errors import DataError
from ..llm import SIMULATED, LLMClient
from ..operators import Problem, vocabulary
from ..rollouts import Rollouts
from ..storage import check_or_write_settings, versions, write_json
from .baselines import evaluate
from .report import markdown_evaluation, plot_evaluation
from .results import Evaluation

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
"""The list, if none is given."""


def run_evaluation(
    client: LLMClient,
    *,
    data: str,
    valid: str | None,
    model: str | None,
    checkpoint: int | None,
    prompt: str | None,
    temperature: float | None,
    workflows: Sequence[str],
    seeds: Sequence[int],
    limit: int,
    out: Path,
    progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """
    Evaluate from files to files: `results.json`, `results.md` and `accuracy_cost.png` in a folder.

    Args:
        client ([`~aflow_trl.llm.LLMClient`]):
            The executor.
        data (`str`):
            Problems.
        valid (`str`, *optional*):
            Problems to choose the best fixed workflow on.
        model (`str`, *optional*):
            Policy; if it is an adapter, the model it was made for is evaluated as well, as the untrained policy.
        checkpoint (`int`, *optional*):
            Checkpoint of the policy.
        prompt (`str`, *optional*):
            Prompt of the policy.
        temperature (`float`, *optional*):
            Of the policy's sampling. Defaults to that of its training.
        workflows (`Sequence[str]`):
            Fixed workflows. If empty, a short list.
        seeds (`Sequence[int]`):
            Repetitions.
        limit (`int`):
            Most problems.
        out (`Path`):
            Folder to write; what it holds of an earlier run with the same settings is used.
        progress (`Callable[[str, int, int], None]`):
            Told of what is done.

    Returns:
        `dict[str, Any]`: The report.

    Raises:
        [`RecipeError`]: Something given is wrong, or the folder holds another evaluation.
    """
    from ..policies import weights_digest

    words = vocabulary()
    listed = [format_workflow(parse(text, vocabulary=words)) for text in workflows or DEFAULT_WORKFLOWS]
    rows = load_rows(data, split="test", count=limit, seed=0)
    valid_rows = load_rows(valid, split=selection_split(valid), count=limit, seed=0) if valid else None
    if shared := {normal_form(row) for row in rows} & {normal_form(row) for row in valid_rows or ()}:
        raise DataError(
            f"{len(shared)} problems are in both {data} and {valid}. Choose on other problems than tested."
        )
    settings = {
        "data": split_digest(rows),
        "valid": split_digest(valid_rows) if valid_rows else None,
        "model": model and f"{model} {weights_digest(model, checkpoint)} {prompt or ''} {temperature or ''}",
        "executor": f"{client.config.executor_model} {client.config.executor_base_url}",
    }
    check_or_write_settings(out / "settings.json", settings, "Name another folder with --out.")
    rollouts = Rollouts(Engine(client, vocabulary=words))
    evaluation = Evaluation(rollouts, rows, out / "test", seeds, progress)
    validation = Evaluation(rollouts, valid_rows, out / "valid", seeds, progress) if valid_rows else None
    policies = _policies(model, checkpoint, prompt, temperature, rows, words) if model else {}

    async def work() -> dict[str, Any]:
        try:
            return await evaluate(evaluation, policies=policies, workflows=listed, validation=validation)
        finally:
            await client.aclose()

    report = asyncio.run(work()) | {"executor": _executor_name(client), "settings": settings, "versions": versions()}
    write_json(out / "results.json", report)
    (out / "results.md").write_text(markdown_evaluation(report), encoding="utf-8")
    plot_evaluation(report, out / "accuracy_cost.png")
    return report


def _policies(
    model: str,
    checkpoint: int | None,
    prompt: str | None,
    temperature: float | None,
    rows: Sequence[Row],
    words: Vocabulary,
) -> Mapping[str, Callable[[int], Sequence[str]]]:
    from ..policies import Policy, is_adapter, trained_sampling

    sampling = trained_sampling(model) | ({} if temperature is None else {"temperature": temperature})
    problems = [Problem(row.question, row.domain, row.context) for row in rows]

    def completions(trained: bool) -> Callable[[int], list[str]]:
        loaded: list[Policy] = []

        def draw(seed: int) -> list[str]:
            if not loaded:
                loaded.append(Policy(model, words, checkpoint=checkpoint, prompt=prompt, trained=trained))
            return [own[0] for own in loaded[0].compose(problems, samples=1, sampling=sampling, seed=seed)]

        return draw

    policies = {"trained policy": completions(True)}
    if is_adapter(model, checkpoint):
        policies["untrained policy"] = completions(False)
    return policies


def _executor_name(client: LLMClient) -> str:
    simulated = client.config.executor_base_url == SIMULATED
    return "simulated executor" if simulated else f"{client.config.executor_model} at {client.host}"
