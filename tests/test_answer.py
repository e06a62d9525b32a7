"""`aflow-trl run`: one question or many, from a fixed workflow or from a policy, loaded and sampled as it was trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp import web
from transformers import AutoModelForCausalLM, AutoTokenizer

from aflow_trl.engine import Outcome, Trace
from aflow_trl.errors import RecipeError
from aflow_trl.inference import majority
from aflow_trl.operators import DEFAULT_OPERATORS, Problem
from aflow_trl.policies import ModelOptions, Policy, PolicySpec, SamplingOptions, find_model, load_model, write_spec
from command_line import aflow
from thread_server import chat_endpoint

MATH = "Ana has 20 apples. Ana gets 5 more. How many apples does Ana have now?"


def write_questions(folder: Path, questions: list[dict[str, Any]]) -> str:
    (folder / "in.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    return str(folder / "in.jsonl")


def test_a_file_of_questions_is_answered_line_by_line(tmp_path: Path) -> None:
    questions = [{"id": "a", "question": MATH}, {"id": "b", "question": MATH, "domain": "math", "answer": "25"}]
    source, target = write_questions(tmp_path, questions), tmp_path / "out.jsonl"
    result = aflow("run", "--simulated", "--input", source, "--output", str(target), "--workflow", "Programmer")
    assert result.returncode == 0, result.stderr
    answers = [json.loads(line) for line in target.read_text().splitlines()]
    assert [answer["id"] for answer in answers] == ["a", "b"] and answers[0]["answer"] == answers[1]["answer"]
    assert "2 of 2 questions answered" in result.stdout and "answering" in result.stderr


def test_an_empty_answer_is_no_answer(tmp_path: Path) -> None:
    async def chat(request: web.Request) -> web.Response:
        message = {"role": "assistant", "content": "I cannot tell. \\boxed{}"}
        usage = {"prompt_tokens": 5, "completion_tokens": 5}
        return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})

    source, target = write_questions(tmp_path, [{"question": MATH}] * 3), tmp_path / "out.jsonl"
    with chat_endpoint(chat) as port:
        flags = ("--base-url", f"http://127.0.0.1:{port}/v1", "--set", "executor_api_key_env=null")
        many = aflow("run", "--input", source, "--output", str(target), *flags)
        one = aflow("run", MATH, *flags)
    assert "0 of 3 questions answered" in many.stdout, many.stderr
    assert one.returncode == 1 and "(empty)" in one.stdout


def test_a_bad_question_is_named_by_line(tmp_path: Path) -> None:
    result = aflow("run", "--simulated", "--input", write_questions(tmp_path, [{"question": "q"}, {"text": "q"}]))
    assert result.returncode == 2 and "line 2" in result.stderr and "'text'" in result.stderr


def test_the_answer_is_short_and_the_trace_long() -> None:
    short, long = (
        aflow("run", MATH, "--simulated", "--workflow", "Custom -> Review", *flags).stdout
        for flags in ([], ["--trace"])
    )
    assert "answer" in short and "positive" not in short
    assert ("positive" in long or "negative" in long) and "Review" in long


def test_a_policy_samples_workflows_and_their_answers_are_voted_on(tiny_model: Path) -> None:
    content = json.loads(
        aflow("run", MATH, "--simulated", "--model", str(tiny_model), "--best-of", "3", "--json").stdout
    )
    assert len(content["workflows"]) == len(content["traces"]) == 3


@pytest.fixture
def run_folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A run that was killed: checkpoints of three steps, and no final model."""
    for step in (5, 20, 100):
        shutil.copytree(tiny_model, tmp_path / f"checkpoint-{step}")
    return tmp_path


def test_a_checkpoint_is_chosen_by_its_step(run_folder: Path) -> None:
    assert find_model(str(run_folder), 20).endswith("checkpoint-20")
    with pytest.raises(RecipeError, match="5, 20, 100"):
        find_model(str(run_folder), 7)


def test_the_latest_checkpoint_is_the_policy_of_a_run_without_a_final_model(
    run_folder: Path, tiny_model: Path
) -> None:
    assert find_model(str(run_folder), None).endswith("checkpoint-100")
    shutil.copy(tiny_model / "config.json", run_folder / "config.json")
    assert find_model(str(run_folder), None) == str(run_folder)


def test_a_name_of_the_hub_stays_as_it_is() -> None:
    assert find_model("organisation/name", None) == "organisation/name"


def test_a_policy_that_does_not_exist_is_named() -> None:
    result = aflow("run", MATH, "--simulated", "--model", "no/such/policy")
    assert result.returncode == 2 and "no/such/policy" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("flags", [["--best-of", "2"], ["--checkpoint", "1"]])
def test_flags_of_a_policy_need_a_policy(flags: list[str]) -> None:
    result = aflow("run", MATH, "--simulated", *flags)
    assert result.returncode == 2 and "--model" in result.stderr


def test_at_least_one_workflow_has_to_be_sampled(tiny_model: Path) -> None:
    result = aflow("run", MATH, "--simulated", "--model", str(tiny_model), "--best-of", "0")
    assert result.returncode == 2 and "--best-of" in result.stderr and "at least 1" in result.stderr


# -- how a policy is loaded and sampled --------------------------------------------------------------------------------


def with_spec(tiny_model: Path, folder: Path, spec: PolicySpec) -> str:
    """A model with the summary of a run beside it."""
    shutil.copytree(tiny_model, folder / "run")
    write_spec(spec, folder / "run")
    return str(folder / "run")


@pytest.mark.parametrize("command", ["run", "eval"])
def test_a_policy_is_loaded_with_the_options_of_its_training(
    command: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ModelOptions(revision="v2", dtype="bfloat16", attn_implementation="eager")
    model = with_spec(tiny_model, tmp_path, PolicySpec(policy_prompt="compact", model=options))
    received: list[dict[str, Any]] = []
    load = AutoModelForCausalLM.from_pretrained

    def from_pretrained(name: str, **arguments: Any) -> Any:
        received.append(arguments)
        return load(name, **arguments)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    positional = MATH if command == "run" else "synthetic"
    flags = (
        ["--simulated"]
        if command == "run"
        else ["--limit", "2", "--workflow", "Custom", "--out", str(tmp_path / "out")]
    )
    result = aflow(command, positional, "--model", model, *flags)
    assert "Traceback" not in result.stderr and result.returncode in ((0, 1) if command == "run" else (0,))
    assert received == [{"revision": "v2", "dtype": "bfloat16", "attn_implementation": "eager"}]


def test_the_weights_of_a_policy_have_the_dtype_of_its_training(tiny_model: Path, tmp_path: Path) -> None:
    model = with_spec(tiny_model, tmp_path, PolicySpec(model=ModelOptions(dtype="bfloat16")))
    assert Policy(model, DEFAULT_OPERATORS).model.dtype == torch.bfloat16


def test_a_model_is_loaded_onto_the_given_device(tiny_model: Path) -> None:
    # Every machine has the meta device.
    model = load_model(str(tiny_model), ModelOptions(), device=torch.device("meta"))
    assert model.device == torch.device("meta")


def test_a_policy_is_prompted_and_sampled_as_in_its_training(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = SamplingOptions(temperature=0.25, top_p=0.5, max_completion_length=7)
    spec = PolicySpec("compact", ("Custom", "Review"), sampling=sampling)
    policy = Policy(with_spec(tiny_model, tmp_path, spec), DEFAULT_OPERATORS)
    received: list[dict[str, Any]] = []
    generate = policy.model.generate
    monkeypatch.setattr(policy.model, "generate", lambda **options: received.append(options) or generate(**options))
    policy.compose([Problem("q")], samples=2)
    assert list(policy.prompt.operators) == ["Custom", "Review"]
    names = ("temperature", "top_p", "max_new_tokens", "do_sample", "num_return_sequences")
    assert [received[0][name] for name in names] == [0.25, 0.5, 7, True, 2]


def test_temperature_0_decodes_greedily(tiny_model: Path) -> None:
    policy = Policy(str(tiny_model), DEFAULT_OPERATORS, prompt="compact")
    problems = [Problem(MATH), Problem("What is 6 * 7?")]
    greedy = policy.compose(problems)
    assert policy.compose(problems, samples=1, temperature=0.0, seed=1) == greedy
    assert policy.compose(problems, samples=2, temperature=0.0) == [texts * 2 for texts in greedy]
    # The model is random: no two samples of a vocabulary's worth of tokens are equal.
    assert policy.compose(problems, samples=1, temperature=1.0) != greedy


def test_a_policy_without_padding_token_pads_with_the_end_of_its_text(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "model")
    policy = Policy(str(tmp_path / "model"), DEFAULT_OPERATORS)
    assert policy.tokenizer.pad_token == policy.tokenizer.eos_token is not None


# -- the vote ----------------------------------------------------------------------------------------------------------


def trace(answer: str, outcome: Outcome = Outcome.OK) -> Trace:
    return Trace(outcome, Problem("q"), answer=answer)


def test_successful_workflows_vote_and_the_first_answer_wins_ties() -> None:
    lost = trace("9", Outcome.UNAVAILABLE)
    assert majority([lost, trace("1"), trace("2"), trace("2.0")], "math").answer == "2"
    assert majority([lost, trace("1"), trace("2")], "math").answer == "1"


def test_without_a_successful_workflow_the_first_is_shown() -> None:
    lost = trace("9", Outcome.UNAVAILABLE)
    assert majority([lost, trace("8", Outcome.UNAVAILABLE)], "math") is lost
