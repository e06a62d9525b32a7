"""A trained policy that composes workflows for problems, ready for inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..data import PolicyPrompt, Row
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

    Raises:
        [`RecipeError`]: The model cannot be loaded, or there is no such checkpoint or prompt.
    """

    def __init__(
        self,
        model: str,
        operators: OperatorRegistry,
        *,
        checkpoint: int | None = None,
        prompt: str | None = None,
        trained: bool = True,
    ) -> None:
        self.path = find_model(model, checkpoint)
        self.spec = read_spec(model)
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
        rows = [Row(problem.question, (), problem.domain, context=problem.context) for problem in problems]
        return sample_completions(
            self.model,
            self.tokenizer,
            [self.prompt.messages(row) for row in rows],
            sampling,
            seed=seed,
            batch_size=GENERATION_BATCH,
            num_samples=samples,
        )
