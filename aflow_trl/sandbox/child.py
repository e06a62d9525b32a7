"""
What a fresh child of the fork server does: run a program, serve a solution's functions, or test them.

Standard library only. The three roles are separate processes: the one that holds a solution never holds its tests.
"""

import ast
import builtins
import os
import secrets
import sys
import traceback

import codec

EXIT_ERROR, EXIT_DENIED, EXIT_MEMORY = 1, 76, 77
CALLS_FD, REPLIES_FD = 3, 4
FAILURE_CHARS = 2_000


def run_role(role, source, spec):
    """Run `source` in the given role and return the exit code."""
    try:
        if role == "program":
            _run_program(source)
        elif role == "serve":
            _serve(source)
        else:
            _test(source, spec)
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else 0 if leave.code is None else 1
    except MemoryError:
        return EXIT_MEMORY
    except BaseException as error:
        _print_traceback()
        return EXIT_DENIED if isinstance(error, PermissionError) else EXIT_ERROR
    return 0


def _run_program(source):
    namespace = {"__name__": "__main__", "__builtins__": __builtins__}
    exec(compile(source, "<program>", "exec"), namespace)


def _serve(source):
    """Define the solution, then answer calls: a line in, a line out, each with the caller's token."""
    namespace = {"__name__": "solution", "__builtins__": __builtins__}
    replies = os.fdopen(REPLIES_FD, "w")
    calls = os.fdopen(CALLS_FD)
    try:
        exec(compile(source, "<solution>", "exec"), namespace)
    except BaseException:
        _print_traceback()
        raise
    for line in calls:
        call = codec.loads(line)
        answer = _answer(namespace, call)
        try:
            text = codec.dumps(answer)
        except (TypeError, ValueError, RecursionError) as error:
            text = codec.dumps({"token": call["token"], "error": "TypeError", "text": str(error)[:500]})
        replies.write(text + "\n")
        replies.flush()


def _answer(namespace, call):
    reply = {"token": call["token"]}
    try:
        function = namespace[call["name"]]
        args, kwargs = call["args"], call["kwargs"]
        value = function(*args, **kwargs)
        return reply | {"value": value, "args": args}
    except MemoryError:
        raise
    except BaseException as error:
        return reply | {"error": type(error).__name__, "text": str(error)[:500]}


class SolutionError(Exception):
    """The solution raised, or did not answer."""


class _Proxy:
    """Stands for one function of the solution; each call crosses to the other process and back."""

    def __init__(self, name, calls, replies):
        self.__name__ = name
        self._calls, self._replies = calls, replies
        self.count = 0

    def __call__(self, *args, **kwargs):
        self.count += 1
        token = secrets.token_hex(16)
        call = {"token": token, "name": self.__name__, "args": list(args), "kwargs": kwargs}
        try:
            self._calls.write(codec.dumps(call) + "\n")
            self._calls.flush()
            reply = codec.loads(self._replies.readline(codec.MAX_BYTES + 1024))
        except (OSError, ValueError) as error:
            raise SolutionError(f"{self.__name__} did not answer ({type(error).__name__})") from None
        if not isinstance(reply, dict) or reply.get("token") != token:
            raise SolutionError(f"{self.__name__} answered another question")
        if "error" in reply:
            raise _plain(reply["error"])(reply["text"])
        for given, returned in zip(args, reply["args"]):
            _copy_back(given, returned)
        return reply["value"]


def _plain(name):
    """Only plain exceptions are raised again under their own name; never one that ends the tester."""
    kind = getattr(builtins, name, None) if isinstance(name, str) else None
    plain = isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, AssertionError)
    return kind if plain and not issubclass(kind, UnicodeError) else SolutionError


def _copy_back(given, returned):
    if type(given) is type(returned) and isinstance(given, list):
        given[:] = returned
    elif type(given) is type(returned) and isinstance(given, dict | set):
        given.clear()
        given.update(returned)


def _test(source, spec):
    """
    Run the tests and print one line of JSON: tests run, passed, and the first failure.

    `spec["tests"]` are statements, one test each; a text that defines `check` has `check(candidate)` called. A test
    that never calls the solution has not tested it, and fails.
    """
    calls, replies = os.fdopen(CALLS_FD, "w"), os.fdopen(REPLIES_FD)
    names = spec["names"]
    passed, total, failure = 0, 0, ""
    for test in spec["tests"]:
        scope = {"__name__": "tests", "__builtins__": __builtins__}
        proxies = {name: _Proxy(name, calls, replies) for name in names}
        scope.update(proxies)
        scope["candidate"] = scope.get(spec["entry_point"])
        total += 1
        try:
            exec(compile(test, "<test>", "exec"), scope)
            if callable(scope.get("check")):
                scope["check"](scope["candidate"])
            if not any(proxy.count for proxy in proxies.values()):
                raise SolutionError("the test never called the solution")
            passed += 1
        except BaseException as error:
            failure = failure or _failure(test, error)[:FAILURE_CHARS]
    # The solution cannot write here: this is another process's standard output.
    print(codec.dumps({"passed": passed, "total": total, "failure": failure}))


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


def _print_traceback():
    """The traceback without our own frames: a prompt that shows it must not depend on where the package lies."""
    error = sys.exc_info()[1]
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename == __file__:
        frame = frame.tb_next
    try:
        traceback.print_exception(type(error), error, frame, limit=8)
        sys.stderr.flush()
    except Exception:
        os.write(2, b"traceback could not be printed\n")
