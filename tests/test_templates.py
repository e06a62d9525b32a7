"""Chat templates in the forms that families of models document, and real tokenizers where some are at hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from aflow_trl.data import PolicyPrompt, Row, policy_prompts
from aflow_trl.errors import RecipeError
from aflow_trl.operators import DEFAULT_OPERATORS, Problem
from aflow_trl.policies import Policy, takes_system_role

PLAIN = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Gemma 1 and 2: no system role, turns have to alternate, the assistant is called model.
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# A template that passes over a role it does not know.
DEAF = (
    "{% for message in messages %}{% if message['role'] == 'user' %}[INST] {{ message['content'] }} [/INST]"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] }}</s>{% endif %}{% endfor %}"
)
TEMPLATES = {"plain": (PLAIN, True), "gemma": (GEMMA, False), "deaf": (DEAF, False)}
ROW = Row("What is 6 * 7?", ("42",), "math")


def tokenizer_with(folder: Path, template: str | None) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_role_of_the_system_is_told(name: str, tiny_model: Path) -> None:
    template, expected = TEMPLATES[name]
    assert takes_system_role(tokenizer_with(tiny_model, template)) is expected


@pytest.mark.parametrize("prompt", sorted(policy_prompts()))
@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_says_everything_that_the_prompt_does(name: str, prompt: str, tiny_model: Path) -> None:
    tokenizer = tokenizer_with(tiny_model, TEMPLATES[name][0])
    policy_prompt = PolicyPrompt(prompt, system_role=takes_system_role(tokenizer))
    text = tokenizer.apply_chat_template(policy_prompt.messages(ROW), tokenize=False, add_generation_prompt=True)
    assert policy_prompt.system in text and ROW.question in text
    assert all(workflow in text for _, workflow in policy_prompt.shots)


def test_a_tokenizer_without_a_template_is_refused(tiny_model: Path) -> None:
    with pytest.raises(RecipeError, match="no chat template"):
        takes_system_role(tokenizer_with(tiny_model, None))


def test_a_policy_is_asked_in_the_roles_that_its_template_has(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer_with(tiny_model, GEMMA).save_pretrained(tmp_path)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(tiny_model / name)
    policy = Policy(str(tmp_path), DEFAULT_OPERATORS)
    assert not policy.prompt.system_role
    assert len(policy.compose([Problem(ROW.question)], samples=1, seed=0)) == 1


REAL = sorted(Path(os.environ["AFLOW_TOKENIZERS"]).iterdir()) if "AFLOW_TOKENIZERS" in os.environ else []


@pytest.mark.skipif(not REAL, reason="needs AFLOW_TOKENIZERS, a folder of tokenizers")
@pytest.mark.parametrize("prompt", sorted(policy_prompts()))
@pytest.mark.parametrize("folder", REAL, ids=lambda path: path.name)
def test_real_tokenizers(folder: Path, prompt: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = PolicyPrompt(prompt, system_role=takes_system_role(tokenizer)).messages(ROW)
    options = {"add_generation_prompt": True, "enable_thinking": False}
    text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    tokens = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)["input_ids"]
    assert ROW.question in text
    if tokenizer.bos_token is not None:
        # Of SmolLM2 it is what every turn begins with.
        assert tokens[0] == tokenizer.bos_token_id != tokens[1]
    # The prompt ends where generation begins: what a policy writes follows it token by token.
    reply = tokenizer("<workflow>Custom -> Review ? Revise : done</workflow>", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(reply, skip_special_tokens=True) == "<workflow>Custom -> Review ? Revise : done</workflow>"
    assert tokenizer.decode([*tokens, *reply]).endswith("</workflow>")
