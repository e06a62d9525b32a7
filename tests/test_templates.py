"""Chat templates in the forms that families of models document, and real tokenizers where some are at hand."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, StopStringCriteria

from aflow_trl.data import PolicyPrompt, Row, policy_prompts
from aflow_trl.dsl import CLOSING_TAG, extract, format_workflow, sample_workflow
from aflow_trl.errors import RecipeError
from aflow_trl.operators import DEFAULT_OPERATORS, Problem
from aflow_trl.policies import Policy, takes_system_role
from aflow_trl.trainer import WorkflowGRPOConfig, WorkflowGRPOTrainer
from trainers import build

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
# Mistral: the system text stands in the last message, if that is the user's.
MISTRAL = (
    "{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
    "{% for message in messages %}{% if message['role'] == 'user' %}[INST] "
    "{% if loop.last and system %}{{ system }}\n\n{% endif %}{{ message['content'] }} [/INST]"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] }}</s>{% endif %}{% endfor %}"
)
# Phi-3: the role in bars, the end of a turn in bars.
PHI = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TEMPLATES = {
    "plain": (PLAIN, True),
    "gemma": (GEMMA, False),
    "deaf": (DEAF, False),
    "mistral": (MISTRAL, False),
    "phi": (PHI, True),
}
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
    # A fine-tuning sees the same prompt before the reply.
    reply = {"role": "assistant", "content": "<workflow>Custom</workflow>"}
    assert tokenizer.apply_chat_template([*policy_prompt.messages(ROW), reply], tokenize=False).startswith(text)


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


# -- completions -------------------------------------------------------------------------------------------------------


def check_a_completion_is_what_is_parsed(tokenizer: Any, seed: int) -> None:
    workflow = sample_workflow(random.Random(seed))
    text = f"<workflow>{format_workflow(workflow)}{CLOSING_TAG}"
    for ending in ("", tokenizer.eos_token):
        ids = tokenizer(text + ending, add_special_tokens=False)["input_ids"]
        assert extract(tokenizer.decode(ids, skip_special_tokens=True)).workflow == workflow


def check_the_stop_is_found(tokenizer: Any, criteria: StopStringCriteria, cuts: Sequence[int], ending: str) -> None:
    """The stop string in one of its tokenisations: each piece between two cuts is tokenised on its own."""
    text = f"<workflow>Custom{CLOSING_TAG}{ending}"
    borders = [0, *sorted({min(cut, len(text)) for cut in cuts}), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(borders) if end > start]
    ids = [token for piece in pieces for token in tokenizer(piece, add_special_tokens=False)["input_ids"]]
    if tokenizer.decode(ids) != text:  # SentencePiece (Llama 2) puts a space before what stands on its own
        return
    found = [bool(criteria(torch.tensor([ids[:end]]), torch.zeros(1))[0]) for end in range(1, len(ids) + 1)]
    expected = [CLOSING_TAG in tokenizer.decode(ids[:end]) for end in range(1, len(ids) + 1)]
    # What follows the stop string is never generated.
    assert found.index(True) == expected.index(True)


CUTS = st.lists(st.integers(1, 40), max_size=40)
ENDINGS = st.sampled_from(["", "\n", "\n\n", ">", " done", "\nThe"])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000))
def test_a_completion_decodes_to_what_is_parsed(seed: int, tiny_model: Path) -> None:
    check_a_completion_is_what_is_parsed(AutoTokenizer.from_pretrained(tiny_model), seed)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cuts=CUTS, ending=ENDINGS)
def test_the_stop_string_is_found_in_every_tokenisation(cuts: list[int], ending: str, tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    check_the_stop_is_found(tokenizer, StopStringCriteria(tokenizer, [CLOSING_TAG]), cuts, ending)


def test_a_padding_token_that_ends_turns_loses_nothing(tiny_model: Path, tmp_path: Path) -> None:
    # As in SmolLM2: pad = eos = what ends each turn of the prompt.
    trainer = build(WorkflowGRPOTrainer, WorkflowGRPOConfig, tiny_model, tmp_path, stop_strings=[CLOSING_TAG])
    tokenizer = trainer.processing_class
    tokenizer.chat_template = PLAIN.replace("<|im_end|>", tokenizer.eos_token)
    tokenizer.pad_token = tokenizer.eos_token
    prompts = [PolicyPrompt("compact").messages(replace(ROW, question="6 * 7? " * count)) for count in (1, 9)]
    prompt_ids = trainer._generate(prompts)[0]
    expected = [
        tokenizer.apply_chat_template(p, add_generation_prompt=True, return_dict=True)["input_ids"] for p in prompts
    ]
    assert prompt_ids == expected


def test_nothing_is_cut_off_by_a_tokenizer_that_truncates(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model, model_max_length=16)
    tokenizer.backend_tokenizer.enable_truncation(16)
    tokenizer.save_pretrained(tmp_path)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(tiny_model / name)
    trainer = build(WorkflowGRPOTrainer, WorkflowGRPOConfig, tmp_path, tmp_path / "run")
    prompt = PolicyPrompt("full")
    ids = trainer._generate([prompt.messages(ROW)])[0][0]
    assert prompt.operators.descriptions in trainer.processing_class.decode(ids)


# -- real tokenizers ---------------------------------------------------------------------------------------------------

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
    reply = "<workflow>Custom -> Review ? Revise : done</workflow>"
    reply_ids = tokenizer(reply, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode([*tokens, *reply_ids]).endswith(reply)
    # A fine-tuning on whole conversations sees the same prompt.
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": reply}], tokenize=False)
    without_thinking = "<think>\n\n</think>\n\n"
    assert whole.startswith(text) or whole.startswith(text.removesuffix(without_thinking))


@pytest.fixture(scope="module", params=REAL, ids=lambda path: path.name)
def real_tokenizer(request: pytest.FixtureRequest) -> Any:
    return AutoTokenizer.from_pretrained(request.param)


@pytest.mark.skipif(not REAL, reason="needs AFLOW_TOKENIZERS, a folder of tokenizers")
def test_completions_of_real_tokenizers(real_tokenizer: Any) -> None:
    for seed in range(200):
        check_a_completion_is_what_is_parsed(real_tokenizer, seed)


@pytest.mark.skipif(not REAL, reason="needs AFLOW_TOKENIZERS, a folder of tokenizers")
def test_stop_strings_of_real_tokenizers(real_tokenizer: Any) -> None:
    criteria, rng = StopStringCriteria(real_tokenizer, [CLOSING_TAG]), random.Random(0)
    for _ in range(200):
        cuts = [rng.randrange(1, 40) for _ in range(rng.randrange(20))]
        check_the_stop_is_found(real_tokenizer, criteria, cuts, rng.choice(["", "\n", "\n\n", ">", " done"]))
