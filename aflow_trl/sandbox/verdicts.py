"""
Verdicts on code, with the tests outside: the process that runs a solution holds neither tests nor expected values.

A trusted tester calls the solution through pipes; arguments and results cross as plain values.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import contextlib
import functools
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..errors import SandboxUnavailableError
from . import codec
from .checks import split
from .client import (
    DEFAULT_MEMORY_MB,
    DEFAULT_OUTPUT_BYTES,
    classify,
    fork_server,
    memory_file,
    read_memory_file,
    run,
    slot,
)
from .tester_pool import warm_tester
from .types import RunResult, Status, Verdict

DEFAULT_TEST_TIMEOUT_S = 10.0
TESTER_GRACE_S = 0.5
"""How long the tester may live on after the solution was killed, to write down its count."""


async def judge(
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

    In a text that defines `check(candidate)`, every assertion at the top of `check` counts as a test. A test that
    never calls the solution fails.

    Args:
        solution (`str`):
            Untrusted Python that defines the functions the tests call.
        tests (`Sequence[str]`):
            Trusted tests: assert statements (MBPP), texts that define `check(candidate)` (HumanEval), or, for programs
            that read and print, JSON objects `{"stdin": …, "stdout": …}`.
        entry_point (`str`, *optional*):
            Function that `candidate` stands for, and the only one of the solution that the tests can call: helpers
            they need belong into their text, or a solution could replace them. If `None`, every name the tests use and
            do not define is the solution's.
        timeout_s (`float`, *optional*, defaults to `10.0`):
            Wall clock for the solution over all tests, in seconds.
        memory_mb (`int`, *optional*, defaults to `512`):
            Address space of the solution in MiB.
        weak (`bool`, *optional*, defaults to `False`):
            Run the tests beside the solution, for tests that need live objects. A hostile solution can forge such a
            verdict; it is marked `weak`.

    Returns:
        [`Verdict`]: Tests passed and due, counted by the tester.

    Raises:
        [`SandboxUnavailableError`]: The sandbox or the tester itself broke.
    """
    if cases := _stdin_cases(tests):
        return await judge_stdin(solution, cases, timeout_s=timeout_s)
    due = sum(_plan(test)[0] for test in tests)
    spec: dict[str, Any] = {"tests": list(tests), "entry_point": entry_point or ""}
    if weak:
        return await _judge_within(spec | {"solution": solution}, due, timeout_s, memory_mb)
    spec["names"] = [entry_point] if entry_point else _called_names(tests, solution)
    server = await fork_server()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(slot())
        tester = await stack.enter_async_context(warm_tester(server))
        errors_fd = memory_file(stack)
        with _pipes() as (call_read, call_write, reply_read, reply_write):
            fds = [memory_file(stack, solution), memory_file(stack), memory_file(stack), errors_fd]
            fds += [call_read, reply_write]
            child = await server.spawn("serve", fds, cpu_s=int(timeout_s) + 2, memory_mb=memory_mb)
            tester.send(spec, [call_write, reply_read])
        # Both end before the files they use are closed, even if one of them fails.
        served, report = await asyncio.gather(
            server.wait(child, timeout_s), tester.receive(timeout_s + TESTER_GRACE_S), return_exceptions=True
        )
        errors = read_memory_file(errors_fd, 4096)
    if isinstance(served, BaseException):
        raise served
    if isinstance(report, BaseException):
        raise report
    status = classify(served, overflow=False)
    if report is None:
        # Only what the solution returned can have ended the tester: a value too large to handle.
        return Verdict(status, 0, due, "the tests could not be completed with what the solution returned")
    if report["total"] != due:
        raise SandboxUnavailableError(f"the tester counted {report['total']} tests, {due} were due")
    return replace(_verdict(status, report, errors), compiles=not served.invalid)


@contextlib.contextmanager
def _pipes() -> Iterator[tuple[int, int, int, int]]:
    """Two pipes, as (read, write, read, write); both ends belong to others by the end of the block."""
    with contextlib.ExitStack() as stack:
        ends: list[int] = []
        for _ in range(2):
            pair = os.pipe()
            for fd in pair:
                stack.callback(os.close, fd)
            ends += pair
        yield ends[0], ends[1], ends[2], ends[3]


async def _judge_within(spec: dict[str, Any], due: int, timeout_s: float, memory_mb: int) -> Verdict:
    """Tests and solution in one process; whatever it reports that does not fit counts as failed."""
    server = await fork_server()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(slot())
        err, count = memory_file(stack), memory_file(stack)
        fds = [memory_file(stack, json.dumps(spec)), memory_file(stack), memory_file(stack), err, count]
        ended = await server.run("test_within", fds, timeout_s=timeout_s, memory_mb=memory_mb)
        errors, written = read_memory_file(err, 4096), read_memory_file(count, DEFAULT_OUTPUT_BYTES)
    status = classify(ended, overflow=False)
    try:
        report = codec.loads(written)
        if report["total"] != due or not 0 <= report["passed"] <= due:
            raise ValueError("the counts do not fit")
        return replace(_verdict(status, report, errors), weak=True)
    except (ValueError, KeyError, TypeError, AttributeError):
        return Verdict(status, 0, due, f"the tests did not end\n{errors.strip()}".strip(), weak=True)


def _verdict(status: Status, report: dict[str, Any], errors: str) -> Verdict:
    failure = f"{report['failure']}\n{errors.strip()}".strip() if report["failure"] else ""
    failure = failure.encode("utf-8", errors="replace").decode("utf-8")
    return Verdict(status, report["passed"], report["total"], failure, needs_live_objects=report["live"])


async def judge_stdin(
    program: str, cases: Sequence[tuple[str, str]], *, timeout_s: float = DEFAULT_TEST_TIMEOUT_S
) -> Verdict:
    """
    Run a program on standard inputs and compare what it prints, ignoring white space at line ends.

    Args:
        program (`str`):
            Untrusted Python.
        cases (`Sequence[tuple[str, str]]`):
            Pairs of standard input and expected standard output.
        timeout_s (`float`, *optional*, defaults to `10.0`):
            Wall clock of each run in seconds.

    Returns:
        [`Verdict`]: Cases passed and due.
    """
    results = await asyncio.gather(*(run(program, stdin=given, timeout_s=timeout_s) for given, _ in cases))
    passed = [_same_output(result, expected) for result, (_, expected) in zip(results, cases, strict=True)]
    failure, status = "", Status.OK
    for result, good, (given, expected) in zip(results, passed, cases, strict=True):
        if not good:
            failure = f"input {given!r}: expected {expected!r}, got {result.stdout[:500]!r} {result.stderr[-500:]}"
            status = result.status
            break
    return Verdict(status, sum(passed), len(cases), failure)


def _stdin_cases(tests: Sequence[str]) -> list[tuple[str, str]]:
    """Input and output of tests that are JSON objects with both; empty if any is something else."""
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
    written, wanted = ([line.rstrip() for line in text.rstrip().split("\n")] for text in (result.stdout, expected))
    return result.status is Status.OK and written == wanted


@functools.lru_cache(maxsize=4096)
def _plan(test: str) -> tuple[int, frozenset[str]]:
    """Tests in a text, and the names it uses but does not define."""
    loaded: set[str] = set()
    bound: set[str] = {"candidate"}
    for node in ast.walk(ast.parse(test)):
        match node:
            case ast.Name():
                (loaded if isinstance(node.ctx, ast.Load) else bound).add(node.id)
            case ast.arg():
                bound.add(node.arg)
            case ast.FunctionDef() | ast.ClassDef():
                bound.add(node.name)
            case ast.Import() | ast.ImportFrom():
                bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
            case _:
                pass
    return split(test)[1], frozenset(loaded - bound)


def _called_names(tests: Sequence[str], solution: str) -> list[str]:
    """
    Functions of the solution that tests without an entry point call: names they use and nobody defines. Only tests
    that use no such name may mean one that the solution defines in the place of a builtin (`def sum(a, b)`): else a
    solution could replace what the tests compare with.
    """
    names: set[str] = set().union(*(_plan(test)[1] for test in tests))
    unknown = {name for name in names if not hasattr(builtins, name)}
    return sorted(
        unknown or {name for name in names if re.search(rf"^(?:def|class) {name}\b", solution, re.MULTILINE)}
    )
