"""A function's syntax tree without annotations and docstrings, and the global names that it uses."""

from __future__ import annotations

import ast
import copy
import symtable
from types import FunctionType
from typing import Any

from encoders.source.parsing import parse
from schemas.errors import EncoderError


class _Clean(ast.NodeTransformer):
    """Removes docstrings and annotations, which do not change what a function computes."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            node.body = node.body[1:] or [ast.copy_location(ast.Pass(), first)]
        node.returns = None
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self.generic_visit(node)
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign([node.target], node.value), node)


def clean_tree(tree: ast.FunctionDef, is_encoder: bool) -> ast.FunctionDef:
    """Copy a function without decorators, docstrings and annotations; an encoder also without its defaults."""
    cleaned = _Clean().visit(copy.deepcopy(tree))
    if not isinstance(cleaned, ast.FunctionDef):
        raise EncoderError.because(f"'{tree.name}' is not a plain function", "define it with def")
    cleaned.decorator_list = []
    if is_encoder:
        arguments = cleaned.args
        arguments.args, arguments.kwonlyargs, arguments.kw_defaults = arguments.args + arguments.kwonlyargs, [], []
    return cleaned


def line_map(body: str, original: ast.FunctionDef) -> dict[int, int]:
    """Map each statement's line in the text to its line in the file."""
    rewritten = parse(body).body[0]
    source = _Clean().visit(original)
    lines: dict[int, int] = {}
    for new, old in zip(_statements(rewritten), _statements(source), strict=False):
        lines.setdefault(new.lineno, old.lineno)
    return lines


def _statements(tree: ast.AST) -> list[ast.stmt]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]


def assignment_pairs(target: ast.expr, value: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    """Pair the targets of an assignment with their values: one pair each in `a, b = x, y`."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        return list(zip(target.elts, value.elts, strict=True))
    return [(target, value)]


def global_names(source: str) -> set[str]:
    """Give the global names that a function or its inner functions use."""
    names: set[str] = set()
    tables = [symtable.symtable(source, "<encoder>", "exec")]
    while tables:
        table = tables.pop()
        tables.extend(table.get_children())
        for symbol in table.get_symbols():
            outside = symbol.is_referenced() and not symbol.is_assigned()
            if symbol.is_global() or (table.get_type() == "module" and outside):
                names.add(symbol.get_name())
    return names


def resolve(function: FunctionType, name: str) -> tuple[bool, Any]:
    """Give whether a name is defined around a function, in its closure or its module, and its value."""
    closed = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    if name in closed:
        try:
            return True, closed[name].cell_contents
        except ValueError:  # the name is assigned after the function was defined
            return False, None
    if name in function.__globals__:
        return True, function.__globals__[name]
    return False, None
