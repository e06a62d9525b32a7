"""`aflow-trl doctor`: what stands in the way of a run on this machine, with remedies, before anything is paid for."""

from __future__ import annotations

import argparse
import importlib.util
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from packaging.requirements import Requirement
from rich.table import Table

from ..console import report_console
from ..errors import AflowError, SandboxUnavailableError
from ..event_loops import run_coroutine
from ..llm import SIMULATED, ExecutorConfig, LLMClient
from ..operators import preflight
from ..sandbox import fork_server
from .options import Commands

if TYPE_CHECKING:
    from ..recipes import Recipe

OK, WARNING, FAILED = "ok", "warning", "FAILED"
MIN_FREE_GB = 5.0
"""Free space on the disk of the output folder below which a run is likely to fill it."""
TRACKERS = ("comet_ml", "mlflow", "tensorboard", "trackio", "wandb")
"""Trackers whose name in `report_to` is that of their package."""


class Finding(NamedTuple):
    """Result of a check."""

    name: str
    state: str
    text: str


def add_parser(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "doctor",
        help="check this machine, and a recipe on it: packages, sandbox, disk, data, trackers, endpoints",
        description="Print what was found, with remedies. With a recipe, its executors are tried as by aflow-trl "
        "endpoint, and further --key value pairs override it. Exit code 1 if something failed.",
        epilog="example: aflow-trl doctor a100-80gb.yaml",
    )
    parser.add_argument("recipe", nargs="?", help="recipe, as for train")
    parser.set_defaults(command=run, takes_overrides=True)


def run(options: argparse.Namespace) -> None:
    """Run the command; exit code 1 if a check failed."""
    findings = [_python(), _packages(), _sandbox(), _accelerator()]
    if options.recipe is not None:
        findings += _of_recipe([options.recipe, *options.overrides])
    table = Table(show_header=False)
    styles = {OK: None, WARNING: "yellow", FAILED: "bold red"}
    for finding in findings:
        table.add_row(*finding, style=styles[finding.state])
    report_console().print(table)
    if any(finding.state == FAILED for finding in findings):
        raise SystemExit(1)


def _python() -> Finding:
    text = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.platform == "linux":
        return Finding("system", OK, text)
    return Finding(
        "system", WARNING, f"{text}: programs of the model can be confined on Linux only (docs/security.md)"
    )


def _packages() -> Finding:
    wanted = [Requirement(text) for text in requires("aflow_trl") or ()]
    wanted = [item for item in wanted if item.marker is None or item.marker.evaluate({"extra": ""})]
    wrong = []
    for item in wanted:
        try:
            installed = version(item.name)
        except PackageNotFoundError:
            wrong.append(f"{item.name} is missing")
            continue
        if not item.specifier.contains(installed, prereleases=True):
            wrong.append(f"{item.name} {installed} is outside {item.specifier}")
    if wrong:
        return Finding("packages", FAILED, f"{'; '.join(wrong)}. Install aflow_trl again.")
    return Finding("packages", OK, f"{len(wanted)} packages in the tested range, trl {version('trl')}")


def _sandbox() -> Finding:
    try:
        return Finding("sandbox", OK, str(run_coroutine(fork_server()).layers))
    except SandboxUnavailableError as error:
        return Finding("sandbox", FAILED, str(error))


def _accelerator() -> Finding:
    # Takes a second, which the other commands should not.
    import torch

    if not torch.cuda.is_available():
        return Finding("accelerator", OK, "none: training runs on the CPU")
    device = torch.cuda.get_device_properties(0)
    text = f"{torch.cuda.device_count()} × {device.name}, {device.total_memory / 2**30:.0f} GiB"
    return Finding("accelerator", OK, f"{text}, bf16 {'yes' if torch.cuda.is_bf16_supported() else 'no'}")


def _of_recipe(arguments: list[str]) -> Iterator[Finding]:
    from ..recipes import load_recipe

    try:
        recipe = load_recipe(arguments)
    except AflowError as error:
        yield Finding("recipe", FAILED, str(error))
        return
    yield Finding("recipe", OK, f"{arguments[0]}, task {recipe.run.task}")
    yield _disk(recipe.output_dir)
    yield _checked("data", lambda: _problems(recipe))
    yield from _trackers(recipe)
    if recipe.training.use_vllm and importlib.util.find_spec("vllm") is None:
        yield Finding("vLLM", FAILED, "use_vllm is set, but vLLM is not installed. Run pip install vllm.")
    for config in recipe.executors:
        yield _checked(f"executor {config.executor_model}", partial(_executor, config))
        if None in (config.price.input_usd, config.price.output_usd):
            yield Finding(
                "price", WARNING, "unknown: USD are not counted. Give executor_input_usd_per_mtok and so on."
            )


def _checked(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, OK, check())
    except AflowError as error:
        return Finding(name, FAILED, str(error))


def _disk(folder: Path) -> Finding:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    text = f"{free_gb:.0f} GB free for {folder}"
    return Finding("disk", OK, text) if free_gb > MIN_FREE_GB else Finding("disk", WARNING, f"only {text}")


def _problems(recipe: Recipe) -> str:
    from ..tasks.session import load_problems

    held_out, training = load_problems(recipe)
    return f"{len(training)} training and {len(held_out)} held-out problems"


def _trackers(recipe: Recipe) -> Iterator[Finding]:
    names = recipe.training.report_to
    for name in [names] if isinstance(names, str) else names or ():
        if name in TRACKERS and importlib.util.find_spec(name) is None:
            yield Finding(f"tracker {name}", FAILED, f"not installed. Run pip install {name}, or set report_to: none.")


def _executor(config: ExecutorConfig) -> str:
    if config.executor_base_url == SIMULATED:
        return "simulated"
    client = LLMClient(config)

    async def work() -> str:
        try:
            return f"{client.host}, {await preflight(client)}"
        finally:
            await client.aclose()

    return run_coroutine(work())
