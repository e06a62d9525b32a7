"""
The simulated optimizer: it answers a prompt for a better workflow with a random edit of the current one.

It has no notion of quality, so a search that improves with it does so by its measurements alone.
"""

from __future__ import annotations

import random
import re

from ..dsl import (
    DEFAULT_LIMITS,
    Chain,
    Conditional,
    Done,
    Node,
    Operator,
    Parallel,
    Workflow,
    builtin_vocabulary,
    chain,
    check,
    format_workflow,
    parse,
    sample_workflow,
)
from ..errors import DSLError

# Follows the template `improve` of the prompt `full` in `configs/policy_prompts.yaml`.
_PROMPT = re.compile(r"A workflow is used for .*?<workflow>(.*?)</workflow>", re.DOTALL)
_VOTES = 3
ATTEMPTS = 20
"""Maximum number of edits to draw until one is valid."""


def current_workflow(prompt: str) -> str | None:
    """Workflow that a prompt asks to improve; `None` if the prompt asks for something else."""
    match = _PROMPT.match(prompt)
    return match.group(1).strip() if match else None


def propose(workflow: str, rng: random.Random) -> str:
    """
    Write a reply with a random edit of a workflow.

    Args:
        workflow (`str`):
            Current workflow.
        rng (`random.Random`):
            Source of randomness.

    Returns:
        `str`: The reply. It proposes a new random workflow if the current one cannot be parsed or no edit is valid.
    """
    vocabulary = builtin_vocabulary()
    for _ in range(ATTEMPTS):
        # An edit may break a limit or a rule of the language, such as an ensemble without candidates.
        try:
            edited = Workflow(_edit(parse(workflow).root, rng))
            check(edited, vocabulary=vocabulary, limits=DEFAULT_LIMITS)
        except DSLError:
            continue
        return f"One change.\n<workflow>{format_workflow(edited)}</workflow>"
    return f"Something else.\n<workflow>{format_workflow(sample_workflow(rng, vocabulary=vocabulary))}</workflow>"


def _edit(root: Node, rng: random.Random) -> Node:
    steps = list(root.steps) if isinstance(root, Chain) else [root]
    names = [name for name, spec in builtin_vocabulary().items() if not spec.is_ensemble]
    draw = rng.random()
    # Append a review, vote on one step, insert a step, replace a step, or delete a step.
    if draw < 0.25:
        steps.append(Conditional(Operator("Review"), Operator("Revise"), Done()))
    elif draw < 0.5:
        index = rng.randrange(len(steps))
        if getattr(steps[index], "name", "") in names:
            steps[index : index + 1] = [Parallel((steps[index],) * _VOTES), Operator("ScEnsemble")]
    elif draw < 0.7:
        steps.insert(rng.randrange(len(steps) + 1), Operator(rng.choice(names)))
    elif draw < 0.9:
        steps[rng.randrange(len(steps))] = Operator(rng.choice(names))
    elif len(steps) > 1:
        del steps[rng.randrange(len(steps))]
    return chain(*steps)
