"""Evaluation of policies and baselines on the same problems, with the same executor randomness."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from ..dsl import format_workflow, parse, sample_workflow
from ..rollouts import Rollouts
from .comparison import best_on, oracle_choice, paired_difference, pass_at_k, summarize_system
from .systems import Results, SystemEvaluator

SINGLE_CALL, CHAIN_OF_THOUGHT = "Custom", "AnswerGenerate"
DEFAULT_VOTES = 5
"""Number of self-consistency samples where there is no policy whose cost they should match."""
MAX_VOTES = 9
"""Maximum number of self-consistency samples."""


def votes_at_equal_cost(calls: float) -> int:
    """Number of chain-of-thought samples that cost about as many calls per problem as a policy does."""
    return max(2, min(MAX_VOTES, round(calls)))


def self_consistency(votes: int) -> str:
    """Workflow of self-consistency: a vote over independent chains of thought."""
    return f"[{', '.join([CHAIN_OF_THOUGHT] * votes)}] -> ScEnsemble"


# The functions below take a seed, as a policy's do: `SystemEvaluator` repeats every system once for each seed.


def random_workflows(rollouts: Rollouts, count: int) -> Callable[[int], list[str]]:
    """Function from a seed to `count` random valid workflows, drawn without looking at the problems."""
    vocabulary = rollouts.engine.vocabulary

    def draw(seed: int) -> list[str]:
        rng = random.Random(seed)
        return [format_workflow(sample_workflow(rng, vocabulary=vocabulary)) for _ in range(count)]

    return draw


def fixed(text: str, count: int, rollouts: Rollouts) -> Callable[[int], list[str]]:
    """Function from a seed to `count` copies of a workflow."""
    canonical = format_workflow(parse(text, vocabulary=rollouts.engine.vocabulary))
    return lambda seed: [canonical] * count


async def evaluate(
    evaluator: SystemEvaluator,
    *,
    policies: Mapping[str, Callable[[int], Sequence[str]]],
    workflows: Sequence[str],
    validation: SystemEvaluator | None,
) -> dict[str, Any]:
    """
    Evaluate policies and baselines, and bound what a choice among the listed workflows could reach.

    Args:
        evaluator ([`SystemEvaluator`]):
            Runs systems on the problems to report on.
        policies (`Mapping[str, Callable[[int], Sequence[str]]]`):
            Function of each policy from a seed to a completion for each problem.
        workflows (`Sequence[str]`):
            Fixed workflows.
        validation ([`SystemEvaluator`], *optional*):
            Runs systems on the problems that the best fixed workflow is chosen on. If `None`, none is chosen: a choice
            by the reported problems would flatter it.

    Returns:
        `dict[str, Any]`: `systems`, by name, as [`summarize_system`] returns them; `bounds`, the names of those that
        are upper bounds; `best_fixed`, the workflow chosen on validation; `best_baseline`; `differences` of every
        policy from it; and the numbers of `problems` and `seeds`.
    """
    rollouts, count = evaluator.rollouts, len(evaluator.rows)
    results = {name: await evaluator.run(name, texts) for name, texts in policies.items()}
    baselines = _baselines(next(iter(results.values()), None))
    for name, text in baselines.items():
        results[name] = await evaluator.run(text, fixed(text, count, rollouts))
    results["random valid workflow"] = await evaluator.run("random", random_workflows(rollouts, count))
    listed = {text: await evaluator.run(text, fixed(text, count, rollouts)) for text in workflows}
    compared = [name for name in results if name not in policies]
    best_fixed = None
    if validation is not None and listed:
        size = len(validation.rows)
        on_validation = {text: await validation.run(text, fixed(text, size, rollouts)) for text in listed}
        best_fixed = best_on(on_validation)
        results["best fixed, chosen on validation"] = listed[best_fixed]
        compared.append("best fixed, chosen on validation")
    best_baseline = best_on({name: results[name] for name in compared})
    bounds = _bounds(listed)
    # The two that are baselines too have their rows already.
    others = {text: runs for text, runs in listed.items() if text not in (SINGLE_CALL, CHAIN_OF_THOUGHT)}
    return {
        "systems": {
            name: summarize_system(runs, evaluator.rows) for name, runs in (results | bounds | others).items()
        },
        "bounds": list(bounds),
        "best_fixed": best_fixed,
        "best_baseline": best_baseline,
        "differences": {name: paired_difference(results[name], results[best_baseline]) for name in policies},
        "problems": count,
        "seeds": list(evaluator.seeds),
    }


def _baselines(policy_results: Results | None) -> dict[str, str]:
    """Workflows of the baselines by name; self-consistency at the cost of the policy, where there is one."""
    votes = DEFAULT_VOTES
    if policy_results is not None:
        votes = votes_at_equal_cost(fmean(result.calls for runs in policy_results for result in runs))
    return {
        f"single call: {SINGLE_CALL}": SINGLE_CALL,
        f"chain of thought: {CHAIN_OF_THOUGHT}": CHAIN_OF_THOUGHT,
        f"self-consistency of {votes}": self_consistency(votes),
    }


def _bounds(listed: Mapping[str, Results]) -> dict[str, Results]:
    """
    Upper bounds for a choice among the listed workflows.

    They choose by the answers, which no system can: they are reported, and nothing is compared with them.
    """
    if len(listed) < 2:
        return {}
    bounds = {f"pass@{len(listed)} over the list": pass_at_k(listed)}
    if (choice := oracle_choice(listed)) is not None:
        bounds["oracle choice from the list"] = choice
    return bounds
