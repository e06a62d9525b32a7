"""
Splits a HumanEval `check(candidate)` into the assertions it makes, so that a share of them can be counted.

Standard library only, shared by the judge, who knows how many tests are due, and the tester, who runs them.
"""

import ast

RECORD = "__record__"
"""Name under which a split `check` finds the function that takes the outcome of one of its tests."""


def split(test):
    """
    Make every assertion of a test count by itself.

    Args:
        test (`str`):
            Statements, which are one test, or a text that defines `check(candidate)`: there each top-level statement
            of its body that asserts something is a test.

    Returns:
        `tuple[ast.Module, int, bool]`: The module to run, the number of tests in it, and whether it defines `check`.
        Where the number is more than 1, each test calls `__record__(place, error)` with its place and `None` or what
        it raised.
    """
    tree = ast.parse(test)
    checks = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "check"]
    if len(checks) != 1 or any(isinstance(node, ast.Return | ast.Yield) for node in _own_nodes(checks[0])):
        return tree, 1, bool(checks)
    places = [place for place, statement in enumerate(checks[0].body) if _asserts(statement)]
    if len(places) > 1:
        for index, place in enumerate(places):
            checks[0].body[place] = _recorded(checks[0].body[place], index)
        ast.fix_missing_locations(tree)
    return tree, max(1, len(places)), True


def _own_nodes(function):
    """Nodes of a function's body, without those of functions inside it."""
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
    asserts = [node for node in ast.walk(statement) if isinstance(node, ast.Assert)]
    return any(isinstance(node, ast.Name) for one in asserts for node in ast.walk(one.test))


def _recorded(statement, index):
    def record(outcome):
        function = ast.Name(RECORD, ast.Load())
        return ast.Expr(ast.Call(function, [ast.Constant(index), outcome], []))

    failed = ast.ExceptHandler(ast.Name("BaseException", ast.Load()), "error", [record(ast.Name("error", ast.Load()))])
    wrapped = ast.Try([statement], [failed], [record(ast.Constant(None))], [])
    return ast.copy_location(wrapped, statement)
