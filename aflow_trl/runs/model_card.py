"""What a finished run adds to the model card of its policy: usage, operators, results, recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult

from ..trainer import CardContent

LANGUAGE = (
    "The language is `A -> B` (in sequence), `[A, B] -> Ensemble` (in parallel), `X ? Y : Z` (a condition), `(S) * n` "
    "(repetition) and `done`, between `<workflow>` tags. The operators:"
)


def compose_card(
    summary: Mapping[str, Any],
    *,
    policy: str,
    system_prompt: str,
    operators: str,
    executor: Mapping[str, str],
    data: str,
) -> CardContent:
    """
    The card of a compose run.

    Args:
        summary (`Mapping[str, Any]`):
            Content of `summary.json`.
        policy (`str`):
            Hub id or folder of the policy.
        system_prompt (`str`):
            System prompt that the policy was trained with.
        operators (`str`):
            Operators the policy composes, one per line.
        executor (`Mapping[str, str]`):
            Address and model of the executor.
        data (`str`):
            Held-out problems.
    """
    accuracy = summary["accuracy"]
    labels = {name: name for name in ("untrained", "custom", "best_fixed", "trained")}
    labels |= {"custom": "`Custom` (one call)", "best_fixed": f"best fixed: `{summary['best_fixed_workflow']}`"}
    table = ["| | accuracy | 95 % interval | calls per problem |", "|---|---|---|---|"]
    for name, label in labels.items():
        row = accuracy[name]
        interval = f"{row['low']:.3f}–{row['high']:.3f}"
        table.append(f"| {label} | {row['mean']:.3f} | {interval} | {row['calls_per_problem']:.2f} |")
    count = accuracy["trained"]["n"]
    address = ", ".join(f"{name}={json.dumps(value)}" for name, value in executor.items())
    usage = f"""Needs `aflow_trl` and the key of an OpenAI-compatible endpoint, which executes the workflow:

```python
from aflow_trl import run
from aflow_trl.llm import ExecutorConfig

answered = run("What is 6 * 7?", policy={json.dumps(policy)}, executor=ExecutorConfig({address}))
print(answered.best.workflow, answered.best.answer)
```

The policy was trained with this system prompt, which `run` adds:

```text
{system_prompt}
```"""
    sections = _sections(
        {
            "Workflows": f"{LANGUAGE}\n\n{operators}",
            f"Results on {count} held-out problems, executed by {summary['executor']}": "\n".join(table),
        },
        summary["recipe"],
    )
    return CardContent(
        usage=usage, sections=sections, results=[_result("accuracy", "Accuracy", accuracy["trained"], data)]
    )


def chat_usage(policy: str, messages: Sequence[Mapping[str, str]], max_new_tokens: int) -> str:
    """
    Markdown that shows how to ask a policy with its prompt, by transformers alone.

    Args:
        policy (`str`):
            Hub id or folder of the policy.
        messages (`Sequence[Mapping[str, str]]`):
            Chat messages of an example.
        max_new_tokens (`int`):
            Maximum number of tokens of the reply.
    """
    content = "".join(f"    {json.dumps(dict(message), ensure_ascii=False)},\n" for message in messages)
    return f"""```python
from transformers import pipeline

messages = [
{content}]
generator = pipeline("text-generation", model={json.dumps(policy)})
print(generator(messages, max_new_tokens={max_new_tokens}, return_full_text=False)[0]["generated_text"])
```"""


def task_card(
    summary: Mapping[str, Any],
    *,
    about: str,
    usage: str,
    metric: str,
    figures: Mapping[str, Mapping[str, float]],
    operators: str,
    data: str,
) -> CardContent:
    """
    The card of an improve or reason run.

    Args:
        summary (`Mapping[str, Any]`):
            Content of `summary.json`.
        about (`str`):
            What the policy does and what the results measure.
        usage (`str`):
            Markdown that shows how to ask it.
        metric (`str`):
            Name of the metric.
        figures (`Mapping[str, Mapping[str, float]]`):
            `mean`, `low`, `high` and `n` of each row of the table.
        operators (`str`):
            Operators the policy composes, one per line; empty if it composes none.
        data (`str`):
            Held-out problems.
    """
    table = [f"| | {metric} | 95 % interval | n |", "|---|---|---|---|"]
    for name, row in figures.items():
        table.append(f"| {name} | {row['mean']:.3f} | {row['low']:.3f} to {row['high']:.3f} | {row['n']} |")
    parts = {"Workflows": f"{LANGUAGE}\n\n{operators}"} if operators else {}
    sections = _sections(parts | {"Results": "\n".join(table)}, summary["recipe"])
    result = _result(metric.replace(" ", "_"), metric.capitalize(), figures["trained"], data)
    return CardContent(about=about, usage=usage, sections=sections, results=[result])


def _sections(parts: Mapping[str, str], recipe: Mapping[str, Any]) -> str:
    public = {name: _without_folders(value) for name, value in recipe.items()}
    text = yaml.safe_dump(public, sort_keys=False).strip()
    parts = {**parts, "Recipe": f"```yaml\n{text}\n```"}
    return "\n\n".join(f"## {heading}\n\n{content}" for heading, content in parts.items())


def _without_folders(value: Any) -> Any:
    """A path of this machine as the name of its file."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _result(kind: str, name: str, figures: Mapping[str, float], data: str) -> EvalResult:
    interval = {key: round(figures[key], 4) for key in ("low", "high")} | {"n": figures["n"]}
    is_local = Path(data).exists()
    return EvalResult(
        task_type="text-generation",
        dataset_type="private" if is_local else data,
        dataset_name=Path(data).stem if is_local else data,
        metric_type=kind,
        metric_value=round(figures["mean"], 4),
        metric_name=f"{name} on held-out problems (95 % interval {interval['low']}–{interval['high']})",
        metric_args=interval,
    )
