"""Rewrites an encoder's source so that it computes the same as machine code as in plain Python, or rejects it.

Line numbers stay the same. Nothing here imports Numba.
"""

from __future__ import annotations

import ast

from encoders.compilation.rewriting.names import MACHINE, PYTHON, Names, NotMachineCodeError
from encoders.compilation.rewriting.statements import Statements
from encoders.source.parsing import parse

__all__ = ["MACHINE", "PYTHON", "Names", "NotMachineCodeError", "rewrite_module"]

_RESERVED = ("_Tuple", "_NAN", "_namedtuple", "_NO_TEXT")


def rewrite_module(text: str, generated: frozenset[str]) -> ast.Module:
    """Rewrite a module's functions and constants.

    generated: names of functions that are left unchanged
    Raises NotMachineCodeError.
    """
    tree = parse(text)
    rewriter = Statements(Names.of_module(tree))
    for place, node in enumerate(tree.body):
        if isinstance(node, ast.FunctionDef) and node.name not in generated:
            tree.body[place] = rewriter.visit(node)
        elif isinstance(node, ast.Assign) and not str(getattr(node.targets[0], "id", "")).startswith(_RESERVED):
            node.value = rewriter.visit(node.value)
    texts = "\n".join(f"{name} = {MACHINE}.Text({code})" for code, name in rewriter.texts.items())
    head = parse(f"from encoders.compilation import operations as {MACHINE}\n{texts}\n").body
    # Above everything except `from __future__` imports, which must come first.
    first = sum(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    for node in head:
        ast.increment_lineno(node, -node.lineno + 1)
    tree.body[first:first] = head
    return ast.fix_missing_locations(tree)
