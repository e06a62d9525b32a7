"""Finding and loading the model and tokenizer of a policy: a run, a checkpoint, an adapter, a model of the Hub."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import torch
from jinja2.exceptions import TemplateError
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import ModelConfig, get_quantization_config

from ..errors import RecipeError
from .gguf import local_model
from .spec import ModelOptions

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def find_model(model: str, checkpoint: int | None) -> str:
    """
    Folder or name to load: a checkpoint of a run, the final model of a run, or the model as it was named.

    Args:
        model (`str`):
            Folder of a model, of an adapter or of a run, or an id of the Hub.
        checkpoint (`int`, *optional*):
            Step of a checkpoint. Defaults to the final model of a run, or to its latest checkpoint if it has none.

    Raises:
        [`RecipeError`]: There is no such checkpoint; the message lists those that exist.
    """
    folder = Path(model)
    checkpoints = {
        int(match.group(1)): path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := _CHECKPOINT.fullmatch(path.name))
    }
    if checkpoint is not None:
        if checkpoint not in checkpoints:
            steps = ", ".join(map(str, sorted(checkpoints))) or "none"
            raise RecipeError(f"{model} has no checkpoint {checkpoint}. Its checkpoints: {steps}.")
        return str(checkpoints[checkpoint])
    has_final_model = any((folder / name).is_file() for name in ("adapter_config.json", "config.json"))
    return str(checkpoints[max(checkpoints)]) if checkpoints and not has_final_model else model


def is_adapter(model: str, checkpoint: int | None) -> bool:
    """Whether a policy is an adapter, so that the model it was trained from is the untrained policy."""
    try:
        PeftConfig.from_pretrained(find_model(model, checkpoint))
    except (OSError, ValueError):
        return False
    return True


def weights_digest(model: str, checkpoint: int | None) -> str:
    """Tells policies apart that were trained into one folder: by content for adapters, by size and date for models."""
    folder = Path(find_model(model, checkpoint))
    adapter = folder / "adapter_model.safetensors"
    if adapter.is_file():
        return hashlib.blake2b(adapter.read_bytes(), digest_size=8).hexdigest()
    stats = [path.stat() for path in sorted(folder.glob("*.safetensors"))] if folder.is_dir() else []
    return " ".join(f"{stat.st_size}/{stat.st_mtime_ns}" for stat in stats)


def model_init_kwargs(options: ModelOptions) -> dict[str, Any]:
    """Arguments of `from_pretrained` for a base model; only those that differ from transformers' defaults."""
    quantization = get_quantization_config(
        ModelConfig(
            dtype=options.dtype or "auto",
            load_in_8bit=options.load_in_8bit,
            load_in_4bit=options.load_in_4bit,
            bnb_4bit_quant_type=options.bnb_4bit_quant_type,
            use_bnb_nested_quant=options.use_bnb_nested_quant,
        )
    )
    arguments = {
        "revision": options.revision,
        "attn_implementation": options.attn_implementation,
        "dtype": options.dtype,
        "trust_remote_code": options.trust_remote_code or None,
        "quantization_config": quantization,
    }
    return {name: value for name, value in arguments.items() if value is not None}


def load_model(name: str, options: ModelOptions, *, device: torch.device | None = None) -> Any:
    """A base model on a device: the given one, else a GPU where there is one."""
    arguments = model_init_kwargs(options)
    model = AutoModelForCausalLM.from_pretrained(local_model(name), **arguments)
    if "quantization_config" in arguments:  # bitsandbytes has placed it
        return model
    return model.to(device or torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def load_tokenizer(name: str, options: ModelOptions) -> Any:
    """Tokenizer of a policy, with a padding token."""
    arguments = {
        key: value for key, value in model_init_kwargs(options).items() if key in ("revision", "trust_remote_code")
    }
    tokenizer = AutoTokenizer.from_pretrained(local_model(name), **arguments)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def takes_system_role(tokenizer: Any) -> bool:
    """
    Whether the chat template of a tokenizer has a system role, and keeps what it says.

    Some templates have none, some pass over it, and those of Mistral put it into the last message only while that is
    the user's, so that it is gone from a conversation with a reply, as a fine-tuning sees it.

    Raises:
        [`RecipeError`]: There is no chat template.
    """
    if tokenizer.chat_template is None:
        raise RecipeError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no chat template, as those of base models. Use a model "
            "that was tuned for chats, or save the tokenizer with a template."
        )
    messages = [{"role": "system", "content": "as a system"}, {"role": "user", "content": "as a user"}]
    reply = {"role": "assistant", "content": "as an assistant"}
    try:
        texts = [tokenizer.apply_chat_template(turns, tokenize=False) for turns in (messages, [*messages, reply])]
        return all("as a system" in text for text in texts)
    except TemplateError:  # what templates raise for roles that they do not have
        return False


def load_policy(path: str, options: ModelOptions, *, trained: bool = True) -> tuple[Any, Any]:
    """
    Model and tokenizer of a policy, in eval mode.

    Args:
        path (`str`):
            Adapter or model, as [`find_model`] gives it.
        options ([`ModelOptions`]):
            How the base model is loaded.
        trained (`bool`, *optional*, defaults to `True`):
            Whether to apply the adapter; if not, the model it was trained from is returned.

    Raises:
        [`RecipeError`]: The model cannot be loaded, or there is no untrained model beside it.
    """
    try:
        try:
            adapter = PeftConfig.from_pretrained(path)
        except (OSError, ValueError):
            if not trained:
                raise RecipeError(f"{path!r} is no adapter, so there is no untrained policy beside it.") from None
            model = load_model(path, options)
        else:
            model = load_model(str(adapter.base_model_name_or_path), options)
            # `AutoPeftModelForCausalLM` would resize the embeddings to the length of the tokenizer, with random rows.
            model = PeftModel.from_pretrained(model, path) if trained else model
        # The revision is that of the base model; an adapter brings its own tokenizer.
        tokenizer = load_tokenizer(path, ModelOptions(trust_remote_code=options.trust_remote_code))
    except (OSError, ValueError) as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(f"the policy {path!r} cannot be loaded: {error}") from None
    return model.eval(), tokenizer
