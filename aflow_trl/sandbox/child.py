"""
Code of a freshly forked child: it runs a program, serves a solution's functions, or runs tests.

Standard library only. Every child has exactly one role, so that a solution never shares a process with its tests.
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
MAX_ERROR_CHARS = 500


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
    except SystemExit as exit_request:
        return _exit_code(exit_request.code)
    except MemoryError:
        return EXIT_MEMORY
    except BaseException as error:
        _print_traceback()
        if isinstance(error, SystemError) and _memory_used_up():
            return EXIT_MEMORY
        return EXIT_DENIED if isinstance(error, PermissionError) else EXIT_ERROR
    return 0


def _exit_code(value):
    """Exit code that an interpreter would give for `SystemExit(value)`."""
    if value is None:
        return 0
    # `int.__int__`, not `int()`: the program may have exited with an object whose methods it wrote.
    return int.__int__(value) if isinstance(value, int) else EXIT_ERROR


def _run_program(source):
    try:
        exec(compile(source, "<program>", "exec"), _module("__main__"))
    finally:
        # A child leaves with `os._exit`, so the steps of a regular interpreter exit have to be taken here.
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        atexit._run_exitfuncs()


def _module(name):
    """Namespace of a fresh module; registered in `sys.modules`, where pickle and dataclasses look names up."""
    module = sys.modules[name] = types.ModuleType(name)
    return vars(module)


def _serve(source):
    """Define the solution, then answer calls: one line in, one line out, each carrying the caller's token."""
    namespace = _module("solution")
    replies = os.fdopen(REPLIES_FD, "w")
    calls = os.fdopen(CALLS_FD)
    try:
        code = compile(source, "<solution>", "exec")
    except (SyntaxError, ValueError, RecursionError):
        _print_traceback()
        raise SystemExit(EXIT_INVALID) from None
    exec(code, namespace)
    iterators = []

    def keep(iterator):
        iterators.append(iterator)
        return len(iterators) - 1

    for line in calls:
        call = codec.loads(line)
        reply = _next_items(iterators, call) if "next" in call else _call(namespace, call)
        try:
            text = codec.dumps(reply | {"token": call["token"]}, keep)
        except codec.LiveObjectError as error:
            text = codec.dumps({"token": call["token"], "live": str(error)[:MAX_ERROR_CHARS]})
        except (TypeError, ValueError, RecursionError) as error:
            text = codec.dumps({"token": call["token"]} | _error(TypeError(str(error))))
        replies.write(text + "\n")
        replies.flush()


def _call(namespace, call):
    # Arguments travel back as well: the caller has to see what the solution did to mutable ones.
    try:
        if call["name"] not in namespace:
            raise NameError(f"name {call['name']!r} is not defined")
        args, kwargs = call["args"], call["kwargs"]
        value = namespace[call["name"]](*args, **kwargs)
        return {"value": value, "args": args, "kwargs": kwargs}
    except MemoryError:
        raise
    except BaseException as error:
        return _error(error)


def _next_items(iterators, call):
    """The next items of an iterator that an earlier call returned, and what ended it, if anything did."""
    items = []
    try:
        for _ in range(call["count"]):
            items.append(next(iterators[call["next"]]))
        return {"items": items, "ended": False}
    except StopIteration:
        return {"items": items, "ended": True}
    except MemoryError:
        raise
    except BaseException as error:
        return {"items": items} | _error(error)


def _error(error):
    """
    A raised exception, as plain values. The caller cannot know the classes of the solution or of a library, so it gets
    the name of the closest builtin base: whoever catches `ValueError` also catches a subclass.
    """
    kind = type(error)
    builtin = next((base.__name__ for base in kind.__mro__ if base.__module__ == "builtins"), "Exception")
    text = str(error)[:MAX_ERROR_CHARS]
    try:
        args = list(error.args)
        if len(codec.dumps(args)) > MAX_ERROR_CHARS:
            args = [text]
    except (TypeError, ValueError, RecursionError):
        args = [text]
    return {"error": builtin, "class": kind.__name__[:MAX_ERROR_CHARS], "text": text, "error_args": args}


def _memory_used_up():
    """Whether a `SystemError` is a lost `MemoryError`: CPython may drop it when unwinding itself needs memory."""
    used_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used_kib * 1024 > 0.8 * resource.getrlimit(resource.RLIMIT_AS)[0]


def _print_traceback():
    """Print the traceback without frames of this file: prompts show it, and must not depend on the install path."""
    error = sys.exc_info()[1]
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename == __file__:
        frame = frame.tb_next
    try:
        traceback.print_exception(type(error), error, frame, limit=8)
        sys.stderr.flush()
    except Exception:
        os.write(2, b"traceback could not be printed\n")
