"""Python text becomes syntax trees and code in one thread at a time.

CPython 3.11 counts the depth of a tree for all threads together, so that two which parse at once may end in
"SystemError: AST constructor recursion depth mismatch", see https://github.com/python/cpython/issues/106905.
"""

from __future__ import annotations

import ast
import threading
from types import CodeType

_one_at_a_time = threading.RLock()


def parse(text: str) -> ast.Module:
    """Parse a module. Raises SyntaxError."""
    with _one_at_a_time:
        return ast.parse(text)


def parse_expression(text: str) -> ast.expr:
    """Parse an expression. Raises SyntaxError."""
    with _one_at_a_time:
        return ast.parse(text, mode="eval").body


def compile_tree(tree: ast.Module, file: str, flags: int = 0) -> CodeType:
    """Compile a tree. flags: of the `__future__` features that it is written for. Raises SyntaxError, ValueError."""
    with _one_at_a_time:
        code: CodeType = compile(tree, file, "exec", flags=flags, dont_inherit=True)
    return code
