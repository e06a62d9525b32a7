"""`aflow-trl run`: answer questions with a workflow, fixed or composed by a policy."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..console import report_console
from ..dsl import format_workflow, parse
from ..engine import Outcome, Trace
from ..errors import RecipeError
from ..event_loops import run_coroutine
from ..inference import Answered, Question, answer_questions, read_questions
from ..llm import SIMULATED
from ..operators import OperatorRegistry, Problem
from ..scoring import domain_remedy, known_domains
from ..simulator import knows
from ..text import model_text
from .options import Commands, add_executor_flags, add_policy_flags, executor_engine, load_modules

DEFAULT_WORKFLOW = "Custom"
MAX_RESULT_CHARS = 300
"""Maximum length of an operator's result in a printed trace."""


def add_parser(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "run",
        help="answer questions with a workflow, fixed or composed by a policy",
        description="Answer one question, or a JSONL file of them, and print answer, workflow and cost.",
        epilog='example: aflow-trl run "What is 6 * 7?" --executor gpt-4o-mini --workflow "Custom -> Review"',
    )
    parser.add_argument("question", nargs="?", help="question, in quotes")
    parser.add_argument(
        "--input", metavar="JSONL", help="file of questions, in the row schema; no gold answer is needed"
    )
    parser.add_argument(
        "--output", metavar="JSONL", default="answers.jsonl", help="file of answers (default: answers.jsonl)"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--workflow", default=None, help=f"workflow to run (default: {DEFAULT_WORKFLOW})")
    source.add_argument(
        "--model",
        default=None,
        metavar="MODEL",
        help="policy: output folder of a run, adapter, model folder or Hub id",
    )
    parser.add_argument(
        "--best-of", type=int, metavar="N", help="sample N workflows from the policy and vote on their answers"
    )
    parser.add_argument(
        "--domain", default="math", help="kind of answer: math, code, qa, or one of --scorer-module (default: math)"
    )
    parser.add_argument("--context", default="", help="passages that the question is about")
    parser.add_argument("--entry-point", default=None, help="function that a code task asks for")
    add_policy_flags(parser)
    add_executor_flags(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of the executor's sampling (default: 0)")
    parser.add_argument("--trace", action="store_true", help="print every operator with its result")
    parser.add_argument("--json", action="store_true", help="print the whole trace as JSON")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Run the command; exit code 1 if a single question was not answered."""
    operators = load_modules(options)
    if (options.question is None) == (options.input is None):
        raise RecipeError("give either a question or a file of questions with --input.")
    if options.domain not in known_domains():
        raise RecipeError(f"--domain is {options.domain!r}. {domain_remedy()}")
    if options.best_of is not None and options.best_of < 1:
        raise RecipeError(f"--best-of must be at least 1, got {options.best_of}.")
    if options.input is None:
        problem = Problem(options.question, options.domain, options.context, options.entry_point)
        questions = [Question("", problem)]
    else:
        questions = read_questions(Path(options.input))
    engine = executor_engine(options, operators)
    if engine.client.config.executor_base_url == SIMULATED:
        _check_simulated(questions)
    workflows = _workflows(options, questions, engine.operators)

    async def answer_all(on_answer: Callable[[Answered], None]) -> None:
        try:
            await engine.preflight()
            async for answered in answer_questions(engine, questions, workflows, salt=str(options.seed)):
                on_answer(answered)
        finally:
            await engine.aclose()

    answers: list[Answered] = []
    if options.input is None:
        run_coroutine(answer_all(answers.append))
        _show(answers[0], options)
        if answers[0].best.outcome is not Outcome.OK or not answers[0].best.answer.strip():
            raise SystemExit(1)
        return
    _answer_file(Path(options.output), len(questions), answer_all, answers)
    answered = sum(bool(item.best.outcome is Outcome.OK and item.best.answer.strip()) for item in answers)
    calls = sum(item.model_calls for item in answers)
    print(f"{answered} of {len(answers)} questions answered with {calls} model calls, in {options.output}")


def _check_simulated(questions: Sequence[Question]) -> None:
    """
    Refuse questions that the simulated executor cannot read.

    Raises:
        [`RecipeError`]: There is one.
    """
    unknown = next((item.problem.question for item in questions if not knows(item.problem.statement)), None)
    if unknown is not None:
        raise RecipeError(
            f"the simulated executor knows its own synthetic problems only, and not {unknown[:80]!r}. Name an "
            "endpoint with --base-url and a model with --executor."
        )


def _workflows(
    options: argparse.Namespace, questions: Sequence[Question], operators: OperatorRegistry
) -> list[list[str]]:
    """Workflows for each question: the fixed one, or those that the policy composes."""
    if options.model is None:
        if any(value is not None for value in (options.checkpoint, options.best_of, options.budget)):
            raise RecipeError("--checkpoint, --best-of and --budget need a policy. Name one with --model.")
        text = options.workflow or DEFAULT_WORKFLOW
        return [[format_workflow(parse(text, vocabulary=operators.vocabulary))] for _ in questions]
    # Imported here, because torch and transformers take seconds that a fixed workflow should not.
    from ..policies import Policy

    policy = Policy(
        options.model,
        operators,
        checkpoint=options.checkpoint,
        prompt=options.policy_prompt,
        budget=options.budget,
    )
    problems = [question.problem for question in questions]
    return policy.compose(problems, samples=options.best_of, seed=options.seed)


def _answer_file(
    path: Path,
    count: int,
    answer_all: Callable[[Callable[[Answered], None]], Coroutine[object, object, None]],
    answers: list[Answered],
) -> None:
    """Answer a file of questions with a progress bar; each answer is written at once, so an interruption keeps it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("answering"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress, path.open("w", encoding="utf-8") as file:
        task = progress.add_task("", total=count)

        def write(answered: Answered) -> None:
            file.write(json.dumps(answered.to_json(), ensure_ascii=False) + "\n")
            file.flush()
            answers.append(answered)
            progress.advance(task)

        run_coroutine(answer_all(write))


def _show(answered: Answered, options: argparse.Namespace) -> None:
    if options.json:
        traces = [trace.to_json() for trace in answered.traces]
        content = traces[0] if len(traces) == 1 else answered.to_json() | {"traces": traces}
        print(json.dumps(content, indent=2, ensure_ascii=False, default=str))
        return
    console = report_console()
    best = answered.best
    if options.trace:
        for trace in answered.traces:
            _print_trace(trace, console)
    console.print(f"workflow  {best.workflow or '(no valid workflow)'}", soft_wrap=True)
    for node in best.nodes:
        if node.failure:
            console.print(f"{node.operator} failed  {model_text(node.failure)}", style="yellow", soft_wrap=True)
    if best.outcome is not Outcome.OK:
        console.print(f"{best.outcome.value}  {model_text(best.detail)}", style="bold red", soft_wrap=True)
        return
    if len(answered.traces) > 1:
        console.print(f"votes  {answered.agreeing} of {len(answered.traces)}")
    console.print(
        f"answer  {model_text(best.answer) if best.answer.strip() else '(empty)'}", style="bold", soft_wrap=True
    )
    usd = "unknown" if answered.usd is None else f"{answered.usd:.4f}"
    wall_s = max(trace.wall_s for trace in answered.traces)
    console.print(f"{answered.model_calls} model calls, {answered.tokens} tokens, {usd} USD, {wall_s:.2f} s")


def _print_trace(trace: Trace, console: Console) -> None:
    table = Table(title=trace.workflow or "(no valid workflow)", title_justify="left")
    for heading in ("operator", "calls", "seconds", "result"):
        table.add_column(heading, justify="right" if heading in ("calls", "seconds") else "left", overflow="fold")
    for node in trace.nodes:
        verdict = {True: "positive: ", False: "negative: ", None: ""}[node.verdict]
        result = node.failure or (node.feedback if node.operator == "Review" else node.answer or node.text)
        text = result if len(result) <= MAX_RESULT_CHARS else result[:MAX_RESULT_CHARS] + " …"
        table.add_row(node.operator, str(node.model_calls), f"{node.wall_s:.2f}", verdict + model_text(text))
    console.print(table)
