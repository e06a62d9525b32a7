"""`aflow-trl eval`: evaluate a policy and baselines on a data file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..console import report_console
from ..errors import RecipeError
from ..storage import PROGRESS
from .options import Commands, add_executor_flags, add_policy_flags, executor_engine, load_modules


def add_parser(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "eval",
        help="evaluate a policy and baselines on a data file: accuracy with intervals, cost, unscored share",
        description="Run a policy, its base model, and fixed and random workflows on the same problems with the same "
        "executor randomness. The same command continues an interrupted evaluation.",
        epilog="example: aflow-trl eval data/test.jsonl --valid data/valid.jsonl --model runs/compose --out runs/eval",
    )
    parser.add_argument("data", help="problems: a file, a Hub dataset, or synthetic")
    parser.add_argument("--valid", metavar="DATA", help="problems that the best fixed workflow is chosen on")
    parser.add_argument(
        "--model", metavar="MODEL", help="policy: output folder of a run, adapter, model folder or Hub id"
    )
    parser.add_argument("--workflow", action="append", default=[], help="fixed workflow; may be repeated")
    parser.add_argument("--workflows", metavar="FILE", help="fixed workflows, one per line")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of the repetitions (default: 0)")
    parser.add_argument(
        "--limit", type=int, default=300, metavar="N", help="maximum number of problems (default: 300)"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        help="temperature of the policy; 0 decodes greedily (default: that of its training, or 1)",
    )
    parser.add_argument("--out", default="evaluation", metavar="FOLDER", help="folder to write (default: evaluation)")
    add_policy_flags(parser)
    add_executor_flags(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from ..evaluation import PolicyChoice, print_evaluation, run_evaluation

    operators = load_modules(options)
    out = Path(options.out)
    texts = [*options.workflow]
    if options.workflows:
        texts += _read_workflows(Path(options.workflows))
    policy = None
    if options.model:
        policy = PolicyChoice(
            options.model, options.checkpoint, options.policy_prompt, options.temperature, options.budget
        )
    engine = executor_engine(options, operators, data=options.data, cache_folder=out)
    console = report_console(stderr=True)

    PROGRESS.stream = sys.stderr
    PROGRESS.enter(f"evaluation, results in {out}")

    def on_progress(name: str, finished: int, total: int) -> None:
        if finished == total:
            console.print(f"{name}: {total} problems", style="dim", soft_wrap=True)

    try:
        report = run_evaluation(
            engine,
            data=options.data,
            valid=options.valid,
            policy=policy,
            workflows=list(dict.fromkeys(texts)),
            seeds=options.seeds,
            limit=options.limit,
            out=out,
            on_progress=on_progress,
        )
    finally:
        PROGRESS.close()
    print_evaluation(report, report_console())
    print(f"results.json, results.md and accuracy_cost.png are in {out}")


def _read_workflows(path: Path) -> list[str]:
    if not path.is_file():
        raise RecipeError(
            f"the list of workflows {str(path)!r} does not exist. Give a file with one workflow per line."
        )
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    workflows = [line for line in lines if line]
    if not workflows:
        raise RecipeError(f"the list of workflows {str(path)!r} is empty. Write one workflow per line.")
    return workflows
