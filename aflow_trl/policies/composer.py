"""A trained policy that composes workflows for problems, ready for inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..data import PolicyPrompt, Row
from ..errors import RecipeError
from ..operators import OperatorRegistry, Problem
from .loading import find_model, load_policy, takes_system_role
from .sampling import sample_completions
from .spec import SamplingOptions, read_spec

GENERATION_BATCH = 16


class Policy:
    """
    A policy that composes workflows, prompted and sampled as in its training.

    Args:
        model (`str`):
            Folder of a model, of an adapter or of a run, or an id of the Hub.
        operators ([`~aflow_trl.operators.OperatorRegistry`]):
            Operators that exist; the prompt offers those that the policy was trained with.
        checkpoint (`int`, *optional*):
            Step of the checkpoint to use. Defaults to the final model of the run, or its latest checkpoint.
        prompt (`str`, *optional*):
            Policy prompt. Defaults to the one that the policy was trained with.
        trained (`bool`, *optional*, defaults to `True`):
            Whether to use the adapter; if not, the model that it was trained from.
        budget (`str`, *optional*):
            How much a workflow may cost: one of the budgets that the policy was trained for. Defaults to the largest.

    Raises:
        [`RecipeError`]: The model cannot be loaded, or there is no such checkpoint, prompt or budget.
    """

    def __init__(
        self,
        model: str,
        operators: OperatorRegistry,
        *,
        checkpoint: int | None = None,
        prompt: str | None = None,
        trained: bool = True,
        budget: str | None = None,
    ) -> None:
        self.path = find_model(model, checkpoint)
        self.spec = read_spec(model)
        self.budget = choose_budget(budget, self.spec.budgets)
        names = [name for name in self.spec.operators or operators if name in operators]
        self.model, self.tokenizer = load_policy(self.path, self.spec.model, trained=trained)
        self.prompt = PolicyPrompt(
            prompt or self.spec.policy_prompt, operators.select(names), takes_system_role(self.tokenizer)
        )

    def compose(
        self,
        problems: Sequence[Problem],
        *,
        samples: int | None = None,
        temperature: float | None = None,
        seed: int = 0,
    ) -> list[list[str]]:
        """
        Completions for each problem, up to the end of the workflow.

        Args:
            problems (`Sequence[Problem]`):
                Problems to compose for.
            samples (`int`, *optional*):
                Sampled completions per problem. If `None`, one, decoded greedily.
            temperature (`float`, *optional*):
                Sampling temperature; 0 decodes greedily. Defaults to that of the training.
            seed (`int`, *optional*, defaults to `0`):
                Seed of the sampling.

        Returns:
            `list[list[str]]`: Completions by problem.
        """
        sampling: SamplingOptions = self.spec.sampling
        if temperature is not None:
            sampling = replace(sampling, temperature=temperature)
        rows = [
            Row(problem.question, (), problem.domain, context=problem.context, budget=self.budget)
            for problem in problems
        ]
        return sample_completions(
            self.model,
            self.tokenizer,
            [self.prompt.messages(row) for row in rows],
            sampling,
            seed=seed,
            batch_size=GENERATION_BATCH,
            num_samples=samples,
        )


def choose_budget(budget: str | None, budgets: Sequence[str]) -> str:
    """
    The budget to ask a policy for.

    Args:
        budget (`str`, *optional*):
            Budget that the user named.
        budgets (`Sequence[str]`):
            Budgets that the policy was trained for, the smallest first.

    Returns:
        `str`: The largest if none is named; empty for a policy that was trained without.

    Raises:
        [`RecipeError`]: It was not trained for this budget.
    """
    if budget is None:
        return budgets[-1] if budgets else ""
    if budget not in budgets:
        remedy = f"Use one of {', '.join(budgets)}." if budgets else "It was trained without budgets: name none."
        raise RecipeError(f"the budget is {budget!r}, which the policy was not trained for. {remedy}")
    return budget
