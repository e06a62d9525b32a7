"""
Splits a HumanEval `check(candidate)` into its assertions, so that a solution can be credited with the share it passes.

Standard library only. The client counts the expected tests with it, the tester runs them.
"""

import ast

RECORD = "__record__"
"""Name under which a split `check` finds the callback that records the outcome of each assertion."""


def split(test):
    """
    Make every assertion of a test count separately.

    Args:
        test (`str`):
            Either plain statements, which count as one test, or source that defines `check(candidate)`: each top-level
            statement of its body that asserts something counts as a test.

    Returns:
        `tuple[ast.Module, int, bool]`: The module to run, the number of tests in it, and whether it defines `check`.
        If there are several tests, each calls `__record__(index, error)` with its index and the exception it raised,
        or `None`.
    """
    tree = ast.parse(test)
    checks = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "check"]
    # A `check` that returns early may skip assertions, so the assertions of such a function cannot be told apart.
    if len(checks) != 1 or any(isinstance(node, ast.Return | ast.Yield) for node in _body_nodes(checks[0])):
        return tree, 1, bool(checks)
    indices = [index for index, statement in enumerate(checks[0].body) if _asserts(statement)]
    if len(indices) > 1:
        for number, index in enumerate(indices):
            checks[0].body[index] = _recorded(checks[0].body[index], number)
        ast.fix_missing_locations(tree)
    return tree, max(1, len(indices)), True


def _body_nodes(function):
    """Nodes of a function's body, excluding the bodies of nested functions and classes."""
    pending = list(function.body)
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            pending.extend(ast.iter_child_nodes(node))


def _asserts(statement):
    """Whether a statement asserts something about a value; `assert True` does not."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return False
    tests = [node.test for node in ast.walk(statement) if isinstance(node, ast.Assert)]
    return any(isinstance(node, ast.Name) for test in tests for node in ast.walk(test))


def _recorded(statement, number):
    """The statement wrapped in a `try` that records whether it raised."""

    def record(outcome):
        function = ast.Name(RECORD, ast.Load())
        return ast.Expr(ast.Call(function, [ast.Constant(number), outcome], []))

    failed = ast.ExceptHandler(ast.Name("BaseException", ast.Load()), "error", [record(ast.Name("error", ast.Load()))])
    wrapped = ast.Try([statement], [failed], [record(ast.Constant(None))], [])
    return ast.copy_location(wrapped, statement)
