"""Let a trained policy compose the workflow for one problem."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import AutoPeftModelForCausalLM, PeftConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from .data import Row, check_policy_prompt, policy_messages
from .dsl import CLOSING_TAG, Vocabulary
from .errors import RecipeError
from .operators import Problem, describe

MAX_NEW_TOKENS = 256


def compose(model: str, problem: Problem, *, prompt: str | None, vocabulary: Vocabulary) -> str:
    """
    Completion of a policy for one problem, decoded greedily.

    Args:
        model (`str`):
            Folder of a model or an adapter, or an id of the Hub.
        problem ([`~aflow_trl.operators.Problem`]):
            Problem to compose for.
        prompt (`str`, *optional*):
            Policy prompt. Defaults to the one its `summary.json` names, else `"full"`.
        vocabulary (`Mapping[str, OperatorSpec]`):
            Operators to offer.

    Returns:
        `str`: The completion, up to the end of the workflow.

    Raises:
        [`RecipeError`]: The model cannot be loaded.
    """
    name = prompt or _trained_prompt(Path(model))
    check_policy_prompt(name)
    row = Row(problem.question, (), problem.domain, context=problem.context)
    names = list(vocabulary)
    messages = policy_messages(row, prompt=name, operators=names, descriptions=describe(names))
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        policy = _load(model)
    except (OSError, ValueError) as error:
        raise RecipeError(f"the policy {model!r} cannot be loaded: {error}") from None
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        output = policy.eval().generate(
            **inputs.to(policy.device),
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            stop_strings=[CLOSING_TAG],
            tokenizer=tokenizer,
        )
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def _load(model: str) -> Any:
    try:
        PeftConfig.from_pretrained(model)
    except (OSError, ValueError):
        return AutoModelForCausalLM.from_pretrained(model)
    return AutoPeftModelForCausalLM.from_pretrained(model)


def _trained_prompt(folder: Path) -> str:
    summary = folder / "summary.json"
    if summary.is_file():
        recipe = json.loads(summary.read_text(encoding="utf-8"))["recipe"]
        return str(recipe.get("policy_prompt", "full"))
    return "full"
