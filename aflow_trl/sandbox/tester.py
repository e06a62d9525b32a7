"""
The trusted side of a verdict: runs tests in a process of its own and calls the solution through pipes.

Standard library only. The process that holds a solution never holds its tests; the exception is [`test_within`].
"""

import ast
import builtins
import contextlib
import functools
import json
import os
import socket
import sys

import checks
import codec

COUNT_FD = 3
_STOPS = (StopIteration, StopAsyncIteration)
FAILURE_CHARS = 2_000
MAX_DIGITS = 100_000
"""Most digits of a number that a solution may return; reading more would take longer than a test may."""
TOKEN_BYTES = 16


class SolutionError(Exception):
    """The solution raised, or did not answer."""


class NeedsLiveObjectError(SolutionError):
    """A test passes or gets a value that is no plain data, so it cannot be judged from outside."""


class Proxy:
    """Stands for one function of the solution; each call crosses to the other process and back."""

    def __init__(self, name, calls, replies):
        self.__name__ = name
        self._calls, self._replies = calls, replies
        self.count = 0

    def __call__(self, *args, **kwargs):
        self.count += 1
        token = os.urandom(TOKEN_BYTES).hex()
        call = {"token": token, "name": self.__name__, "args": list(args), "kwargs": kwargs}
        try:
            self._calls.write(codec.dumps(call) + "\n")
            self._calls.flush()
            reply = codec.loads(self._replies.readline(codec.MAX_BYTES + 1024))
        except codec.LiveObjectError as error:
            raise NeedsLiveObjectError(f"an argument of {self.__name__}: {error}") from None
        except (OSError, ValueError) as error:
            raise SolutionError(f"{self.__name__} did not answer ({type(error).__name__})") from None
        if not isinstance(reply, dict) or reply.get("token") != token:
            raise SolutionError(f"{self.__name__} answered another question")
        if "live" in reply:
            raise NeedsLiveObjectError(f"what {self.__name__} returned: {str(reply['live'])[:500]}")
        if "error" in reply:
            raise _plain(reply["error"], str(reply["text"])[:500])
        _copy_back(call["args"], reply["args"])
        _copy_back(kwargs, reply["kwargs"])
        return reply["value"]


def _plain(name, text):
    """What the solution raised: plain exceptions under their own name, never one that ends the tester."""
    kind = getattr(builtins, name, None) if isinstance(name, str) else None
    # Not StopIteration: it would end a loop of the test instead of the test.
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, _STOPS):
        try:
            return kind(text)
        except TypeError:  # one that takes more than a text
            pass
    return SolutionError(f"{name}: {text}")


def _copy_back(given, returned):
    """Make what was passed look like what came back, containers inside it too."""
    if type(given) is not type(returned):
        return
    if isinstance(given, list):
        for place, (own, other) in enumerate(zip(given, returned)):
            returned[place] = _merged(own, other)
        given[:] = returned
    elif isinstance(given, dict):
        merged = {key: _merged(given.get(key), value) for key, value in returned.items()}
        given.clear()
        given.update(merged)
    elif isinstance(given, set):
        given.clear()
        given.update(returned)
    elif isinstance(given, bytearray):
        given[:] = returned


def _merged(own, other):
    if type(own) is type(other) and isinstance(own, list | dict | set | bytearray):
        _copy_back(own, other)
        return own
    return other


def serve_tests(control_fd):
    """
    Judge one solution after another until the control socket closes.

    A message brings three files: a specification with `tests` (texts), `names` (functions of the solution) and
    `entry_point` (which of them `candidate` stands for), and the pipes to and from the solution. The reply is the
    count. Tests are trusted, and what a solution returns are plain values, so one process may serve many.
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
        return proxies, lambda: any(proxy.count for proxy in proxies.values())

    return _count(spec, scope)


def test_within(spec):
    """Run the tests in the solution's own process: a weak verdict, which a hostile solution can forge."""
    solution = {"__name__": "solution", "__builtins__": __builtins__}
    exec(compile(spec["solution"], "<solution>", "exec"), solution)
    count = codec.dumps(_count(spec, lambda: (dict(solution), lambda: True)))
    os.write(COUNT_FD, count.encode())


def _count(spec, make_scope):
    """Tests run and passed, the first failure, and whether one failed for want of live objects."""
    report = {"passed": 0, "total": 0, "failure": "", "live": False}
    for test in spec["tests"]:
        functions, was_called = make_scope()
        scope = {"__name__": "tests", "__builtins__": __builtins__, **functions}
        scope["candidate"] = scope.get(spec["entry_point"])
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
    """Code of a test, which many solutions meet, the number of tests in it, and whether it defines `check`."""
    tree, total, defines_check = checks.split(test)
    return compile(tree, "<test>", "exec"), total, defines_check


def _run(code, total, scope, defines_check):
    """Tests of one text that passed, and the first thing that was raised."""
    outcomes = {}
    scope[checks.RECORD] = outcomes.__setitem__
    raised = None
    try:
        exec(code, scope)
        if defines_check:
            scope["check"](scope["candidate"])
    except BaseException as error:
        raised = error
    if total == 1:
        return int(raised is None), raised
    passed = sum(outcomes.get(place, raised) is None and place in outcomes for place in range(total))
    first = raised or next((error for error in outcomes.values() if error is not None), None)
    if first is None and passed < total:
        first = SolutionError("a test did not run")
    return (passed if raised is None else min(passed, total - 1)), first


def _failure(test, error):
    if isinstance(error, AssertionError):
        return f"{test.strip()}\nfailed{_actual(test, error)}"
    return f"{test.strip()}\nraised {type(error).__name__}: {error}"


def _actual(test, error):
    """Value of the left side of a failed `assert left == right`, so that a repair knows what happened."""
    try:
        statement = ast.parse(test.strip()).body[-1]
        compare = statement.test
        scope = error.__traceback__.tb_next.tb_frame.f_globals
        value = eval(compile(ast.Expression(compare.left), "<left>", "eval"), scope)
        return f": got {value!r}"[:500]
    except Exception:  # the test is no plain comparison: its own message has to do
        return f": {error}" if str(error) else ""
