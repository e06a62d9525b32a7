"""Verdicts on code: tests run outside the solution's process, and no solution can forge its verdict."""

from __future__ import annotations

import asyncio
import time

import pytest

from aflow_trl.sandbox import Status, fork_server, run, run_stdin_tests, run_tests
from aflow_trl.scoring import score_code

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
    ("exits in atexit", "import atexit, os\natexit.register(lambda: os._exit(0))\ndef double(x): return x"),
    (
        "exits in excepthook",
        "import sys, os\nsys.excepthook = lambda *a: os._exit(0)\ndef double(x): raise ValueError",
    ),
    ("prints the pass marker and exits", 'import os\nprint(\'{"passed": 3, "total": 3}\', flush=True)\nos._exit(0)'),
    ("raises SystemExit at import", "raise SystemExit"),
    (
        "patched sum and abs",
        "import builtins\nbuiltins.sum = builtins.abs = builtins.isinstance = lambda *a: True\ndef double(x): return x",
    ),
    (
        "settrace jumps over the asserts",
        "import sys\ndef t(f, e, a):\n try: f.f_lineno += 1\n except Exception: pass\n return t\nsys.settrace(t)\ndef double(x): return x",
    ),
    (
        "walks the frames to the verdict",
        "import sys\ndef double(x):\n f = sys._getframe()\n while f:\n  for v in list(f.f_locals.values()):\n   if isinstance(v, dict): v.update(passed=3, total=3, failure='')\n  f = f.f_back\n return x",
    ),
    (
        "scans the heap for the token",
        "import gc\ndef double(x):\n for o in gc.get_objects():\n  if isinstance(o, dict) and 'token' in o: o['value'] = 4; o['error'] = None\n return x",
    ),
    (
        "monkeypatched json",
        "import json\njson.dumps = json.JSONEncoder.encode = lambda *a, **k: '{\"value\": 4}'\ndef double(x): return x",
    ),
    (
        "monkeypatched codec",
        'import sys\nsys.modules[\'codec\'].dumps = lambda v: \'{"dict": [["token", 1], ["value", 4]]}\'\ndef double(x): return x',
    ),
    (
        "thread swaps check",
        "import threading, sys, gc\ndef swap():\n while True:\n  for m in list(sys.modules.values()):\n   if hasattr(m, 'check'): m.check = lambda c: None\nthreading.Thread(target=swap, daemon=True).start()\ndef double(x): return x",
    ),
    ("unserialisable value", "def double(x): return object()"),
    ("infinite list", "def double(x):\n l = []\n l.append(l)\n return l"),
    (
        "lying int",
        "class I(int):\n def __eq__(s, o): return True\n __hash__ = int.__hash__\ndef double(x): return I(x)",
    ),
    ("skips the test", "import unittest\ndef double(x): raise unittest.SkipTest('skip')"),
    ("raises pytest's skip", "class Skipped(BaseException): pass\ndef double(x): raise Skipped"),
    ("raises StopIteration", "def double(x): raise StopIteration"),
    ("raises KeyboardInterrupt", "def double(x): raise KeyboardInterrupt"),
    ("returns a mock", "from unittest.mock import MagicMock\ndef double(x): return MagicMock(return_value=True)"),
    (
        "writes to every fd",
        'import os\nfor fd in range(64):\n try: os.write(fd, b\'{"passed": 3, "total": 3, "failure": "", "live": false}\\n\')\n except OSError: pass\ndef double(x): return x',
    ),
    ("closes the pipes", "import os\nos.close(3); os.close(4)\ndef double(x): return x"),
    (
        "answers with another's token",
        'import os\ndef double(x):\n os.write(4, b\'{"dict": [["token", "00"], ["value", 4]]}\\n\')\n return x',
    ),
    ("reads the question again", "import os\ndef double(x):\n os.lseek(3, 0, 0)\n return x"),
    (
        "looks for the tests on disk",
        "import os, glob\ndef double(x):\n texts = [open(f).read() for f in glob.glob('/**/*', recursive=True)[:1000] if os.path.isfile(f)]\n return 4",
    ),
    ("mutates its arguments", "def double(x):\n if isinstance(x, list): x += x\n return x"),
    ("error that says it passed", "def double(x): raise AssertionError('passed 3 of 3')"),
    ("exception with a lying name", "E = type('AssertionError', (Exception,), {})\ndef double(x): raise E"),
]


@pytest.mark.parametrize(("name", "solution"), FORGERIES, ids=[row[0] for row in FORGERIES])
async def test_forged_verdict_is_rejected(name: str, solution: str) -> None:
    verdict = await run_tests(solution, TESTS, timeout_s=2)
    assert verdict.passed < verdict.total == 3


async def test_right_solution_passes_assert_lists() -> None:
    verdict = await run_tests(RIGHT, TESTS)
    assert (verdict.passed, verdict.total, verdict.failure) == (3, 3, "")


@pytest.mark.parametrize(
    "test",
    [
        "assert 1 == 1",
        "def test_f():\n    assert double(1) == 7",
        "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(double(1), 7)",
    ],
)
async def test_test_that_never_calls_the_solution_fails(test: str) -> None:
    assert (await run_tests(RIGHT, [test], entry_point="double")).passed == 0


async def test_check_function_is_called_whatever_its_spacing() -> None:
    check = "def check (candidate):\n    assert candidate(2) == 5"
    assert (await run_tests(RIGHT, [check], entry_point="double")).passed == 0


async def test_solution_named_like_a_builtin_is_called() -> None:
    assert (await run_tests("def sum(a, b): return a * b", ["assert sum(3, 4) == 12"])).passed == 1


async def test_waiting_for_a_core_does_not_count_as_run_time() -> None:
    solution = "import time\ndef double(x):\n    end = time.process_time() + 0.2\n    while time.process_time() < end: pass\n    return 2 * x"
    verdicts = await asyncio.gather(*(run_tests(solution, TESTS[:1], timeout_s=3) for _ in range(12)))
    assert all(verdict.passed == 1 for verdict in verdicts)


async def test_right_solution_passes_a_check_function() -> None:
    check = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate('a') == 'aa'\n"
    assert (await run_tests(RIGHT, [check], entry_point="double")).share == 1.0


async def test_failure_shows_the_actual_value() -> None:
    verdict = await run_tests("def double(x): return 3 * x", TESTS[:1])
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
async def test_values_keep_their_types_between_processes(expression: str, passes: bool) -> None:
    verdict = await run_tests("def pair(x): return (x, x)", [f"assert {expression}"])
    assert (verdict.passed == 1) is passes


async def test_mutated_arguments_are_visible_to_the_test() -> None:
    test = "x = [3, 1]\nsort_it(x)\nassert x == [1, 3]"
    assert (await run_tests("def sort_it(x): x.sort()", [test])).passed == 1


async def test_exceptions_keep_their_type_between_processes() -> None:
    test = "try:\n    f(0)\n    assert False\nexcept ZeroDivisionError:\n    pass"
    assert (await run_tests("def f(x): return 1 / x", [test])).passed == 1


async def test_solution_cannot_read_its_tests() -> None:
    spy = (
        "import gc\n"
        "def double(x):\n"
        "    leaked = [o for o in gc.get_objects() if isinstance(o, (list, dict)) and 'SECRET-MARK' in str(o)[:5000]]\n"
        "    return 4 if leaked else 'nothing'\n"
    )
    verdict = await run_tests(spy, ["assert double(2) == 4  # SECRET-MARK"])
    assert verdict.passed == 0


async def test_stdin_tests_compare_the_output() -> None:
    program = "print(int(input()) + 1)"
    verdict = await run_stdin_tests(program, [("1\n", "2\n"), ("5\n", "6"), ("7\n", "9")])
    assert (verdict.passed, verdict.total) == (2, 3)


# -- partial passes, weak verdicts, programs that read and print ------------------------------------------------------

CHECK = """
METADATA = {"author": "x"}

def check(candidate):
    assert True, "This prints if this assert fails 1"
    assert candidate(2) == 4
    assert candidate(3) == 6
    data = [1]
    assert candidate(data) == [1, 1]
    for n in range(4):
        assert candidate(n) == 2 * n
    assert True
"""


@pytest.mark.parametrize(
    ("solution", "passed"),
    [
        (RIGHT, 4),
        ("def double(x): return x + x if x != 3 else 0", 2),
        ("def double(x): return 4", 1),
        ("def double(x): return None", 0),
        ("def double(x): raise ValueError", 0),
    ],
)
async def test_each_assertion_of_a_check_counts_as_a_test(solution: str, passed: int) -> None:
    verdict = await run_tests(solution, [CHECK], entry_point="double")
    assert (verdict.passed, verdict.total) == (passed, 4)


async def test_check_that_raises_between_its_assertions_fails() -> None:
    check = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(3) == 6\n    candidate(None)\n"
    assert (await run_tests("def double(x): return x * 2", [check], entry_point="double")).share < 1


async def test_check_with_a_helper_counts_as_one_test() -> None:
    check = "def check(candidate):\n    def same(a, b):\n        assert a == b\n    same(candidate(2), 4)\n    same(candidate(3), 6)\n"
    verdicts = [await run_tests(text, [check], entry_point="double") for text in (RIGHT, "def double(x): return 4")]
    assert [(v.passed, v.total) for v in verdicts] == [(1, 1), (0, 1)]


LIVE = "p = Point(1, 2)\nassert p.x == 1 and norm(p, key=abs) == 3"
POINT = "class Point:\n def __init__(s, x, y): s.x, s.y = x, y\ndef norm(p, key): return key(p.x) + key(p.y)"


async def test_live_objects_fail_across_processes_with_the_reason() -> None:
    verdict = await run_tests(POINT, [LIVE])
    assert (verdict.passed, verdict.needs_live_objects, verdict.weak) == (0, True, False)


async def test_weak_verdict_supports_live_objects_and_is_marked() -> None:
    verdicts = [await run_tests(text, [LIVE], weak=True) for text in (POINT, POINT.replace("+ key", "- key"))]
    assert [(v.passed, v.total, v.weak) for v in verdicts] == [(1, 1, True), (0, 1, True)]


@pytest.mark.parametrize("solution", ["import os; os._exit(0)", "def norm(:", "while True: pass"])
async def test_weak_verdict_of_a_broken_solution_is_a_failure(solution: str) -> None:
    verdict = await run_tests(solution, [LIVE], weak=True, timeout_s=1)
    assert (verdict.passed, verdict.total) == (0, 1)


async def test_program_that_hangs_takes_the_time_of_one_case_not_of_all() -> None:
    started = time.monotonic()
    program = "n = int(input())\nwhile n == 3: pass\nprint(n)"
    verdict = await run_stdin_tests(program, [(str(n // 2), str(n // 2)) for n in range(40)], timeout_s=0.5)
    # The cases before the one that hangs count, those after it do not, whichever ran first.
    assert (verdict.passed, verdict.total, verdict.status) == (6, 40, Status.TIMEOUT)
    assert time.monotonic() - started < 3


async def test_threads_on_every_core_may_run_until_the_clock_ends() -> None:
    busy = "import hashlib, threading, time\nend = time.time() + 3.5\ndef work():\n while time.time() < end: hashlib.sha256(bytes(10**7))\n"
    threads = "ts = [threading.Thread(target=work) for _ in range(4)]\n[t.start() for t in ts]; [t.join() for t in ts]; print('done')"
    assert (await run(busy + threads, timeout_s=4)).stdout == "done\n"


async def test_json_tests_run_the_program_on_its_input() -> None:
    tests = ['{"stdin": "1\\n", "stdout": "2"}', '{"stdin": "5\\n", "stdout": "7"}']
    verdict = await run_tests("print(int(input()) + 1)", tests)
    assert (verdict.passed, verdict.total) == (1, 2)


async def test_verdicts_are_independent_of_earlier_solutions() -> None:
    """A tester serves many verdicts; nothing that one solution sent may affect the next."""
    solutions = [RIGHT, "def double(x): return [0] * 10**7", "import os; os._exit(0)", "def double(x): return x"] * 5
    verdicts = await asyncio.gather(*(run_tests(text, TESTS, timeout_s=3) for text in solutions))
    assert [verdict.passed == 3 for verdict in verdicts] == [text == RIGHT for text in solutions]


async def test_killed_solution_does_not_take_its_tester_down() -> None:
    verdict = await run_tests("import time\ndef double(x):\n    time.sleep(99)", TESTS, timeout_s=1)
    assert (verdict.status, verdict.passed, verdict.total) == (Status.TIMEOUT, 0, 3)


# -- a solution cannot replace what the tests compare with -----------------------------------------------------------


@pytest.mark.parametrize(
    ("solution", "test", "entry_point"),
    [
        ("def f(x): return 0.0\ndef abs(x): return 0", "assert abs(f(2.0) - 1.41421356) < 1e-6", "f"),
        ("def f(x): return 0.0\ndef abs(x): return 0", "assert abs(f(2.0) - 1.41421356) < 1e-6", None),
        (
            "def f(x): return None\ndef sorted(x, **k): return [1, 2, 3]",
            "def check(candidate):\n    assert sorted(candidate([3, 1, 2])) == [1, 2, 3]",
            "f",
        ),
        ("def f(x): return None\ndef all(x): return True", "assert all([f(1) == 2, f(2) == 4])", "f"),
        ("def f(x): return 0\ndef set(x): return 0", "assert set(f(3)) == set([1, 2, 3])", None),
        ("def f(x): return 0\ndef poly(x): return 0", "poly = lambda x: x - 2\nassert poly(f(0)) == 0", "f"),
        ("def f(x): raise StopIteration", "assert all(map(lambda x: f(x) == 2 * x, range(5)))", "f"),
        (
            "def f(x): raise StopIteration",
            "for got, want in zip(map(f, [1, 2]), [2, 4]):\n    assert got == want",
            "f",
        ),
        (
            "def f(x): raise StopAsyncIteration",
            "for got, want in zip(map(f, [1, 2]), [2, 4]):\n    assert got == want",
            "f",
        ),
    ],
)
async def test_wrong_solution_that_tampers_with_the_test_fails(
    solution: str, test: str, entry_point: str | None
) -> None:
    assert (await run_tests(solution, [test], entry_point=entry_point)).passed == 0


@pytest.mark.parametrize(
    ("solution", "test"),
    [
        (
            "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n x: int\ndef f(x): return P(x).x",
            "assert f(1) == 1",
        ),
        ("import pickle\nclass P: x = 1\ndef f(x): return pickle.loads(pickle.dumps(P())).x", "assert f(1) == 1"),
        (
            "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(x): return P(x, x)",
            "assert f(1) == (1, 1)",
        ),
        ("def check(x): return 'accepted' if x == 'a' else 'rejected'", "assert check('a') == 'accepted'"),
        ("def f(*, items): items.append(1)", "x = []\nf(items=x)\nassert x == [1]"),
        ("def f(grid): grid[0][0] = 9", "row = [1]\nf([row, [2]])\nassert row == [9]"),
        ("def f(data): data.reverse()", "x = bytearray(b'ab')\nf(x)\nassert x == b'ba'"),
        ("def f(d): d['k'].append(2)", "inner = [1]\nf({'k': inner})\nassert inner == [1, 2]"),
        (
            "def f(x): assert x > 0; return x",
            "try:\n    f(-1)\n    raised = False\nexcept AssertionError:\n    raised = True\nassert raised",
        ),
        ("def f(n): return 10 ** n", "assert f(50_000) == 10 ** 50_000"),
    ],
)
async def test_unusual_but_right_solution_passes(solution: str, test: str) -> None:
    verdict = await run_tests(solution, [test])
    assert verdict.passed == 1, verdict.failure


@pytest.mark.parametrize(
    ("solution", "test"),
    [
        (
            "from fractions import Fraction\ndef f(x): return Fraction(x,3)",
            "from fractions import Fraction\nassert f(1)==Fraction(1,3)",
        ),
        ("from fractions import Fraction\ndef f(x): return [Fraction(x,2)]", "assert f(1)==[0.5]"),
        (
            "from decimal import Decimal\ndef f(x): return Decimal('0.1')+Decimal('0.2')",
            "from decimal import Decimal\nassert f(1)==Decimal('0.3')",
        ),
        (
            "import datetime as d\ndef f(x): return d.date(2020,1,x)",
            "import datetime\nassert f(5)==datetime.date(2020,1,5)",
        ),
        (
            "import datetime as d\ndef f(x): return x+d.timedelta(days=1)",
            "assert f(datetime.datetime(2020,1,1))==datetime.datetime(2020,1,2)",
        ),
        (
            "import datetime as d\ndef f(x): return x.astimezone(d.timezone.utc)",
            "from datetime import *\nz=timezone(timedelta(hours=2))\nassert f(datetime(2020,1,1,2,tzinfo=z))==datetime(2020,1,1,0,tzinfo=timezone.utc)",
        ),
        (
            "from collections import deque\ndef f(x): return deque(x)",
            "from collections import deque\nassert f([1,2])==deque([1,2]) and f([1]) != [1]",
        ),
        ("def f(x): return (i*i for i in x)", "assert list(f([1,2,3]))==[1,4,9]"),
        (
            "def f(x):\n  a,b=0,1\n  while True:\n    yield a\n    a,b=b,a+b",
            "import itertools\ng=f(1)\nassert [next(g) for _ in range(10)]==[0,1,1,2,3,5,8,13,21,34]\nassert list(itertools.islice(f(0),3000))[-1]>10**500",
        ),
        ("def f(x): return map(str,x)", "assert list(f([1,2]))==['1','2']"),
        ("def f(x): return zip(x,x)", "assert list(f([1,2]))==[(1,1),(2,2)] and sorted(f([2,1]))==[(1,1),(2,2)]"),
        ("def f(x): return range(x)", "assert f(3)==range(3) and list(f(3))==[0,1,2] and f(3)!=[0,1,2]"),
        ("def f(x): return x.keys()", "assert f({'a':1})=={'a'}"),
        ("def f(x): return x.items()", "assert f({'a':1})=={('a',1)} and dict(f({'a':1}))=={'a':1}"),
        ("def f(x): return x.values()", "assert list(f({'a':1}))==[1] and sum(f({'a':3}))==3"),
        (
            "class E(ValueError): pass\ndef f(x): raise E('bad')",
            "try:\n f(1)\n ok=False\nexcept ValueError as e:\n ok = str(e)=='bad'\nassert ok",
        ),
        (
            "import json\ndef f(x): return json.loads(x)",
            "try:\n f('{')\n ok=False\nexcept ValueError as e:\n ok = True\nassert ok",
        ),
        (
            "def f(d): return d['x']",
            "try:\n f({})\n ok=False\nexcept KeyError as e:\n ok = e.args==('x',) and str(e)==\"'x'\"\nassert ok",
        ),
        ("import math\ndef f(x): return math.sqrt(x)", "assert math.isclose(f(2), 1.41421356, rel_tol=1e-6)"),
        ("import numpy as np\ndef f(x): return np.array(x)*2", "assert np.array_equal(f([1,2]), [2,4])"),
        ("def f(t): t[0].append(3)", "x=([1,2],)\nf(x)\nassert x==([1,2,3],)"),
        ("def f(t): t[0][0].append(3)", "a=[1]\nx=[(a,)]\nf(x)\nassert a==[1,3] and x[0][0] is a"),
        ("def f(d):\n  d.rotate(1)", "from collections import deque\nd=deque([1,2,3])\nf(d)\nassert list(d)==[3,1,2]"),
        (
            "def f(d):\n  d['a'].append(1)",
            "from collections import defaultdict\nd=defaultdict(list,{'a':[]})\nf(d)\nassert d['a']==[1]",
        ),
        (
            "from collections import Counter\ndef f(x): return Counter(x)",
            "assert f('aab').most_common(1)==[('a',2)] and f('a')=={'a':1}",
        ),
        (
            "from collections import OrderedDict\ndef f(x): return OrderedDict(x)",
            "from collections import OrderedDict\nassert f([(1,2),(3,4)])==OrderedDict([(1,2),(3,4)])!=OrderedDict([(3,4),(1,2)])",
        ),
        ("def f(n): return 7**n", "assert f(300_000)==7**300_000"),
        (
            "def f(it): return sum(it)",
            "assert f(iter([1,2]))==3 and f(x for x in (1,2))==3 and f(range(3))==3 and f({1:2}.keys())==1",
        ),
        (
            "def f(x):\n  yield 1\n  raise KeyError('k')",
            "g=f(1)\nassert next(g)==1\ntry:\n  next(g); ok=False\nexcept KeyError: ok=True\nassert ok",
        ),
        ("def string(x): return x+'!'", "assert string('a')=='a!'"),
        ("import queue\ndef f(x): return [x for x in [1]]", "assert isinstance(f(1), list)"),
        ("import itertools\ndef f(x): return itertools.chain(x,x)", "assert list(f([1]))==[1,1]"),
        (
            "def f(x): return [reversed(x), enumerate(x)]",
            "a,b=f([1,2])\nassert list(a)==[2,1] and list(b)==[(0,1),(1,2)]",
        ),
        ("def f(x): return [iter(x) for _ in range(1)]", "assert [list(i) for i in f([1,2])]==[[1,2]]"),
        (
            "import types\ndef f(x): yield from x",
            "import types, inspect\nassert isinstance(f([1]), types.GeneratorType) and inspect.isgenerator(f([1]))",
        ),
    ],
)
async def test_honest_results_pass(solution: str, test: str) -> None:
    verdict = await run_tests(solution, [test])
    assert verdict.passed == 1, verdict.failure


@pytest.mark.parametrize(
    ("solution", "test"),
    [
        ("def f(x): return range(x)", "assert f(2) == [0, 1]"),
        ("def f(x): return (i for i in x)", "assert f([1]) == [1]"),
        ("def f(x): return map(str, x)", "assert f([1]) == ['1']"),
        ("def f(x): return {1: 2}.keys()", "assert f(1) == [1]"),
        ("def f(x): return iter([1, 3])", "assert list(f(1)) == [1, 2]"),
        ("def f(x): return (x / 0 for _ in [1])", "assert list(f(1)) == []"),
        ("from collections import deque\ndef f(x): return deque(x)", "assert f([1]) == [1]"),
        ("class E(KeyError): pass\ndef f(x): raise E", "try: f(1)\nexcept ValueError: pass"),
        ("import math as np\ndef f(x): return x", "import math\nassert np.prod([f(2)]) == 3"),
        ("math = type('M', (), {'isclose': lambda *a: True})\ndef f(x): return x", "assert math.isclose(f(1), 2)"),
    ],
)
async def test_results_of_another_type_or_value_fail(solution: str, test: str) -> None:
    assert (await run_tests(solution, [test])).passed == 0


async def test_endless_iterator_takes_no_longer_than_the_clock() -> None:
    started = time.monotonic()
    verdict = await run_tests("def f(x):\n  while True: yield x", ["assert list(f(1)) == [1]"], timeout_s=1)
    assert verdict.passed == 0 and time.monotonic() - started < 2.5


@pytest.mark.parametrize(
    "value", ["{k * (2**61 - 1) for k in range(300_000)}", "10 ** 10_000_000", "[[]] * 2_000_000"]
)
async def test_value_that_is_slow_to_decode_does_not_delay_the_verdict(value: str) -> None:
    started = time.monotonic()
    verdict = await run_tests(f"def f(x): return {value}", ["assert f(1) == 1"], timeout_s=2)
    assert verdict.passed == 0 and time.monotonic() - started < 3


async def test_output_of_tests_does_not_reach_the_next_verdict() -> None:
    loud = "print(double(1), flush=True)\nassert double(1) == 2"
    for _ in range(3):
        await run_tests("def double(x): return 'a' * 9_000_000", [loud])
        assert (await run_tests(RIGHT, [loud])).passed == 1


async def test_tester_that_died_while_idle_is_replaced() -> None:
    await run_tests(RIGHT, TESTS)
    server = await fork_server()
    for tester in server.idle_testers:
        await server.kill(tester._child)
        await tester._child.exit
    assert (await run_tests(RIGHT, TESTS)).passed == 3


async def test_failure_text_is_valid_unicode() -> None:
    verdict = await run_tests("def double(x): raise ValueError('\\ud800')", TESTS)
    assert b"ValueError" in verdict.failure.encode()


@pytest.mark.parametrize(
    ("solution", "compiles"), [("def double(x): return x", True), ("def double(x:", False), ("a\0b", False)]
)
async def test_verdict_reports_whether_the_solution_compiles(solution: str, compiles: bool) -> None:
    assert (await run_tests(solution, TESTS)).compiles is compiles


async def test_a_single_text_is_no_list_of_tests() -> None:
    with pytest.raises(ValueError, match="Give a list"):
        await run_tests("def f(x): return x", "assert f(1) == 1")


async def test_a_byte_order_mark_before_the_code_does_no_harm() -> None:
    score = await score_code("\ufeffdef f(x): return x", ["assert f(1) == 1"], "f")
    assert score.value == 1.0


@pytest.mark.parametrize(("solution", "passed"), [("def f(x): return 2 * x", 1), ("def f(x): return x", 0)])
async def test_check_may_take_no_parameter(solution: str, passed: int) -> None:
    verdict = await run_tests(solution, ["def check():\n    assert f(2) == 4"], entry_point="f")
    assert (verdict.passed, verdict.total) == (passed, 1)


PROMPT = "Complete the function `f`.\n\n```python\nfrom typing import List\nimport math\n\ndef f(x: List[float]):\n    ...\n```"


@pytest.mark.parametrize(
    ("question", "value"),
    [(PROMPT, 1.0), ("Write f, which sums the roots.", 0.0), ("```python\nfrom x import (\n```", 0.0)],
)
async def test_answer_may_rely_on_the_imports_of_the_prompt(question: str, value: float) -> None:
    answer = "def f(x: List[float]):\n    return sum(map(math.sqrt, x))"
    score = await score_code(answer, ["assert f([1, 4]) == 3"], "f", question=question)
    assert score.value == value
