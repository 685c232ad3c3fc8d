"""Turns a function into self-contained text: its source, the constants it uses and the sources of its helpers.

The text, not the function object, is sent to executors and covered by the fingerprint. It has no comments, docstrings
or annotations, and its layout is normalised.
"""

from __future__ import annotations

import ast
import builtins
import math
import re
import sys
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from encoders.compilation.batch_module import GENERATED
from encoders.fingerprint.origin import distribution_of, is_standard
from encoders.hash_index import lookup
from encoders.source.function_source import FunctionSource, source_of
from encoders.source.function_tree import clean_tree, global_names, line_map, resolve
from encoders.source.parsing import parse_expression
from encoders.vocabulary import code_of
from schemas.errors import EncoderError
from schemas.hashing import text_code

COMPILABLE = {"math": math, "numpy": np}
OWN_FUNCTIONS = (lookup, text_code, code_of)  # that are imported, not captured
ENTRY = "_encode"
RESERVED = (
    "_Tuple",
    "_NAN",
    "_NO_TEXT",
    "_namedtuple",
    "_machine",
    "_text_",
    "_kept_",
    "_encode",
)  # start generated names


@dataclass(frozen=True)
class CapturedSource:
    """A function as self-contained text.

    text: imports, constants, helpers and, last, the function itself under the name `_encode`
    places: line of the text → the place in the original source, as messages name it
    versions: of the distributions whose code it calls, which is imported instead of captured
    """

    text: str
    places: dict[int, str]
    versions: dict[str, str]


def capture(function: FunctionType, compiled: bool) -> CapturedSource:
    """Capture an encoder as text. Raises EncoderError if it uses a value that cannot be written as text."""
    collector = SourceCollector(function.__qualname__, compiled, function.__module__ or "")
    body = collector.function(function, ENTRY)
    above = [*collector.imports, *collector.constants]
    places: dict[int, str] = {}
    first = 1 + len(above)  # each of these is one line
    for part in [*collector.helpers, body]:
        places |= {first + line: place for line, place in part.places.items()}
        first += 1 + part.text.count("\n")
    text = "\n".join([*above, *(helper.text for helper in collector.helpers), body.text, ""])
    return CapturedSource(text, places, collector.versions)


@dataclass(frozen=True)
class _FunctionText:
    """The text of one function. places: its line, from 0 → the place in the original source."""

    text: str
    places: dict[int, str]


class SourceCollector:
    """Collects the text of everything that a function uses, each name once.

    module: the encoder's
    members: names that replace attributes of the project's other modules
    versions: of the distributions that it calls
    """

    def __init__(self, encoder: str, compiled: bool, module: str = "") -> None:
        self.encoder, self.compiled, self.module = encoder, compiled, module
        self.members: set[str] = set()
        self.versions: dict[str, str] = {}
        self.imports: list[str] = []
        self.constants: list[str] = []
        self.helpers: list[_FunctionText] = []
        self.values: dict[str, Any] = {}

    def function(self, function: FunctionType, name: str) -> _FunctionText:
        """Write a function under a name, after collecting what it uses."""
        source = source_of(function)
        clean = clean_tree(source.tree, is_encoder=name == ENTRY)
        clean.name = name
        if name != ENTRY:
            self.write_defaults(clean, function, source)
        used_names = global_names(ast.unparse(ast.fix_missing_locations(clean)))
        clean = OwnModules(self, function, source, used_names).visit(clean)
        text = ast.unparse(ast.fix_missing_locations(clean))
        for used in sorted(global_names(text)):
            if used != name and used not in self.members:
                self.add(used, *resolve(function, used), source)
        return _FunctionText(text, {line - 1: source.place(at) for line, at in line_map(text, source.tree).items()})

    def write_defaults(self, clean: ast.FunctionDef, function: FunctionType, source: FunctionSource) -> None:
        """Replace the expressions of a helper's defaults with their values, computed when it was defined."""
        arguments = clean.args
        named = function.__kwdefaults__ or {}
        pairs = list(zip(arguments.defaults, function.__defaults__ or (), strict=True))
        arguments.defaults = [self.default(each, value, function, source) for each, value in pairs]
        arguments.kw_defaults = [
            None if each is None else self.default(each, named[argument.arg], function, source)
            for argument, each in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        ]

    def default(self, expression: ast.expr, value: Any, function: FunctionType, source: FunctionSource) -> ast.expr:
        """Write the value of a default; a function is written by its name."""
        if (
            isinstance(expression, ast.Name)
            and isinstance(value, FunctionType)
            and resolve(function, expression.id)[1] is value
        ):
            return expression
        name = f"{function.__name__}: {source.place(expression.lineno)}"
        return parse_expression(self.literal(name, value))

    def add(self, name: str, defined: bool, value: Any, source: FunctionSource) -> None:
        """Write a name's value, once. Raises EncoderError if it cannot be written as text."""
        if not defined:
            if hasattr(builtins, name):
                return
            raise EncoderError.because(
                f"encoder '{self.encoder}' uses '{name}', which is not defined, at {_first_use(name, source)}"
            )
        if name in self.values:
            if self.values[name] is not value and self.values[name] != value:
                raise EncoderError.because(
                    f"encoder '{self.encoder}' and its helpers mean different things by '{name}'", "rename one of them"
                )
            return
        if name in GENERATED or name.startswith(RESERVED):
            raise EncoderError.because(
                f"encoder '{self.encoder}' uses the global '{name}', which is a reserved name", "rename it"
            )
        self.values[name] = value
        value = getattr(value, "py_func", value)  # the function in a Numba dispatcher
        imported = self.import_of(name, value)
        if imported is not None:
            self.imports.append(imported)
        elif isinstance(value, FunctionType):
            self.helpers.append(self.function(value, name))
        else:
            self.constants.append(f"{name} = {self.literal(name, value)}")

    def import_of(self, name: str, value: Any) -> str | None:
        """Write the import of a value, None if its own text has to be captured."""
        if isinstance(value, ModuleType):
            return self.import_of_module(name, value)
        origin = self.origin_of(value)
        return None if origin is None else f"from {origin[0]} import {origin[1]} as {name}"

    def origin_of(self, value: Any) -> tuple[str, str] | None:
        """Give the module and the name under which a value is imported, None if its text has to be captured."""
        own = getattr(value, "__name__", "")
        for module, members in COMPILABLE.items():
            if own and callable(value) and getattr(members, own, None) is value:
                self.note_version(module)
                return module, own
        if any(value is each for each in OWN_FUNCTIONS):
            return value.__module__, own
        home = str(getattr(value, "__module__", ""))
        importable = callable(value) and own and getattr(sys.modules.get(home), own, None) is value
        if self.compiled or not importable:
            return None
        if is_standard(home) or (not self.is_of_encoders(home) and distribution_of(home) is not None):
            self.note_version(home)
            return home, own
        return None

    def import_of_module(self, name: str, value: ModuleType) -> str:
        """Write the import of a module. Raises EncoderError if the module's code would have to be captured."""
        module = value.__name__
        if self.compiled and module not in COMPILABLE:
            raise self._not_capturable(name, f"the module {module}", "compiled encoders use math and numpy")
        if self.is_own(module):
            raise EncoderError.because(
                f"encoder '{self.encoder}' uses the module {module} as a whole",
                f"write what it uses of it, as in {name}.function(…)",
            )
        self.note_version(module)
        return f"import {module} as {name}"

    def is_own(self, module: str) -> bool:
        """Whether a module is the project's, so that its code is captured instead of imported."""
        return self.is_of_encoders(module) or not (is_standard(module) or distribution_of(module) is not None)

    def is_of_encoders(self, module: str) -> bool:
        """Whether a module belongs to the same top-level package as the encoder, or to this one."""
        tops = {module.partition(".")[0] for module in (self.module, "encoders")}
        return module.partition(".")[0] in tops

    def note_version(self, module: str) -> None:
        """Record the version of a distribution on which the result of plain Python depends."""
        distribution = None if self.compiled else distribution_of(module)
        if distribution is not None:
            self.versions[distribution[0]] = distribution[1]

    def literal(self, name: str, value: Any) -> str:
        """Write a constant. Raises EncoderError for any other value."""
        if isinstance(
            value, np.float64 | np.int64 | np.bool_ | np.str_
        ):  # NumPy's other scalars compute differently from Python's
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


class OwnModules(ast.NodeTransformer):
    """Replaces attributes of the project's modules with names, such as `helper.f` with `helper__f`."""

    def __init__(
        self, collector: SourceCollector, function: FunctionType, source: FunctionSource, global_names: set[str]
    ) -> None:
        self.collector, self.python, self.source, self.global_names = collector, function, source, global_names

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:  # noqa: D102  # ast's naming
        chain: list[str] = []
        root: ast.expr = node
        while isinstance(root, ast.Attribute):
            chain.insert(0, root.attr)
            root = root.value
        if not isinstance(root, ast.Name) or root.id not in self.global_names:
            return self.generic_visit(node)
        value, name, rest = resolve(self.python, root.id)[1], root.id, list(chain)
        while rest and isinstance(value, ModuleType) and self.collector.is_own(value.__name__):
            attribute = rest.pop(0)
            if not hasattr(value, attribute):
                raise EncoderError.because(
                    f"encoder '{self.collector.encoder}' uses {value.__name__}.{attribute}, which is not defined, "
                    f"at {self.source.place(node.lineno)}"
                )
            value, name = getattr(value, attribute), f"{name}__{attribute}"
        if len(rest) == len(chain):
            return node
        self.collector.members.add(name)
        self.collector.add(name, True, value, self.source)
        replaced: ast.expr = ast.copy_location(ast.Name(name, node.ctx if not rest else ast.Load()), node)
        for place, attribute in enumerate(rest):
            last = place == len(rest) - 1
            replaced = ast.copy_location(ast.Attribute(replaced, attribute, node.ctx if last else ast.Load()), node)
        return replaced


def _first_use(name: str, source: FunctionSource) -> str:
    lines = [node.lineno for node in ast.walk(source.tree) if isinstance(node, ast.Name) and node.id == name]
    return source.place(min(lines, default=source.first))
