"""Turns a function into text that stands on its own: its source, the constants it uses and its helpers' sources.

The text, not the function object, travels to executors and is what the fingerprint covers. Comments, docstrings,
annotations and layout are no part of it.
"""

from __future__ import annotations

import ast
import builtins
import copy
import math
import re
import symtable
import sys
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from encoders.hash_index import lookup
from encoders.source import Source, source_of
from schemas.errors import EncoderError
from schemas.hashing import text_code

COMPILABLE = {"math": math, "numpy": np}
ENTRY = "_encode"


@dataclass(frozen=True)
class Captured:
    """A function as text.

    text: imports, constants, helpers and, last, the function itself under the name `_encode`
    places: line of the text → where it was written, as people know it, for the function's lines and its helpers'
    """

    text: str
    places: dict[int, str]


def capture(function: FunctionType, compiled: bool) -> Captured:
    """Capture an encoder. Raises EncoderError for a name it uses that cannot be written as text."""
    gathering = Gathering(function.__qualname__, compiled)
    body = gathering.function(function, ENTRY)
    above = [*gathering.imports, *gathering.constants]
    places: dict[int, str] = {}
    first = 1 + len(above)  # each of these is one line
    for written in [*gathering.helpers, body]:
        places |= {first + line: place for line, place in written.places.items()}
        first += 1 + written.text.count("\n")
    return Captured("\n".join([*above, *(helper.text for helper in gathering.helpers), body.text, ""]), places)


@dataclass(frozen=True)
class _Written:
    """A function written anew. places: its line, from 0 → where the original is."""

    text: str
    places: dict[int, str]


class Gathering:
    """Collects what a function needs, each name once: as text that means the same elsewhere."""

    def __init__(self, encoder: str, compiled: bool) -> None:
        self.encoder, self.compiled = encoder, compiled
        self.imports: list[str] = []
        self.constants: list[str] = []
        self.helpers: list[_Written] = []
        self.known: dict[str, Any] = {}

    def function(self, function: FunctionType, name: str) -> _Written:
        """Write a function under a name, after gathering what it uses."""
        source = source_of(function)
        clean = clean_tree(source.tree, is_encoder=name == ENTRY)
        clean.name = name
        text = ast.unparse(ast.fix_missing_locations(clean))
        for used in sorted(global_names(text)):
            if used != name:
                self.add(used, *resolve(function, used), source)
        return _Written(text, {line - 1: source.place(at) for line, at in _line_map(text, source.tree).items()})

    def add(self, name: str, found: bool, value: Any, source: Source) -> None:
        """Write what a name means, once. Raises EncoderError for what cannot be written."""
        if not found:
            if hasattr(builtins, name):
                return
            raise EncoderError.because(
                f"encoder '{self.encoder}' uses '{name}', which is not defined, at {_first_use(name, source)}"
            )
        if name in self.known:
            if self.known[name] is not value and self.known[name] != value:
                raise EncoderError.because(
                    f"encoder '{self.encoder}' and its helpers mean different things by '{name}'", "rename one of them"
                )
            return
        if name in ("_batch", "_borrow") or name.startswith(("_Tuple", "_NAN", "_namedtuple")):
            raise EncoderError.because(f"encoder '{self.encoder}' uses the global '{name}', a name that is taken")
        self.known[name] = value
        value = getattr(value, "py_func", value)  # of a function that Numba wrapped already
        imported = self.import_of(name, value)
        if imported is not None:
            self.imports.append(imported)
        elif isinstance(value, FunctionType):
            self.helpers.append(self.function(value, name))
        else:
            self.constants.append(f"{name} = {self.literal(name, value)}")

    def import_of(self, name: str, value: Any) -> str | None:
        """Write the import that yields a value, None if it is to be written out."""
        if isinstance(value, ModuleType):
            if self.compiled and value.__name__ not in COMPILABLE:
                raise self._not_capturable(name, f"the module {value.__name__}", "compiled encoders use math and numpy")
            return f"import {value.__name__} as {name}"
        own = getattr(value, "__name__", "")
        for module, there in COMPILABLE.items():
            if own and callable(value) and getattr(there, own, None) is value:
                return f"from {module} import {own} as {name}"
        if value is lookup or value is text_code:
            return f"from {value.__module__} import {own} as {name}"
        if self.compiled:
            return None
        home = str(getattr(value, "__module__", ""))
        standard = callable(value) and home.split(".")[0] in sys.stdlib_module_names and home != "__main__"
        if standard and getattr(sys.modules.get(home), own, None) is value:
            return f"from {home} import {own} as {name}"
        return None

    def literal(self, name: str, value: Any) -> str:
        """Write a constant. Raises EncoderError for a value that is none."""
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or type(value) in (bool, int):
            return repr(value)
        if type(value) is float:
            return repr(value) if math.isfinite(value) else f"float('{value}')"
        if type(value) is str:
            return repr(value)
        if type(value) is tuple:
            parts = [self.literal(name, part) for part in value]
            return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
        if type(value) is frozenset and not self.compiled:
            return f"frozenset([{', '.join(sorted(self.literal(name, part) for part in value))}])"
        if isinstance(value, re.Pattern) and not self.compiled:
            return f"__import__('re').compile({value.pattern!r}, {value.flags})"
        raise self._not_capturable(name, f"a {type(value).__name__}")

    def _not_capturable(self, name: str, what: str, hint: str = "make it a parameter") -> EncoderError:
        return EncoderError.because(
            f"encoder '{self.encoder}' uses the global '{name}', {what}: "
            "expected a number, text, a tuple of them, a function, or a module",
            hint,
        )


class _Clean(ast.NodeTransformer):
    """Drops what does not change what a function does."""

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
    """Drop what does not change what a function does; of an encoder its parameters' defaults too."""
    cleaned = _Clean().visit(copy.deepcopy(tree))
    if not isinstance(cleaned, ast.FunctionDef):
        raise EncoderError.because(f"'{tree.name}' is no plain function", "define it with def")
    cleaned.decorator_list = []
    if is_encoder:
        arguments = cleaned.args
        arguments.args, arguments.kwonlyargs, arguments.kw_defaults = arguments.args + arguments.kwonlyargs, [], []
    return cleaned


def _line_map(body: str, original: ast.FunctionDef) -> dict[int, int]:
    """Pair each statement's line in the text with the same statement's in the file."""
    written = ast.parse(body).body[0]
    source = _Clean().visit(original)
    found: dict[int, int] = {}
    for new, old in zip(_statements(written), _statements(source), strict=False):
        found.setdefault(new.lineno, old.lineno)
    return found


def _statements(tree: ast.AST) -> list[ast.stmt]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]


def global_names(source: str) -> set[str]:
    """Names that a function takes from around it, whichever of its inner functions uses them."""
    found: set[str] = set()
    tables = [symtable.symtable(source, "<encoder>", "exec")]
    while tables:
        table = tables.pop()
        tables.extend(table.get_children())
        for symbol in table.get_symbols():
            outside = symbol.is_referenced() and not symbol.is_assigned()
            if symbol.is_global() or (table.get_type() == "module" and outside):
                found.add(symbol.get_name())
    return found


def _first_use(name: str, source: Source) -> str:
    lines = [node.lineno for node in ast.walk(source.tree) if isinstance(node, ast.Name) and node.id == name]
    return source.place(min(lines, default=source.first))


def resolve(function: FunctionType, name: str) -> tuple[bool, Any]:
    """Give whether a function finds a name around it, and what it means by it."""
    closed = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    if name in closed:
        try:
            return True, closed[name].cell_contents
        except ValueError:  # the name is bound later than the function that uses it
            return False, None
    if name in function.__globals__:
        return True, function.__globals__[name]
    return False, None
