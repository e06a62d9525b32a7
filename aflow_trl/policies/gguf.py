"""GGUF files as policies: converted once to a folder that transformers, PEFT and vLLM load."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..errors import RecipeError
from ..storage import cache_root

SUFFIX = ".gguf"


def check_gguf(name: str) -> None:
    """
    Refuse a GGUF file that cannot be read; other names of models are not looked at.

    Raises:
        [`RecipeError`]: The file does not exist, or the package `gguf` is not installed.
    """
    if not name.endswith(SUFFIX):
        return
    if not Path(name).is_file():
        raise RecipeError(f"the GGUF file {name!r} does not exist. Check the path and the working directory.")
    if importlib.util.find_spec("gguf") is None:
        raise RecipeError(f"{name} needs the package gguf. Run `pip install gguf`.")


def local_model(name: str) -> str:
    """
    What transformers loads in place of a model's name: for a GGUF file, the folder it is converted to, else the name.

    The weights are dequantised to float32 and written as safetensors in the folder of caches, once for each file.

    Args:
        name (`str`):
            Id of the Hub, folder, or GGUF file.

    Raises:
        [`RecipeError`]: The file cannot be read.
    """
    if not name.endswith(SUFFIX):
        return name
    check_gguf(name)
    path = Path(name)
    stat = path.stat()
    identity = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    digest = hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()
    folder = cache_root() / "gguf" / f"{path.stem}-{digest}"
    if folder.is_dir():
        return str(folder)
    # The processes of a launch convert at the same time.
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        loaded = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except Exception as error:  # a reader of a foreign format raises errors of many kinds
        raise RecipeError(f"the GGUF file {name!r} cannot be converted: {error}") from None
    # A model that was loaded from GGUF counts as quantised and cannot be saved; one of the same class can.
    settings = {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    model = type(loaded)(type(loaded.config)(**settings))
    model.load_state_dict(loaded.state_dict(), strict=False)
    model.tie_weights()
    model.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    try:
        scratch.replace(folder)
    except OSError:  # another process was faster; its result is the same
        shutil.rmtree(scratch)
    return str(folder)
