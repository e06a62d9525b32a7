"""Untrusted programs end with the right status and leave nothing behind; verdicts cannot be forged."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from aflow_trl.sandbox import Status, judge, judge_stdin, run

OK, ERROR, TIMEOUT, MEMORY = Status.OK, Status.ERROR, Status.TIMEOUT, Status.MEMORY
OUTPUT, KILLED, DENIED = Status.OUTPUT, Status.KILLED, Status.DENIED

# id, program, allowed statuses
PROGRAMS = [
    ("spins", "while True: pass", {TIMEOUT}),
    ("sleeps", "import time; time.sleep(10**6)", {TIMEOUT}),
    ("ignores SIGXCPU", "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", {TIMEOUT}),
    (
        "ignores signals",
        "import signal\nfor s in range(1, 32):\n try: signal.signal(s, signal.SIG_IGN)\n"
        " except (OSError, ValueError): pass\nwhile True: pass",
        {TIMEOUT},
    ),
    ("swallows everything", "while True:\n try:\n  while True: pass\n except BaseException: pass", {TIMEOUT}),
    ("grows a list", "x = []\nwhile True: x.append(bytearray(10**6))", {MEMORY}),
    ("huge bytearray", "bytearray(8 << 30)", {MEMORY}),
    ("huge power", "9**9**8", {TIMEOUT, MEMORY}),
    ("regex", "import re; re.match(r'(a+)+$', 'a' * 60 + 'b')", {TIMEOUT}),
    ("recursion", "def f(): f()\nf()", {ERROR}),
    ("deep recursion", "import sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()", {MEMORY, KILLED, ERROR}),
    ("endless stdout", "while True: print('x' * 1000)", {OUTPUT}),
    ("endless stderr", "import sys\nwhile True: print('x' * 1000, file=sys.stderr)", {OUTPUT}),
    ("fork", "import os; os.fork()", {DENIED}),
    ("fork bomb", "import os\nwhile True: os.fork()", {DENIED}),
    ("subprocess", "import subprocess; subprocess.run(['ls'])", {DENIED}),
    ("exec", "import os; os.execv('/bin/ls', ['ls'])", {DENIED}),
    ("huge file", "f = open('x', 'wb')\nwhile True: f.write(bytes(10**6))", {ERROR}),
    ("opens fds", "x = []\nwhile True: x.append(open('/dev/null'))", {ERROR}),
    ("input", "input()", {ERROR}),
    ("reads passwd", "open('/etc/passwd').read()", {DENIED}),
    ("reads shadow", "open('/etc/shadow').read()", {DENIED}),
    ("reads parent environ", "import os; open(f'/proc/{os.getppid()}/environ').read()", {DENIED}),
    ("reads parent memory", "import os; open(f'/proc/{os.getppid()}/mem', 'rb').read(1)", {DENIED}),
    ("writes tmp", "open('/tmp/aflow-victim', 'w')", {DENIED}),
    ("lists home", "import os; os.listdir(os.path.dirname(os.getcwd()) + '/../..')", {DENIED}),
    ("symlink out", "import os; os.symlink('/etc/passwd', 'x'); open('x').read()", {DENIED}),
    ("tcp", "import socket; socket.create_connection(('127.0.0.1', 80))", {DENIED}),
    ("udp", "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", {DENIED}),
    ("unix socket", "import socket; socket.socket(socket.AF_UNIX)", {DENIED}),
    ("kills parent", "import os; os.kill(os.getppid(), 9)", {DENIED}),
    ("kills all", "import os; os.kill(-1, 9)", {DENIED}),
    ("setuid", "import os; os.setuid(12345)", {DENIED, ERROR}),
    ("unshare", "import ctypes; l = ctypes.CDLL(None, use_errno=True); assert l.unshare(0x10000000) == -1", {OK}),
    ("raises own limits", "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", {DENIED, ERROR}),
    ("segfault", "import ctypes; ctypes.string_at(0)", {KILLED}),
    ("abort", "import os; os.abort()", {KILLED}),
    ("stops itself", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", {TIMEOUT}),
    ("null byte", "a\0b", {ERROR}),
    ("closes stdout", "import os; os.close(1); os.close(2)", {OK, ERROR}),
    ("bad utf-8", "import sys; sys.stdout.buffer.write(b'\\xff\\x00')", {OK}),
    # controls that must pass
    ("sum", "print(sum(range(10**6)))", {OK}),
    ("asyncio", "import asyncio\nasync def f(): return 1\nasyncio.run(f())", {OK}),
    ("threads", "import threading\nt = threading.Thread(target=print)\nt.start(); t.join()", {OK}),
    ("tempfile", "import tempfile\nwith tempfile.TemporaryFile() as f: f.write(b'x')", {OK}),
    ("numpy", "import numpy; print(numpy.arange(3).sum())", {OK}),
    ("5 MB of output", "print('x' * 5_000_000)", {OK}),
    ("unicode", "print('é ✓')", {OK}),
]


@pytest.mark.parametrize(("name", "program", "allowed"), PROGRAMS, ids=[row[0] for row in PROGRAMS])
async def test_program_ends_as_it_must(name: str, program: str, allowed: set[Status]) -> None:
    timeout_s = 1.0 if allowed == {TIMEOUT} else 10.0
    started = time.monotonic()
    result = await run(program, timeout_s=timeout_s)
    assert result.status in allowed, result.stderr[-300:]
    assert time.monotonic() - started < timeout_s + 1
    assert len(result.stdout) <= 8 << 20


async def test_environment_holds_no_secret() -> None:
    os.environ["PLANTED_TOKEN"] = "very-secret-value"
    result = await run("import os; print(dict(os.environ))")
    assert result.status is OK and "very-secret-value" not in result.stdout


async def test_nothing_survives_from_one_run_to_the_next() -> None:
    await run("open('json.py', 'w').write('broken'); import json; json.dumps = None")
    result = await run("import json, os; print(json.dumps(os.listdir('.')))")
    assert result.stdout == "[]\n"


async def test_many_runs_at_once_all_come_back_right() -> None:
    results = await asyncio.gather(*(run(f"print({n} * 2)") for n in range(32)))
    assert [result.stdout for result in results] == [f"{2 * n}\n" for n in range(32)]


async def test_runs_leave_no_process_fd_or_file() -> None:
    from aflow_trl.sandbox import fork_server

    server = await fork_server()
    await run("pass")
    before = len(list(Path("/proc/self/fd").iterdir()))
    await asyncio.gather(*(run("open('x', 'w')") for _ in range(100)))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert list(Path(server._scratch).iterdir()) == []
    children = Path(f"/proc/{server._process.pid}/task/{server._process.pid}/children").read_text()
    assert children.strip() == ""


async def test_a_run_does_not_block_the_event_loop() -> None:
    gaps = []

    async def watch() -> None:
        while True:
            started = time.monotonic()
            await asyncio.sleep(0.005)
            gaps.append(time.monotonic() - started)

    await run("pass")
    watcher = asyncio.ensure_future(watch())
    await asyncio.gather(*(run("sum(range(10**5))") for _ in range(30)))
    watcher.cancel()
    assert max(gaps) < 0.1


async def test_traceback_shows_the_program_and_no_path_of_the_package() -> None:
    result = await run("def f():\n    return 1 / 0\nf()")
    assert "ZeroDivisionError" in result.stderr and '"<program>", line 2' in result.stderr
    assert "aflow_trl" not in result.stderr and "child.py" not in result.stderr


@pytest.mark.parametrize("missing", ["landlock", "seccomp"])
def test_machine_that_cannot_confine_is_refused_by_name(missing: str) -> None:
    from aflow_trl.errors import SandboxUnavailableError
    from aflow_trl.sandbox.client import require_layers

    require_layers({"landlock": 1, "seccomp": True})
    with pytest.raises(SandboxUnavailableError, match=missing):
        require_layers({"landlock": 1, "seccomp": True} | {missing: 0})


async def test_stdin_reaches_the_program() -> None:
    assert (await run("print(input()[::-1])", stdin="abc\n")).stdout == "cba\n"


# -- verdicts --------------------------------------------------------------------------------------------------------

TESTS = ["assert double(2) == 4", "assert double(5) == 10", "assert double([1]) == [1, 1]"]
RIGHT = "def double(x):\n    return x * 2"

FORGERIES = [
    ("wrong", "def double(x): return x"),
    ("exits at import", "import sys; sys.exit(0)"),
    ("hard exit at import", "import os; os._exit(0)"),
    ("exits in the call", "def double(x): raise SystemExit(0)"),
    ("hard exit in the call", "import os\ndef double(x): os._exit(0)"),
    ("prints a verdict", 'print(\'{"passed": 3, "total": 3, "failure": ""}\')\ndef double(x): return x'),
    ("always equal", "class E:\n def __eq__(s, o): return True\ndef double(x): return E()"),
    (
        "lying str",
        "class S(str):\n def __eq__(s, o): return True\n __hash__ = str.__hash__\ndef double(x): return S('x')",
    ),
    ("patched builtins", "import builtins\nbuiltins.len = builtins.abs = lambda *a: 0\ndef double(x): return x"),
    ("patched json", "import json\njson.dumps = lambda *a, **k: '{}'\ndef double(x): return x"),
    (
        "reply before the question",
        'import os\nos.write(4, b\'{"token": 1, "value": 4}\\n\' * 9)\ndef double(x): return x',
    ),
    ("raises AssertionError", "def double(x): raise AssertionError"),
    ("infinite generator", "def double(x):\n while True: yield x"),
    ("NaN", "def double(x): return float('nan')"),
    ("settrace", "import sys\nsys.settrace(lambda *a: None)\ndef double(x): return x"),
    ("hangs", "def double(x):\n while True: pass"),
    ("no such function", "def triple(x): return 3 * x"),
    ("syntax error", "def double(x:"),
    ("exits with an odd code", "import os\ndef double(x): os._exit(78)"),
    ("huge error text", "def double(x): raise ValueError('x' * 9_000_000)"),
    ("huge number", "def double(x): return 10**10**5"),
    ("value too large for the tests", "def double(x): return [0] * 10**7"),
]


@pytest.mark.parametrize(("name", "solution"), FORGERIES, ids=[row[0] for row in FORGERIES])
async def test_forgery_fails(name: str, solution: str) -> None:
    verdict = await judge(solution, TESTS, timeout_s=2)
    assert verdict.passed < verdict.total == 3


async def test_right_solution_passes_assert_lists() -> None:
    verdict = await judge(RIGHT, TESTS)
    assert (verdict.passed, verdict.total, verdict.failure) == (3, 3, "")


@pytest.mark.parametrize(
    "test",
    [
        "assert 1 == 1",
        "def test_f():\n    assert double(1) == 7",
        "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(double(1), 7)",
    ],
)
async def test_a_test_that_never_calls_the_solution_does_not_pass(test: str) -> None:
    assert (await judge(RIGHT, [test], entry_point="double")).passed == 0


async def test_check_function_is_called_however_it_is_spelled() -> None:
    check = "def check (candidate):\n    assert candidate(2) == 5"
    assert (await judge(RIGHT, [check], entry_point="double")).passed == 0


async def test_solution_named_like_a_builtin_is_called() -> None:
    assert (await judge("def sum(a, b): return a * b", ["assert sum(3, 4) == 12"])).passed == 1


async def test_many_slow_solutions_at_once_do_not_run_out_of_time_by_waiting() -> None:
    solution = "import time\ndef double(x):\n    end = time.process_time() + 0.2\n    while time.process_time() < end: pass\n    return 2 * x"
    verdicts = await asyncio.gather(*(judge(solution, TESTS[:1], timeout_s=3) for _ in range(12)))
    assert all(verdict.passed == 1 for verdict in verdicts)


async def test_program_cannot_pass_its_end_off_as_trouble_of_the_sandbox() -> None:
    for code in (76, 77, 78):
        assert (await run(f"import os; os._exit({code})")).status is not Status.UNAVAILABLE


def test_servers_of_closed_loops_are_let_go() -> None:
    from aflow_trl.sandbox import client

    for _ in range(3):
        asyncio.run(run("pass"))
    asyncio.run(run("pass"))
    assert sum(loop.is_closed() for loop, _ in client._STATES.values()) <= 1


async def test_right_solution_passes_a_check_function() -> None:
    check = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate('a') == 'aa'\n"
    assert (await judge(RIGHT, [check], entry_point="double")).share == 1.0


async def test_failure_says_what_came_out() -> None:
    verdict = await judge("def double(x): return 3 * x", TESTS[:1])
    assert "got 6" in verdict.failure


@pytest.mark.parametrize(
    ("expression", "passes"),
    [
        ("pair(1) == (1, 1)", True),
        ("pair(1) == [1, 1]", False),
        ("pair(1.0) == (1, 1)", True),
        ("pair({1: {2}}) == ({1: {2}}, {1: {2}})", True),
        ("pair(b'x') == (b'x', b'x')", True),
        ("pair(1j) == (1j, 1j)", True),
        ("pair(None) == (None, None)", True),
    ],
)
async def test_values_cross_with_their_types(expression: str, passes: bool) -> None:
    verdict = await judge("def pair(x): return (x, x)", [f"assert {expression}"])
    assert (verdict.passed == 1) is passes


async def test_mutated_arguments_come_back() -> None:
    test = "x = [3, 1]\nsort_it(x)\nassert x == [1, 3]"
    assert (await judge("def sort_it(x): x.sort()", [test])).passed == 1


async def test_exceptions_cross_under_their_name() -> None:
    test = "try:\n    f(0)\n    assert False\nexcept ZeroDivisionError:\n    pass"
    assert (await judge("def f(x): return 1 / x", [test])).passed == 1


async def test_solution_cannot_read_its_tests() -> None:
    spy = (
        "import gc\n"
        "def double(x):\n"
        "    found = [o for o in gc.get_objects() if isinstance(o, (list, dict)) and 'SECRET-MARK' in str(o)[:5000]]\n"
        "    return 4 if found else 'nothing'\n"
    )
    verdict = await judge(spy, ["assert double(2) == 4  # SECRET-MARK"])
    assert verdict.passed == 0


async def test_stdin_tasks_compare_output() -> None:
    program = "print(int(input()) + 1)"
    verdict = await judge_stdin(program, [("1\n", "2\n"), ("5\n", "6"), ("7\n", "9")])
    assert (verdict.passed, verdict.total) == (2, 3)
