"""
What a fresh child of the fork server does: run a program, serve a solution's functions, or test them.

Standard library only. Each role is a process of its own.
"""

import atexit
import os
import resource
import sys
import traceback
import types

import codec
import tester

EXIT_ERROR, EXIT_DENIED, EXIT_MEMORY, EXIT_INVALID = 1, 76, 77, 78
CALLS_FD, REPLIES_FD = 3, 4
TESTER_CONTROL_FD = 3


def run_role(role, source, spec):
    """Run `source` in the given role and return the exit code."""
    try:
        if role == "program":
            _run_program(source)
        elif role == "serve":
            _serve(source)
        elif role == "test":
            tester.serve_tests(TESTER_CONTROL_FD)
        else:
            tester.test_within(spec)
    except SystemExit as leave:
        # Not by the object's own methods: it may be of the program's making.
        return int.__int__(leave.code) if isinstance(leave.code, int) else 0 if leave.code is None else 1
    except MemoryError:
        return EXIT_MEMORY
    except BaseException as error:
        _print_traceback()
        if isinstance(error, SystemError) and _memory_used_up():
            return EXIT_MEMORY
        return EXIT_DENIED if isinstance(error, PermissionError) else EXIT_ERROR
    return 0


def _run_program(source):
    try:
        exec(compile(source, "<program>", "exec"), _module("__main__"))
    finally:
        # What an interpreter does at its end: wait for threads, run exit functions.
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        atexit._run_exitfuncs()


def _module(name):
    """Namespace of a fresh module that is known by its name, as pickle and dataclasses want it."""
    module = sys.modules[name] = types.ModuleType(name)
    return vars(module)


def _serve(source):
    """Define the solution, then answer calls: a line in, a line out, each with the caller's token."""
    namespace = _module("solution")
    replies = os.fdopen(REPLIES_FD, "w")
    calls = os.fdopen(CALLS_FD)
    try:
        code = compile(source, "<solution>", "exec")
    except (SyntaxError, ValueError, RecursionError):
        _print_traceback()
        raise SystemExit(EXIT_INVALID) from None
    exec(code, namespace)
    for line in calls:
        call = codec.loads(line)
        answer = _answer(namespace, call)
        try:
            text = codec.dumps(answer)
        except codec.LiveObjectError as error:
            text = codec.dumps({"token": call["token"], "live": str(error)[:500]})
        except (TypeError, ValueError, RecursionError) as error:
            text = codec.dumps({"token": call["token"], "error": "TypeError", "text": str(error)[:500]})
        replies.write(text + "\n")
        replies.flush()


def _answer(namespace, call):
    reply = {"token": call["token"]}
    try:
        if call["name"] not in namespace:
            raise NameError(f"name {call['name']!r} is not defined")
        args, kwargs = call["args"], call["kwargs"]
        value = namespace[call["name"]](*args, **kwargs)
        return reply | {"value": value, "args": args, "kwargs": kwargs}
    except MemoryError:
        raise
    except BaseException as error:
        return reply | {"error": type(error).__name__, "text": str(error)[:500]}


def _memory_used_up():
    """Out of memory in the middle of unwinding, the interpreter loses the exception and raises `SystemError`."""
    used_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used_kib * 1024 > 0.8 * resource.getrlimit(resource.RLIMIT_AS)[0]


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
