"""The model card of a policy."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from peft import PeftModel
from trl.trainer.utils import get_config_model_id

from ..storage import versions

if TYPE_CHECKING:
    from .workflow_grpo_trainer import WorkflowGRPOTrainer

TEMPLATE = Path(__file__).parent / "model_card.md"
WORKFLOW_POLICY = (
    "This policy reads a problem and writes an agentic workflow for it, in the language of `aflow_trl`. The workflow "
    "is executed by operators that call another language model."
)
METHODS = {
    True: "Trained with GRPO, by the trainer of `aflow_trl`.",
    False: "Trained with WA-GRPO (workflow-aware GRPO) of `aflow_trl`: the primary reward decides the advantage, and "
    "the others break ties among completions that it cannot tell apart.",
}
"""By whether the advantages are those of TRL."""


@dataclass(frozen=True, slots=True)
class CardContent:
    """What a run adds to the card of its policy."""

    about: str = WORKFLOW_POLICY
    usage: str = ""
    """Markdown that shows how to ask the policy."""
    sections: str = ""
    """Further Markdown: operators, results, recipe."""
    results: list[EvalResult] = field(default_factory=list)
    """Entries of the `model-index`."""


def model_card(
    trainer: WorkflowGRPOTrainer, content: CardContent, name: str, dataset_name: str | None, tags: Collection[str]
) -> ModelCard:
    """
    The model card of a trainer's policy.

    Args:
        trainer ([`WorkflowGRPOTrainer`]):
            Trainer.
        content ([`CardContent`]):
            What the run adds.
        name (`str`):
            Name of the model.
        dataset_name (`str`, *optional*):
            Data set of the Hub that it was trained on.
        tags (`Collection[str]`):
            Tags beside those of the trainer.

    Returns:
        [`~huggingface_hub.ModelCard`]: With metadata that the Hub accepts.
    """
    base = get_config_model_id(trainer.model.config)
    # A local folder means nothing to a reader, and its path may be private.
    base = base if base and not Path(base).exists() and not Path(base).is_absolute() else None
    adapter = isinstance(trainer.model, PeftModel)
    data = ModelCardData(
        base_model=base,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        datasets=[dataset_name] if dataset_name else None,
        tags=sorted({*tags, *trainer._tag_names, "workflow"}),
        model_name=name if content.results else None,
        eval_results=content.results or None,
    )
    kind = "an adapter (LoRA)" if adapter else "a model"
    origin = f"[{base}](https://huggingface.co/{base})" if base else "a model from a local folder"
    card: ModelCard = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        about=content.about,
        origin=f"It is {kind} trained from {origin}.",
        model_name=name,
        usage=content.usage,
        sections=content.sections,
        method=METHODS[trainer.args.uses_trl_advantages],
        versions=versions(),
    )
    return card
