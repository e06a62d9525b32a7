"""The commands on data and results: `aflow-trl data`, `eval`, `search`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from ..dsl import format_workflow, parse
from ..llm import SIMULATED, CallCache, ExecutorConfig, LLMClient
from ..operators import load_operators, vocabulary
from ..simulator import SimulatedApp, in_process


def executor_of(options: argparse.Namespace, **changes: Any) -> LLMClient:
    """Client of the executor that the flags of [`add_executor`] name."""
    simulated = options.base_url == SIMULATED
    config = ExecutorConfig(
        executor_base_url=options.base_url,
        executor_model=options.executor,
        executor_api_key_env=options.api_key_env,
        # The simulated executor is free; what another endpoint costs is not known here.
        executor_input_usd_per_mtok=0.0 if simulated else None,
        executor_output_usd_per_mtok=0.0 if simulated else None,
    )
    return LLMClient(config, http_client=(lambda: in_process(SimulatedApp())) if simulated else None, **changes)


def add_executor(parser: argparse.ArgumentParser) -> None:
    """Flags that name the executor."""
    parser.add_argument("--base-url", default=SIMULATED, help="OpenAI-compatible endpoint (default: simulated)")
    parser.add_argument("--executor", default="gpt-4o-mini", help="model behind the endpoint (default: gpt-4o-mini)")
    parser.add_argument("--api-key-env", default="OPENAI_API_KEY", help="variable that holds the key")
    parser.add_argument("--operator-module", action="append", default=[], help="module that defines further operators")


def add_policy(parser: argparse.ArgumentParser) -> None:
    """Flags that say which form of a policy is meant."""
    parser.add_argument("--checkpoint", type=int, metavar="STEP", help="checkpoint of a run (default: its end)")
    parser.add_argument(
        "--policy-prompt", default=None, help="prompt of the policy (default: what it was trained with)"
    )


def add_eval(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Parser of `aflow-trl eval`."""
    evaluate = commands.add_parser(
        "eval",
        help="a policy and its baselines on a data file: accuracy with intervals, cost, unscored share",
        description="Run a policy, its untrained form, fixed and random workflows on the same problems with the same "
        "executor randomness. Given again, the command goes on where it was ended.",
        epilog="example: aflow-trl eval data/test.jsonl --valid data/valid.jsonl --model runs/compose --out runs/eval",
    )
    evaluate.add_argument("data", help="problems: a .jsonl path, a Hub dataset, or synthetic")
    evaluate.add_argument("--valid", metavar="DATA", help="problems to choose the best fixed workflow on")
    evaluate.add_argument("--model", metavar="MODEL", help="policy: a run, an adapter, a model, a Hub id")
    evaluate.add_argument(
        "--workflow", action="append", default=[], help="fixed workflow of the list; may be repeated"
    )
    evaluate.add_argument("--workflows", metavar="FILE", help="fixed workflows, one a line")
    evaluate.add_argument("--seeds", type=int, nargs="+", default=[0], help="repetitions (default: 0)")
    evaluate.add_argument("--limit", type=int, default=300, metavar="N", help="most problems (default: 300)")
    evaluate.add_argument("--temperature", type=float, help="of the policy (default: what it was trained with, or 1)")
    evaluate.add_argument(
        "--out", default="evaluation", metavar="FOLDER", help="folder to write (default: evaluation)"
    )
    add_policy(evaluate)
    add_executor(evaluate)
    evaluate.set_defaults(command=_eval)


def add_search(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Parser of `aflow-trl search`."""
    search = commands.add_parser(
        "search",
        help="the search baseline: an optimizer model edits workflows, best first",
        description="For each domain of the validation problems: pick a tried workflow, let an optimizer model edit "
        "it, measure the edit. Writes the rounds and improvement records; given again, the command goes on.",
        epilog="example: aflow-trl search data/valid.jsonl --base-url https://api.openai.com/v1 --optimizer gpt-4o",
    )
    search.add_argument("data", help="validation problems: a .jsonl path, a Hub dataset, or synthetic")
    search.add_argument("--optimizer", metavar="MODEL", help="model that edits (default: the executor's)")
    search.add_argument("--optimizer-url", metavar="URL", help="its endpoint (default: the executor's)")
    search.add_argument("--rounds", type=int, default=20, help="most rounds a domain (default: 20)")
    search.add_argument("--passes", type=int, default=3, help="validation passes averaged (default: 3)")
    search.add_argument("--margin", type=float, default=0.0, help="gain that counts as progress (default: 0)")
    search.add_argument("--patience", type=int, default=8, help="rounds without progress to end after (default: 8)")
    search.add_argument("--start", default="Custom", help="workflow of round 1 (default: Custom)")
    search.add_argument("--limit", type=int, default=90, metavar="N", help="most problems (default: 90)")
    search.add_argument("--seed", type=int, default=0, help="of every choice (default: 0)")
    search.add_argument("--out", default="search", metavar="FOLDER", help="folder to write (default: search)")
    add_executor(search)
    search.set_defaults(command=_search)


def _eval(options: argparse.Namespace) -> None:
    from ..evaluation import print_evaluation, run_evaluation

    load_operators(options.operator_module)
    out = Path(options.out)
    texts = [*options.workflow]
    if options.workflows:
        texts += [line.strip() for line in Path(options.workflows).read_text(encoding="utf-8").splitlines()]
    client = executor_of(options, cache=_reply_cache(options, out))
    console = Console(stderr=True)

    def progress(name: str, done: int, total: int) -> None:
        if done == total:
            console.print(f"{name}: {done} problems", style="dim", highlight=False, markup=False)

    report = run_evaluation(
        client,
        data=options.data,
        valid=options.valid,
        model=options.model,
        checkpoint=options.checkpoint,
        prompt=options.policy_prompt,
        temperature=options.temperature,
        workflows=[text for text in dict.fromkeys(texts) if text],
        seeds=options.seeds,
        limit=options.limit,
        out=out,
        progress=progress,
    )
    print_evaluation(report, Console(width=max(Console().width, 130)))
    print(f"results.json, results.md and accuracy_cost.png are in {out}")


def _search(options: argparse.Namespace) -> None:
    from ..improvement import SearchSettings, Tried, optimizer, run_search

    load_operators(options.operator_module)
    out = Path(options.out)
    words = vocabulary()
    client = executor_of(options, cache=_reply_cache(options, out))
    edits = client
    if options.optimizer or options.optimizer_url:
        own = {"base_url": options.optimizer_url, "executor": options.optimizer}
        changed = {name: value for name, value in own.items() if value}
        edits = executor_of(argparse.Namespace(**vars(options) | changed))

    def told(domain: str, one: Tried) -> None:
        print(f"{domain} round {one.number:>2}  {one.score:.3f}  from {one.parent or '-'}  {one.workflow}", flush=True)

    settings = SearchSettings(
        options.rounds,
        options.passes,
        options.margin,
        options.patience,
        format_workflow(parse(options.start, vocabulary=words)),
        options.seed,
    )
    best = run_search(
        client,
        optimizer(edits),
        settings,
        data=options.data,
        limit=options.limit,
        out=out,
        optimizer_name=f"{edits.config.executor_model} {edits.config.executor_base_url}",
        on_round=told,
    )
    for domain, one in best.items():
        print(f"best for {domain}: {one.score:.3f}  {one.workflow}")
    print(f"rounds and improvements.jsonl are in {out}")


def _reply_cache(options: argparse.Namespace, out: Path) -> CallCache | None:
    return None if options.base_url == SIMULATED else CallCache(out / "calls.sqlite")


def add_data(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Parser of `aflow-trl data`."""
    data = commands.add_parser("data", help="prepare public benchmarks, import AFlow workspaces")
    actions = data.add_subparsers(required=True, metavar="ACTION")
    prepare = actions.add_parser(
        "prepare",
        help="public benchmarks as train, valid and test files",
        description="Load benchmarks from the Hub, keep the rows whose own gold the scorers accept, throw out copies, "
        "mix the domains, and write train.jsonl, valid.jsonl, test.jsonl and data_card.json.",
        epilog="example: aflow-trl data prepare data --benchmark gsm8k --benchmark mbpp --benchmark hotpotqa",
    )
    prepare.add_argument("out", help="folder to write")
    prepare.add_argument(
        "--benchmark",
        action="append",
        metavar="NAME",
        help="gsm8k, math, humaneval, humaneval+, mbpp, mbpp+, hotpotqa, drop or squad_v2; may be repeated "
        "(default: all but the + versions)",
    )
    prepare.add_argument("--from", dest="folder", metavar="FOLDER", help="copies of them, instead of the Hub")
    prepare.add_argument("--ratio", default="1:1:1", help="math:code:qa in training and validation (default: 1:1:1)")
    prepare.add_argument("--total", type=int, metavar="N", help="training rows (default: as many as the ratio allows)")
    prepare.add_argument("--limit", type=int, metavar="N", help="most rows of a split of a benchmark")
    prepare.add_argument("--seed", type=int, default=0, help="seed of every draw (default: 0)")
    prepare.set_defaults(command=_data_prepare)
    workspace = actions.add_parser(
        "import-aflow",
        help="improvement records from a workspace of AFlow's search",
        description="Read round_N/graph.py and what lies beside it (nothing is imported or run), translate the graphs "
        "that fit the language, and write improvement records.",
        epilog="example: aflow-trl data import-aflow workspace/GSM8K --out data/improvements.jsonl",
    )
    workspace.add_argument("workspace", help="workspace of one or several data sets")
    workspace.add_argument("--out", default="improvements.jsonl", help="file to write (default: improvements.jsonl)")
    workspace.add_argument("--domain", choices=["math", "code", "qa"], help="domain of data sets with unknown names")
    workspace.set_defaults(command=_data_import)


def _data_prepare(options: argparse.Namespace) -> None:
    from ..data import SOURCES, prepare, print_card, read_ratio

    card = prepare(
        options.benchmark or [name for name in SOURCES if not name.endswith("+")],
        Path(options.out),
        folder=Path(options.folder) if options.folder else None,
        ratio=read_ratio(options.ratio),
        total=options.total,
        limit=options.limit,
        seed=options.seed,
    )
    print_card(card, Console(highlight=False))


def _data_import(options: argparse.Namespace) -> None:
    from ..improvement import import_workspace, write_improvements
    from ..operators import describe

    words = vocabulary()
    records, report = import_workspace(Path(options.workspace), words, domain=options.domain)
    write_improvements(Path(options.out), records, operators=list(words), descriptions=describe(list(words)))
    print(
        f"{report.rounds} rounds, {report.records} records in {options.out}; "
        f"{report.translated} graphs translated ({report.translated / max(1, report.rounds):.0%})"
    )
    for reason, count in report.untranslated.most_common():
        print(f"not translated, {count}: {reason}")
    for line in report.duplicates:
        print(f"duplicate: {line}")
    for line in report.missing:
        print(f"missing: {line}")
