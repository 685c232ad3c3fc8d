"""Parses and compiles Python text in one thread at a time.

CPython 3.11 counts the recursion depth of the parser for all threads together, so parsing in two threads may raise
"SystemError: AST constructor recursion depth mismatch": https://github.com/python/cpython/issues/106905.
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
    """Compile a tree. flags: its `__future__` features, as compiler flags. Raises SyntaxError, ValueError."""
    with _one_at_a_time:
        code: CodeType = compile(tree, file, "exec", flags=flags, dont_inherit=True)
    return code
