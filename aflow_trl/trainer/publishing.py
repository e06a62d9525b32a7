"""Uploads to the Hub by an allow-list: the model and its reports, never traces, caches, journals or arguments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi
from transformers.trainer_utils import HubStrategy

from .workflow_grpo_config import WorkflowGRPOConfig

if TYPE_CHECKING:
    from .workflow_grpo_trainer import WorkflowGRPOTrainer

PUBLISHED = (
    *("README.md", "LICENSE*", "*.png", "summary.json", "policy.json"),
    *("*.safetensors", "*.safetensors.index.json", "adapter_config.json", "config.json", "generation_config.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "*.jinja"),
    *("preprocessor_config.json", "processor_config.json"),
)
"""Files that are uploaded, at the top of the output folder."""
UNPUBLISHED = ("*/*",)
"""Subfolders stay at home: checkpoints, the search of a warm start, earlier runs."""


def check_hub_strategy(args: WorkflowGRPOConfig) -> None:
    """Refuse the strategies that upload whole checkpoints, which hold the arguments and with them the token."""
    if args.push_to_hub and args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        raise ValueError(
            f"hub_strategy {HubStrategy(args.hub_strategy).value!r} uploads checkpoints, which hold every argument of "
            "the run, hub_token included. Use 'end' or 'every_save'."
        )


def upload(trainer: WorkflowGRPOTrainer, folder: str, message: str, **options: Any) -> Any:
    """
    Upload the published files of a folder, as one commit.

    Args:
        trainer ([`WorkflowGRPOTrainer`]):
            Trainer that knows the repository.
        folder (`str`):
            Output folder of the run, or a checkpoint.
        message (`str`):
            Message of the commit.
        **options:
            Further arguments of [`~huggingface_hub.HfApi.upload_folder`].
    """
    # The card in a checkpoint is PEFT's, with the path of a local model.
    is_checkpoint = Path(folder) != Path(trainer.args.output_dir)
    published = [pattern for pattern in PUBLISHED if not (is_checkpoint and pattern == "README.md")]
    options = {"token": trainer.args.hub_token, "revision": trainer.args.hub_revision} | options
    return HfApi().upload_folder(
        repo_id=trainer.hub_model_id,
        folder_path=folder,
        commit_message=message,
        allow_patterns=published,
        ignore_patterns=list(UNPUBLISHED),
        **options,
    )
