"""
Verdicts on code: the process that runs a solution holds neither the tests nor the expected values.

A trusted tester process calls the solution through pipes; only plain values are sent in either direction.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import contextlib
import functools
import importlib.util
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..errors import SandboxUnavailableError
from . import codec
from .checks import split
from .client import (
    DEFAULT_MEMORY_MB,
    DEFAULT_OUTPUT_BYTES,
    ForkServer,
    classify,
    run,
    slot,
    with_fork_server,
)
from .memory_files import memory_file, read_memory_file
from .tester_pool import warm_tester
from .types import RunResult, Status, SuiteReport, SuiteSpec, Verdict

DEFAULT_TEST_TIMEOUT_S = 10.0
TESTER_GRACE_S = 0.5
"""Seconds the tester may outlive a killed solution to report its counts."""
MAX_STDERR_BYTES = 4_096
"""Part of the solution's stderr that a failure includes."""
MAX_SHOWN_CHARS = 500
"""Part of a program's output that a failure includes."""


async def run_tests(
    solution: str,
    tests: Sequence[str],
    *,
    entry_point: str | None = None,
    timeout_s: float = DEFAULT_TEST_TIMEOUT_S,
    memory_mb: int = DEFAULT_MEMORY_MB,
    weak: bool = False,
) -> Verdict:
    """
    Run a solution against tests that it never sees.

    If a test defines `check(candidate)`, every top-level assertion of `check` counts as a test. A test that never
    calls the solution fails.

    Args:
        solution (`str`):
            Untrusted Python that defines the functions the tests call.
        tests (`Sequence[str]`):
            Trusted tests: assert statements (MBPP), source that defines `check(candidate)` (HumanEval), or, for
            programs that read and print, JSON objects `{"stdin": …, "stdout": …}`.
        entry_point (`str`, *optional*):
            Function that `candidate` stands for, and the only one of the solution that the tests can call. Helpers of
            the tests belong in their source; otherwise a solution could replace them. If `None`, the tests can call
            every name that they use but do not define.
        timeout_s (`float`, *optional*, defaults to `10.0`):
            Wall-clock limit of the solution over all tests, in seconds.
        memory_mb (`int`, *optional*, defaults to `512`):
            Address space of the solution in MiB.
        weak (`bool`, *optional*, defaults to `False`):
            Run the tests in the process of the solution, for tests that need live objects. A hostile solution can
            forge such a verdict; it is marked `weak`.

    Returns:
        [`Verdict`]: Number of tests passed and in total, as counted by the tester.

    Raises:
        [`SandboxUnavailableError`]: The sandbox or the tester itself failed.
        `ValueError`: `tests` is a single text.
    """
    if isinstance(tests, str):
        raise ValueError("tests is a text, which would be taken letter by letter. Give a list, such as [tests].")
    if cases := _stdin_cases(tests):
        return await run_stdin_tests(solution, cases, timeout_s=timeout_s)
    plans = [_plan(test) for test in tests]
    expected_total = sum(plan.total for plan in plans)
    modules = {name: module for plan in plans for name, module in plan.modules.items() if name != entry_point}
    spec = SuiteSpec(tests=list(tests), entry_point=entry_point or "", names=[], modules=modules)
    spec["names"] = [entry_point] if entry_point else _called_names(plans, solution)
    run_suite = _run_beside if weak else _run_apart
    return await with_fork_server(
        lambda server: run_suite(server, solution, spec, expected_total, timeout_s, memory_mb)
    )


async def _run_apart(
    server: ForkServer, solution: str, spec: SuiteSpec, expected_total: int, timeout_s: float, memory_mb: int
) -> Verdict:
    """Run tests and solution in separate processes."""
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(slot())
        tester = await stack.enter_async_context(warm_tester(server))
        errors_fd = memory_file(stack)
        with _pipes() as (call_read, call_write, reply_read, reply_write):
            fds = [memory_file(stack, solution), memory_file(stack), memory_file(stack), errors_fd]
            fds += [call_read, reply_write]
            child = await server.spawn("serve", fds, timeout_s=timeout_s, memory_mb=memory_mb)
            tester.send(spec, [call_write, reply_read])
        # Without `return_exceptions`, a failure of one would close the descriptors that the other still uses.
        served, report = await asyncio.gather(
            server.wait(child, timeout_s), tester.receive(timeout_s + TESTER_GRACE_S), return_exceptions=True
        )
        errors = read_memory_file(errors_fd, MAX_STDERR_BYTES)
    if isinstance(served, BaseException):
        raise served
    if isinstance(report, BaseException):
        raise report
    status = classify(served, overflow=False)
    if report is None:
        # Tests are trusted, so only a returned value, such as one too large to decode, can have killed the tester.
        failure = "the tests could not be completed with what the solution returned"
        return Verdict(status, 0, expected_total, failure)
    if report["total"] != expected_total:
        raise SandboxUnavailableError(f"the tester ran {report['total']} tests, expected {expected_total}")
    return replace(_verdict(status, report, errors), compiles=not served.invalid_source)


@contextlib.contextmanager
def _pipes() -> Iterator[tuple[int, int, int, int]]:
    """Two pipes, as (read, write, read, write); closed here, as the processes that received them keep duplicates."""
    with contextlib.ExitStack() as stack:
        ends: list[int] = []
        for _ in range(2):
            pair = os.pipe()
            for fd in pair:
                stack.callback(os.close, fd)
            ends += pair
        yield ends[0], ends[1], ends[2], ends[3]


async def _run_beside(
    server: ForkServer, solution: str, spec: SuiteSpec, expected_total: int, timeout_s: float, memory_mb: int
) -> Verdict:
    """Run tests and solution in one process."""
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(slot())
        source = memory_file(stack, json.dumps({**spec, "solution": solution}))
        err, count = memory_file(stack), memory_file(stack)
        fds = [source, memory_file(stack), memory_file(stack), err, count]
        child_exit = await server.run("test_within", fds, timeout_s=timeout_s, memory_mb=memory_mb)
        errors, written = read_memory_file(err, MAX_STDERR_BYTES), read_memory_file(count, DEFAULT_OUTPUT_BYTES)
    status = classify(child_exit, overflow=False)
    # The solution can write to the report, so an implausible one counts as a failure, not as an error of the sandbox.
    try:
        report: SuiteReport = codec.loads(written)
        if report["total"] != expected_total or not 0 <= report["passed"] <= expected_total:
            raise ValueError("the counts are inconsistent")
        return replace(_verdict(status, report, errors), weak=True)
    except (ValueError, KeyError, TypeError, AttributeError):
        failure = f"the tests did not finish\n{errors.strip()}".strip()
        return Verdict(status, 0, expected_total, failure, weak=True)


def _verdict(status: Status, report: SuiteReport, errors: str) -> Verdict:
    failure = f"{report['failure']}\n{errors.strip()}".strip() if report["failure"] else ""
    # Lone surrogates in an error message would break whoever writes the verdict to a file.
    failure = failure.encode("utf-8", errors="replace").decode("utf-8")
    return Verdict(status, report["passed"], report["total"], failure, needs_live_objects=report["live"])


async def run_stdin_tests(
    program: str, cases: Sequence[tuple[str, str]], *, timeout_s: float = DEFAULT_TEST_TIMEOUT_S
) -> Verdict:
    """
    Run a program on several inputs and compare its output, ignoring trailing white space of each line.

    The first run that reaches its time limit ends the rest, as in a programming contest: of a program that hangs,
    one or two cases take the time, not all.

    Args:
        program (`str`):
            Untrusted Python.
        cases (`Sequence[tuple[str, str]]`):
            Pairs of standard input and expected standard output.
        timeout_s (`float`, *optional*, defaults to `10.0`):
            Wall-clock limit of each run in seconds.

    Returns:
        [`Verdict`]: Number of cases passed and in total.

    Raises:
        [`SandboxUnavailableError`]: The sandbox itself failed.
    """
    tasks = [asyncio.ensure_future(run(program, stdin=stdin, timeout_s=timeout_s)) for stdin, _ in cases]
    passed, failure, status = 0, "", Status.OK
    try:
        # In the order of the cases, so that the number passed does not depend on which run ends first.
        for task, (stdin, expected) in zip(tasks, cases, strict=True):
            result = await task
            if _same_output(result, expected):
                passed += 1
            elif not failure:
                stdout, stderr = result.stdout[:MAX_SHOWN_CHARS], result.stderr[-MAX_SHOWN_CHARS:]
                failure = f"input {stdin!r}: expected {expected!r}, got {stdout!r} {stderr}"
                status = result.status
            if result.status is Status.TIMEOUT:
                break
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return Verdict(status, passed, len(cases), failure)


def _stdin_cases(tests: Sequence[str]) -> list[tuple[str, str]]:
    """Input and output of each test; empty unless all tests are JSON objects with exactly these two."""
    cases = []
    for test in tests:
        try:
            case = json.loads(test)
        except ValueError:
            return []
        if not isinstance(case, dict) or case.keys() != {"stdin", "stdout"}:
            return []
        cases.append((str(case["stdin"]), str(case["stdout"])))
    return cases


def _same_output(result: RunResult, expected: str) -> bool:
    actual_lines, expected_lines = (
        [line.rstrip() for line in text.rstrip().split("\n")] for text in (result.stdout, expected)
    )
    return result.status is Status.OK and actual_lines == expected_lines


@dataclass(frozen=True)
class _Plan:
    """What can be told about a test from its source."""

    total: int
    """Number of tests in it."""
    undefined: frozenset[str]
    """Names it uses but does not define; modules are not among them."""
    modules: dict[str, str]
    """Modules it uses without importing them, as in `math.isclose(f(2), 1.41)`, by the name it uses."""


@functools.lru_cache(maxsize=4096)
def _plan(test: str) -> _Plan:
    loaded: Counter[str] = Counter()
    with_attribute: Counter[str] = Counter()
    bound: set[str] = {"candidate"}
    tree = ast.parse(test)
    for node in ast.walk(tree):
        match node:
            case ast.Name(ctx=ast.Load()):
                loaded[node.id] += 1
            case ast.Name():
                bound.add(node.id)
            case ast.Attribute(value=ast.Name() as owner):
                with_attribute[owner.id] += 1
            case ast.arg():
                bound.add(node.arg)
            case ast.FunctionDef() | ast.ClassDef():
                bound.add(node.name)
            case ast.Import() | ast.ImportFrom():
                bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
            case _:
                pass
    undefined = loaded.keys() - bound
    # The test alone decides what is a module: a name that it also calls is a function of the solution.
    modules = {
        name: module
        for name in undefined
        if (module := _module(name)) is not None and with_attribute[name] == loaded[name]
    }
    return _Plan(split(test)[1], frozenset(undefined - modules.keys()), modules)


def _module(name: str) -> str | None:
    if name in sys.stdlib_module_names:
        return name
    return "numpy" if name in ("np", "numpy") and importlib.util.find_spec("numpy") else None


def _called_names(plans: Sequence[_Plan], solution: str) -> list[str]:
    """Functions of the solution that tests without an entry point call: names they use but nobody defines."""
    names: set[str] = set().union(*(plan.undefined for plan in plans))
    undefined = {name for name in names if not hasattr(builtins, name)}
    # A solution may be named like a builtin (`def sum(a, b)`), but only tests that call nothing else may mean it.
    # Otherwise a solution could replace what the tests compare with, such as `sorted`.
    return sorted(
        undefined or {name for name in names if re.search(rf"^(?:def|class) {name}\b", solution, re.MULTILINE)}
    )
