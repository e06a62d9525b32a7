"""The baselines, and everything side by side."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from ..dsl import format_workflow, parse, sample_workflow
from ..rollouts import Rollouts
from .comparison import best_on, oracle, paired_difference, summarize_system
from .results import Evaluation

SINGLE, COT = "Custom", "AnswerGenerate"
MAX_VOTES = 9


def votes_at_equal_cost(calls: float) -> int:
    """Samples of chain of thought that cost about as much."""
    return max(2, min(MAX_VOTES, round(calls)))


def self_consistency(votes: int) -> str:
    """Workflow of self-consistency."""
    return f"[{', '.join([COT] * votes)}] -> ScEnsemble"


def random_workflows(rollouts: Rollouts, count: int) -> Callable[[int], list[str]]:
    """A valid workflow for each problem, drawn without regard to it; by seed."""
    words = rollouts.engine.vocabulary

    def draw(seed: int) -> list[str]:
        dice = random.Random(seed)
        return [format_workflow(sample_workflow(dice, vocabulary=words)) for _ in range(count)]

    return draw


def fixed(text: str, count: int, rollouts: Rollouts) -> Callable[[int], list[str]]:
    """One workflow for all problems."""
    canonical = format_workflow(parse(text, vocabulary=rollouts.engine.vocabulary))
    return lambda seed: [canonical] * count


async def evaluate(
    evaluation: Evaluation,
    *,
    policies: Mapping[str, Callable[[int], Sequence[str]]],
    workflows: Sequence[str],
    validation: Evaluation | None,
) -> dict[str, Any]:
    """
    Policies, baselines, and what perfect choice among the listed workflows would get.

    Args:
        evaluation ([`Evaluation`]):
            Problems to report on.
        policies (`Mapping[str, Callable[[int], Sequence[str]]]`):
            Completions of each policy, by seed.
        workflows (`Sequence[str]`):
            Fixed workflows.
        validation ([`Evaluation`], *optional*):
            Problems to choose the best fixed workflow on. If `None`, none is reported as chosen.

    Returns:
        `dict[str, Any]`: `systems` by name as [`summarize_system`] gives them, `best_fixed`, and `differences` of
        every policy from the best baseline.
    """
    own, count = evaluation.rollouts, len(evaluation.rows)
    results = {name: await evaluation.run(name, texts) for name, texts in policies.items()}
    first = next(iter(results.values()), None)
    calls = fmean(one.calls for runs in first for one in runs) if first else 5.0
    votes = votes_at_equal_cost(calls)
    results[f"single call: {SINGLE}"] = await evaluation.run(SINGLE, fixed(SINGLE, count, own))
    results[f"chain of thought: {COT}"] = await evaluation.run(COT, fixed(COT, count, own))
    consistency = self_consistency(votes)
    name = f"self-consistency of {votes}"
    results[name] = await evaluation.run(consistency, fixed(consistency, count, own))
    results["random valid workflow"] = await evaluation.run("random", random_workflows(own, count))
    listed = {text: await evaluation.run(text, fixed(text, count, own)) for text in workflows}
    baselines = [name for name in results if name not in policies]
    chosen = None
    if validation is not None and listed:
        size = len(validation.rows)
        chosen = best_on({text: await validation.run(text, fixed(text, size, own)) for text in listed})
        results["best fixed, chosen on validation"] = listed[chosen]
        baselines.append("best fixed, chosen on validation")
    if len(listed) > 1:
        results["oracle over the list"] = oracle(listed)
    reference = best_on({name: results[name] for name in baselines})
    shown = results | {text: own for text, own in listed.items() if text not in (SINGLE, COT)}
    return {
        "systems": {name: summarize_system(own, evaluation.rows) for name, own in shown.items()},
        "best_fixed": chosen,
        "best_baseline": reference,
        "differences": {name: paired_difference(results[name], results[reference]) for name in policies},
        "problems": count,
        "seeds": list(evaluation.seeds),
    }
