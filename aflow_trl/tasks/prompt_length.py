"""Prompts that are longer than a policy can read are left out, and said; nothing is ever cut off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import AutoConfig

from ..data import Message, Row
from ..errors import DataError, RecipeError
from ..policies import load_tokenizer
from ..recipes import Recipe
from .run_folder import print_rank0
from .session import model_path


def leave_out_long(
    recipe: Recipe,
    rows: Mapping[str, Sequence[Row]],
    messages: Callable[[Row], list[Message]],
    limit: int,
    reason: str,
) -> tuple[dict[str, list[Row]], dict[str, int]]:
    """
    Rows whose prompt has at most `limit` tokens, and the number of others.

    Args:
        recipe ([`~aflow_trl.recipes.Recipe`]):
            Recipe of the run.
        rows (`Mapping[str, Sequence[Row]]`):
            Problems by name of the split.
        messages (`Callable[[Row], list[dict[str, str]]]`):
            Prompt of a problem.
        limit (`int`):
            Maximum number of tokens, the chat template included.
        reason (`str`):
            Where the limit comes from, for messages.

    Raises:
        [`DataError`]: No row of a split is left.
    """
    tokenizer = load_tokenizer(model_path(recipe), recipe.model_options)
    options: Mapping[str, Any] = recipe.training.chat_template_kwargs or {}
    kept, left_out = {}, {}
    for name, split in rows.items():
        lengths = [
            len(
                tokenizer.apply_chat_template(
                    messages(row), add_generation_prompt=True, tokenize=True, return_dict=True, **options
                )["input_ids"]
            )
            for row in split
        ]
        kept[name] = [row for row, length in zip(split, lengths, strict=True) if length <= limit]
        left_out[name] = len(split) - len(kept[name])
        if not kept[name]:
            raise DataError(f"every {name} prompt is longer than {limit} tokens ({min(lengths)} or more): {reason}.")
        if left_out[name]:
            print_rank0(
                f"warning: {left_out[name]} of {len(split)} {name} prompts are longer than {limit} tokens and left "
                f"out (the longest has {max(lengths)}): {reason}"
            )
    return kept, left_out


def leave_out_what_does_not_fit(
    recipe: Recipe, train_rows: Sequence[Row], eval_rows: Sequence[Row]
) -> tuple[list[Row], list[Row], dict[str, int]]:
    """
    Training and held-out rows whose prompt and completion fit the context of the policy, and the numbers of others.

    Raises:
        [`DataError`]: No row of a split fits.
        [`RecipeError`]: The model cannot be found.
    """
    training = recipe.training
    rows = {"train": train_rows, "held_out": eval_rows}
    options, messages = recipe.model_options, recipe.prompt.messages
    try:
        config = AutoConfig.from_pretrained(
            model_path(recipe), revision=options.revision, trust_remote_code=options.trust_remote_code
        )
    except (OSError, ValueError) as error:
        name = recipe.model.model_name_or_path
        first = str(error).strip().splitlines()[0]
        raise RecipeError(f"model_name_or_path: the configuration of {name!r} cannot be loaded: {first}") from None
    contexts = {"max_position_embeddings": getattr(config.get_text_config(), "max_position_embeddings", None)}
    if training.use_vllm:
        contexts["vllm_max_model_length"] = training.vllm_max_model_length
    known = {name: tokens for name, tokens in contexts.items() if tokens is not None}
    if not known:
        return list(train_rows), list(eval_rows), dict.fromkeys(rows, 0)
    name = min(known, key=lambda key: known[key])
    completion = training.max_completion_length or 0
    kept, left_out = leave_out_long(
        recipe,
        rows,
        messages,
        known[name] - completion,
        f"{name} is {known[name]}, of which max_completion_length takes {completion}",
    )
    return kept["train"], kept["held_out"], left_out
