"""
The simulated optimizer: answers a prompt that asks for a better workflow with a random edit of the current one.

It knows nothing of what is good; whatever a search finds with it, the measurements found.
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

_PROMPT = re.compile(r"A workflow is used for .*?<workflow>(.*?)</workflow>", re.DOTALL)
_VOTES = 3
ATTEMPTS = 20


def current_workflow(prompt: str) -> str | None:
    """The workflow that a prompt asks to improve; `None` if it asks for something else."""
    match = _PROMPT.match(prompt)
    return match.group(1).strip() if match else None


def propose(workflow: str, rng: random.Random) -> str:
    """
    A reply with one random edit of a workflow.

    Args:
        workflow (`str`):
            Current workflow.
        rng (`random.Random`):
            Source of randomness.

    Returns:
        `str`: The reply; a new random workflow where the current one cannot be read or no edit is valid.
    """
    words = builtin_vocabulary()
    for _ in range(ATTEMPTS):
        try:
            edited = Workflow(_edit(parse(workflow).root, rng))
            check(edited, vocabulary=words, limits=DEFAULT_LIMITS)
        except DSLError:
            continue
        return f"One change.\n<workflow>{format_workflow(edited)}</workflow>"
    return f"Something else.\n<workflow>{format_workflow(sample_workflow(rng, vocabulary=words))}</workflow>"


def _edit(root: Node, rng: random.Random) -> Node:
    steps = list(root.steps) if isinstance(root, Chain) else [root]
    names = [name for name, spec in builtin_vocabulary().items() if not spec.is_ensemble]
    draw = rng.random()
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
