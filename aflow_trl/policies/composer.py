"""Let a policy compose the workflow for a problem."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..data import Row, check_policy_prompt, policy_messages
from ..dsl import CLOSING_TAG, Vocabulary
from ..errors import RecipeError
from ..operators import Problem, describe

MAX_NEW_TOKENS = 256
GENERATION_BATCH = 16
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
"""Plain sampling, which is what TRL trains with unless it is told otherwise."""
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


class Policy:
    """
    A policy that composes workflows.

    Args:
        model (`str`):
            Folder of a model, of an adapter or of a run, or an id of the Hub.
        vocabulary (`Mapping[str, OperatorSpec]`):
            Operators to offer.
        checkpoint (`int`, *optional*):
            Step of the checkpoint to use. Defaults to what the run ended with, or its latest checkpoint.
        prompt (`str`, *optional*):
            Policy prompt. Defaults to the one that the run's `summary.json` names, else `"full"`.
        trained (`bool`, *optional*, defaults to `True`):
            Whether to use the adapter; if not, the model it was made for.

    Raises:
        [`RecipeError`]: The model cannot be loaded, or there is no such checkpoint.
    """

    def __init__(
        self,
        model: str,
        vocabulary: Vocabulary,
        *,
        checkpoint: int | None = None,
        prompt: str | None = None,
        trained: bool = True,
    ) -> None:
        self.path = find_model(model, checkpoint)
        self.prompt = prompt or str(trained_with(Path(model)).get("policy_prompt", "full"))
        check_policy_prompt(self.prompt)
        facts = trained_with(Path(model))
        self.operators = [name for name in facts.get("operators") or vocabulary if name in vocabulary]
        self.max_new_tokens = int(facts.get("max_completion_length") or MAX_NEW_TOKENS)
        self.sampling = trained_sampling(model)
        try:
            self.model = _load(self.path, trained)
            self.tokenizer = AutoTokenizer.from_pretrained(self.path, padding_side="left")
        except (OSError, ValueError) as error:
            raise RecipeError(f"the policy {self.path!r} cannot be loaded: {error}") from None
        self.model.eval()

    def compose(
        self,
        problems: Sequence[Problem],
        *,
        samples: int | None = None,
        sampling: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> list[list[str]]:
        """
        Completions for each problem, up to the end of the workflow.

        Args:
            problems (`Sequence[Problem]`):
                Problems to compose for.
            samples (`int`, *optional*):
                Completions a problem, sampled. If `None`, one, decoded greedily.
            sampling (`Mapping[str, Any]`, *optional*):
                Temperature, top-p and top-k. Defaults to those of the policy's training.
            seed (`int`, *optional*, defaults to `0`):
                Of the sampling.

        Returns:
            `list[list[str]]`: By problem.
        """
        torch.manual_seed(seed)
        options: dict[str, Any] = {"do_sample": False}
        if samples is not None:
            options = {"do_sample": True, **(sampling or self.sampling), "num_return_sequences": samples}
        completions: list[list[str]] = []
        for start in range(0, len(problems), GENERATION_BATCH):
            texts = self._generate(problems[start : start + GENERATION_BATCH], options)
            count = samples or 1
            completions += [texts[at : at + count] for at in range(0, len(texts), count)]
        return completions

    def _generate(self, problems: Sequence[Problem], options: dict[str, Any]) -> list[str]:
        messages = [
            policy_messages(
                Row(problem.question, (), problem.domain, context=problem.context),
                prompt=self.prompt,
                operators=self.operators,
                descriptions=describe(self.operators),
            )
            for problem in problems
        ]
        inputs = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
        )
        with torch.no_grad():
            output = self.model.generate(
                **inputs.to(self.model.device),
                max_new_tokens=self.max_new_tokens,
                stop_strings=[CLOSING_TAG],
                tokenizer=self.tokenizer,
                **options,
            )
        texts = self.tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [str(text) for text in texts]


def find_model(model: str, checkpoint: int | None) -> str:
    """
    What to load: a checkpoint of a run, what the run ended with, or the model as it was named.

    Raises:
        [`RecipeError`]: There is no such checkpoint; the message names those there are.
    """
    folder = Path(model)
    found = {
        int(match.group(1)): path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := _CHECKPOINT.fullmatch(path.name))
    }
    if checkpoint is not None:
        if checkpoint not in found:
            known = ", ".join(map(str, sorted(found))) or "none"
            raise RecipeError(f"{model} has no checkpoint {checkpoint}. Its checkpoints: {known}.")
        return str(found[checkpoint])
    ended = any((folder / name).is_file() for name in ("adapter_config.json", "config.json"))
    return str(found[max(found)]) if found and not ended else model


def is_adapter(model: str, checkpoint: int | None) -> bool:
    """Whether a policy is an adapter, beside which there is an untrained model."""
    try:
        PeftConfig.from_pretrained(find_model(model, checkpoint))
    except (OSError, ValueError):
        return False
    return True


def weights_digest(model: str, checkpoint: int | None) -> str:
    """Tells adapters apart that were trained into one folder; a whole model goes by its size and date."""
    folder = Path(find_model(model, checkpoint))
    adapter = folder / "adapter_model.safetensors"
    if adapter.is_file():
        return hashlib.blake2b(adapter.read_bytes(), digest_size=8).hexdigest()
    stats = [path.stat() for path in sorted(folder.glob("*.safetensors"))] if folder.is_dir() else []
    return " ".join(f"{stat.st_size}/{stat.st_mtime_ns}" for stat in stats)


def trained_sampling(model: str) -> dict[str, Any]:
    """How the run that a folder holds sampled: temperature, top-p, top-k; plain sampling if it holds none."""
    facts = trained_with(Path(model))
    return {name: facts.get(name, default) for name, default in SAMPLING.items()}


def _load(model: str, trained: bool) -> Any:
    try:
        config = PeftConfig.from_pretrained(model)
    except (OSError, ValueError):
        if not trained:
            raise RecipeError(f"{model!r} is no adapter, so there is no untrained policy beside it.") from None
        return AutoModelForCausalLM.from_pretrained(model)
    base = AutoModelForCausalLM.from_pretrained(config.base_model_name_or_path)
    # Not `AutoPeftModelForCausalLM`: it fits the embeddings to the length of the tokenizer, with random rows.
    return PeftModel.from_pretrained(base, model) if trained else base


def trained_with(folder: Path) -> dict[str, Any]:
    """What the `summary.json` of a run, in this folder or the one it lies in, says of how the policy was asked."""
    for place in (folder, folder.parent):
        summary = place / "summary.json"
        if summary.is_file():
            facts: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8")).get("policy", {})
            return facts
    return {}
