"""
The trusted side of a verdict: runs the tests in a separate process and calls the solution through pipes.

Standard library only. The process of a solution never holds its tests, except in [`test_within`].
"""

import ast
import builtins
import collections
import contextlib
import functools
import importlib
import itertools
import json
import operator
import os
import socket
import sys

import checks
import codec

COUNT_FD = 3
_STOPS = (StopIteration, StopAsyncIteration)
"""Exceptions that would end a loop of the test instead of failing it, and so make `all(map(f, inputs))` pass."""
FAILURE_CHARS = 2_000
MAX_DIGITS = 100_000
"""Maximum number of digits of an integer that a test may print or parse, which takes quadratic time."""
TOKEN_BYTES = 16
MAX_ITEMS = 1_024
"""Maximum number of items of an iterator that one call fetches."""
_MUTABLE = (list, collections.deque, dict, set, bytearray)


class SolutionError(Exception):
    """The solution raised an exception, or did not answer."""


class NeedsLiveObjectError(SolutionError):
    """A test passes or receives a value that is not plain data, so it cannot be run from outside the process."""


class Proxy:
    """Stands in for a function of the solution; each call is forwarded to the other process."""

    def __init__(self, name, calls, replies):
        self.__name__ = name
        self._calls, self._replies = calls, replies
        self.calls_made = 0

    def __call__(self, *args, **kwargs):
        self.calls_made += 1
        call = {"name": self.__name__, "args": list(args), "kwargs": kwargs}
        reply = self._ask(call)
        _raise_error(reply)
        _copy_back(call["args"], reply["args"])
        _copy_back(kwargs, reply["kwargs"])
        return reply["value"]

    def _ask(self, question):
        # A fresh token per call: replies that the solution wrote ahead of the call do not carry it.
        token = os.urandom(TOKEN_BYTES).hex()
        try:
            self._calls.write(codec.dumps(question | {"token": token}) + "\n")
            self._calls.flush()
            reply = codec.loads(self._replies.readline(codec.MAX_BYTES + 1024), self._iterate)
        except codec.LiveObjectError as error:
            raise NeedsLiveObjectError(f"an argument of {self.__name__}: {error}") from None
        except (OSError, ValueError) as error:
            raise SolutionError(f"{self.__name__} did not answer ({type(error).__name__})") from None
        if not isinstance(reply, dict) or reply.get("token") != token:
            raise SolutionError(f"{self.__name__} answered a different call")
        if "live" in reply:
            raise NeedsLiveObjectError(f"what {self.__name__} returned: {str(reply['live'])[:500]}")
        return reply

    def _iterate(self, number):
        """Items of an iterator of the solution, which may be infinite: fetched as the test asks for them."""
        count = 1
        while True:
            reply = self._ask({"next": number, "count": count})
            yield from reply["items"]
            _raise_error(reply)
            if reply["ended"]:
                return
            count = min(2 * count, MAX_ITEMS)


def _raise_error(reply):
    """Raise what the solution raised, if anything: the closest builtin exception, else [`SolutionError`]."""
    if "error" not in reply:
        return
    name, args = reply["error"], reply["error_args"]
    kind = getattr(builtins, name, None) if isinstance(name, str) else None
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, _STOPS):
        with contextlib.suppress(TypeError):  # arguments that the class does not take
            raise kind(*args)
    raise SolutionError(f"{reply['class']}: {reply['text']}")


def _copy_back(passed, returned):
    """Apply the solution's changes to the caller's arguments in place, including nested containers."""
    if isinstance(passed, tuple) and isinstance(returned, tuple):
        for old, new in zip(passed, returned):
            _copy_back(old, new)
    elif isinstance(passed, list | collections.deque) and isinstance(returned, list | collections.deque):
        merged = [_merged(old, new) for old, new in zip(passed, returned)]
        items = [*merged, *itertools.islice(returned, len(merged), None)]
        passed.clear()
        passed.extend(items)
    elif isinstance(passed, dict) and isinstance(returned, dict):
        merged = {key: _merged(passed.get(key), value) for key, value in returned.items()}
        passed.clear()
        passed.update(merged)
    elif isinstance(passed, set) and isinstance(returned, set):
        passed.clear()
        passed.update(returned)
    elif isinstance(passed, bytearray) and isinstance(returned, bytearray):
        passed[:] = returned


def _merged(old, new):
    # The existing container is kept and updated: the test may hold another reference to it.
    if isinstance(old, tuple) and isinstance(new, tuple):
        items = tuple(_merged(*pair) for pair in zip(old, new))
        return old if len(old) == len(new) and all(map(operator.is_, items, old)) else (*items, *new[len(items) :])
    # Not only equal types: a `defaultdict` is sent as a `dict`.
    if any(isinstance(old, kind) and isinstance(new, kind) for kind in _MUTABLE):
        _copy_back(old, new)
        return old
    return new


def serve_tests(control_fd):
    """
    Test one solution after another until the control socket closes.

    Each message carries three descriptors: a specification with `tests` (source), `names` (functions of the solution)
    and `entry_point` (the one that `candidate` stands for), and the pipes to and from the solution. The reply is the
    report of [`_count`]. Tests are trusted and solutions return plain values only, so one process can serve many.
    """
    control = socket.socket(fileno=control_fd)
    sys.set_int_max_str_digits(MAX_DIGITS)
    while True:
        message, fds, _, _ = socket.recv_fds(control, 1, 3)
        if not message:
            return
        with os.fdopen(fds[0], "rb") as file:
            spec = json.loads(file.read())
        with contextlib.suppress(BrokenPipeError), os.fdopen(fds[1], "w") as calls, os.fdopen(fds[2]) as replies:
            report = _count_outside(spec, calls, replies)
        control.send(codec.dumps(report).encode())


def _count_outside(spec, calls, replies):
    def scope():
        proxies = {name: Proxy(name, calls, replies) for name in spec["names"]}
        # A test that never calls the solution has not tested it.
        return proxies, lambda: any(proxy.calls_made for proxy in proxies.values())

    return _count(spec, scope)


def test_within(spec):
    """Run the tests in the solution's process: a weak verdict, which a hostile solution can forge."""
    solution = {"__name__": "solution", "__builtins__": __builtins__}
    exec(compile(spec["solution"], "<solution>", "exec"), solution)
    count = codec.dumps(_count(spec, lambda: (dict(solution), lambda: True)))
    os.write(COUNT_FD, count.encode())


def _count(spec, make_scope):
    """Number of tests run and passed, the first failure, and whether a test failed because it needs live objects."""
    report = {"passed": 0, "total": 0, "failure": "", "live": False}
    for test in spec["tests"]:
        functions, was_called = make_scope()
        scope = {"__name__": "tests", "__builtins__": __builtins__, **functions}
        scope["candidate"] = scope.get(spec["entry_point"])
        # A test may rely on the modules that the solution imports, as in `math.isclose(f(2), 1.41)`.
        scope |= {name: importlib.import_module(module) for name, module in spec["modules"].items()}
        code, total, defines_check = _compiled(test)
        passed, error = _run(code, total, scope, defines_check)
        if error is None and not was_called():
            passed, error = 0, SolutionError("the test never called the solution")
        report["total"] += total
        report["passed"] += passed
        report["live"] |= isinstance(error, NeedsLiveObjectError)
        if error is not None:
            report["failure"] = report["failure"] or _failure(test, error)[:FAILURE_CHARS]
    return report


@functools.lru_cache(maxsize=512)
def _compiled(test):
    """Code of a test, the number of tests in it, and whether it defines `check`; cached for other solutions."""
    tree, total, defines_check = checks.split(test)
    return compile(tree, "<test>", "exec"), total, defines_check


def _run(code, total, scope, defines_check):
    """Number of tests in one source text that passed, and the first exception."""
    outcomes = {}
    scope[checks.RECORD] = outcomes.__setitem__
    raised = None
    try:
        exec(code, scope)
        if defines_check:
            check = scope["check"]
            check(*[scope["candidate"]][: check.__code__.co_argcount])
    except BaseException as error:
        raised = error
    if total == 1:
        return int(raised is None), raised
    passed = sum(outcomes.get(index, raised) is None and index in outcomes for index in range(total))
    first = raised or next((error for error in outcomes.values() if error is not None), None)
    if first is None and passed < total:
        first = SolutionError("a test did not run")
    # An exception between the assertions is a failure even if every recorded assertion passed.
    return (passed if raised is None else min(passed, total - 1)), first


def _failure(test, error):
    if isinstance(error, AssertionError):
        return f"{test.strip()}\nfailed{_actual(test, error)}"
    return f"{test.strip()}\nraised {type(error).__name__}: {error}"


def _actual(test, error):
    """Value of the left side of a failed `assert left == right`, which a repair prompt shows."""
    try:
        statement = ast.parse(test.strip()).body[-1]
        compare = statement.test
        scope = error.__traceback__.tb_next.tb_frame.f_globals
        value = eval(compile(ast.Expression(compare.left), "<left>", "eval"), scope)
        return f": got {value!r}"[:500]
    except Exception:  # not a plain comparison: fall back to its message
        return f": {error}" if str(error) else ""
