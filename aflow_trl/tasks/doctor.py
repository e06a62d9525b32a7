"""What stands in the way of a run on this machine, with remedies, before anything is paid for."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from packaging.requirements import Requirement

from ..errors import AflowError, RecipeError, SandboxUnavailableError
from ..event_loops import run_coroutine
from ..llm import SIMULATED, ExecutorConfig, LLMClient
from ..operators import preflight
from ..recipes import TINY_POLICY, Recipe, estimate_memory, load_recipe
from ..sandbox import fork_server
from .run_folder import print_rank0
from .session import load_problems

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


def findings(arguments: Sequence[str]) -> Iterator[Finding]:
    """
    What stands in the way of a run.

    Args:
        arguments (`Sequence[str]`):
            Recipe and its overrides; without any, the machine alone is looked at.
    """
    yield _python()
    yield _packages()
    yield _accelerator()
    yield _sandbox()
    if not arguments:
        return
    try:
        recipe = load_recipe(arguments)
    except AflowError as error:
        yield Finding("recipe", FAILED, str(error))
        return
    yield Finding("recipe", OK, f"{arguments[0]}, task {recipe.run.task}")
    yield from recipe_findings(recipe)
    yield _checked("data", lambda: _problems(recipe))
    for config in recipe.executors:
        yield _checked(f"executor {config.executor_model}", partial(_executor, config))
        if None in (config.price.input_usd, config.price.output_usd):
            yield Finding(
                "price", WARNING, "unknown: USD are not counted. Give executor_input_usd_per_mtok and so on."
            )


def recipe_findings(recipe: Recipe) -> Iterator[Finding]:
    """What this machine lacks for a recipe, as far as that can be said without loading or asking anything."""
    yield _disk(recipe.output_dir)
    yield from _memory(recipe)
    yield from _trackers(recipe)
    if recipe.training.use_vllm and importlib.util.find_spec("vllm") is None:
        yield Finding("vLLM", FAILED, "use_vllm is set, but vLLM is not installed. Run pip install vllm.")


def check_machine(recipe: Recipe) -> None:
    """
    Print what is likely to go wrong with a run, and refuse what cannot go right.

    Raises:
        [`RecipeError`]: Something that the recipe needs is missing.
    """
    for finding in (_packages(), *recipe_findings(recipe)):
        if finding.state == FAILED:
            raise RecipeError(f"{finding.name}: {finding.text}")
        if finding.state == WARNING:
            print_rank0(f"warning: {finding.name}: {finding.text}")


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


def _accelerator() -> Finding:
    if not torch.cuda.is_available():
        return Finding("accelerator", OK, "none: training runs on the CPU")
    device = torch.cuda.get_device_properties(0)
    text = f"{torch.cuda.device_count()} × {device.name}, {device.total_memory / 2**30:.0f} GiB"
    return Finding("accelerator", OK, f"{text}, bf16 {'yes' if torch.cuda.is_bf16_supported() else 'no'}")


def _disk(folder: Path) -> Finding:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    text = f"{free_gb:.0f} GB free for {folder}"
    return Finding("disk", OK, text) if free_gb > MIN_FREE_GB else Finding("disk", WARNING, f"only {text}")


def _memory(recipe: Recipe) -> Iterator[Finding]:
    if recipe.model.model_name_or_path == TINY_POLICY:
        return
    on_card = torch.cuda.is_available() and not recipe.training.use_cpu
    size = torch.cuda.get_device_properties(0).total_memory if on_card else psutil.virtual_memory().total
    device = "card" if on_card else "machine"
    try:
        memory = estimate_memory(recipe, size / 1e9)
    except (OSError, ValueError) as error:
        yield Finding("memory", WARNING, f"not estimated: {str(error).strip().splitlines()[0]}")
        return
    text = f"{memory}, of {size / 1e9:.0f} GB of the {device}"
    if memory.total <= size / 1e9:
        yield Finding("memory", OK, text)
    else:
        lower = "vllm_gpu_memory_utilization or per_device_train_batch_size"
        lower = lower if recipe.training.use_vllm else "per_device_train_batch_size"
        yield Finding("memory", WARNING, f"{text}: likely too much. Lower {lower}, or load in 4 bits.")


def _trackers(recipe: Recipe) -> Iterator[Finding]:
    names = recipe.training.report_to
    for name in [names] if isinstance(names, str) else names or ():
        if name in TRACKERS and importlib.util.find_spec(name) is None:
            yield Finding(f"tracker {name}", FAILED, f"not installed. Run pip install {name}, or set report_to: none.")


def _sandbox() -> Finding:
    try:
        return Finding("sandbox", OK, str(run_coroutine(fork_server()).layers))
    except SandboxUnavailableError as error:
        return Finding("sandbox", FAILED, str(error))


def _checked(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, OK, check())
    except AflowError as error:
        return Finding(name, FAILED, str(error))


def _problems(recipe: Recipe) -> str:
    held_out, training = load_problems(recipe)
    return f"{len(training)} training and {len(held_out)} held-out problems"


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
