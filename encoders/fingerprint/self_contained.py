"""Turns a function into text that stands on its own: its source, the constants it uses and its helpers' sources.

The text, not the function object, travels to executors and is what the fingerprint covers. Comments, docstrings,
annotations and layout are no part of it.
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
from schemas.errors import EncoderError
from schemas.hashing import text_code

COMPILABLE = {"math": math, "numpy": np}
ENTRY = "_encode"
RESERVED = ("_Tuple", "_NAN", "_NO_TEXT", "_namedtuple", "_machine", "_text_", "_kept_", "_encode")  # generated names


@dataclass(frozen=True)
class CapturedSource:
    """A function as text.

    text: imports, constants, helpers and, last, the function itself under the name `_encode`
    places: line of the text → where it was written, as people know it, for the function's lines and its helpers'
    versions: of the distributions whose code it calls: they are imported, not captured
    """

    text: str
    places: dict[int, str]
    versions: dict[str, str]


def capture(function: FunctionType, compiled: bool) -> CapturedSource:
    """Capture an encoder. Raises EncoderError for a name it uses that cannot be written as text."""
    gathering = SourceCollector(function.__qualname__, compiled, function.__module__ or "")
    body = gathering.function(function, ENTRY)
    above = [*gathering.imports, *gathering.constants]
    places: dict[int, str] = {}
    first = 1 + len(above)  # each of these is one line
    for written in [*gathering.helpers, body]:
        places |= {first + line: place for line, place in written.places.items()}
        first += 1 + written.text.count("\n")
    return CapturedSource(
        "\n".join([*above, *(helper.text for helper in gathering.helpers), body.text, ""]), places, gathering.versions
    )


@dataclass(frozen=True)
class _Written:
    """A function written anew. places: its line, from 0 → where the original is."""

    text: str
    places: dict[int, str]


class SourceCollector:
    """Collects what a function needs, each name once: as text that means the same elsewhere.

    module: the encoder's; members: names that stand for what it reads of the project's other modules
    versions: of the distributions that it calls
    """

    def __init__(self, encoder: str, compiled: bool, module: str = "") -> None:
        self.encoder, self.compiled, self.module = encoder, compiled, module
        self.members: set[str] = set()
        self.versions: dict[str, str] = {}
        self.imports: list[str] = []
        self.constants: list[str] = []
        self.helpers: list[_Written] = []
        self.known: dict[str, Any] = {}

    def function(self, function: FunctionType, name: str) -> _Written:
        """Write a function under a name, after gathering what it uses."""
        source = source_of(function)
        clean = clean_tree(source.tree, is_encoder=name == ENTRY)
        clean.name = name
        if name != ENTRY:
            self.write_defaults(clean, function, source)
        around = global_names(ast.unparse(ast.fix_missing_locations(clean)))
        clean = OwnModules(self, function, source, around).visit(clean)
        text = ast.unparse(ast.fix_missing_locations(clean))
        for used in sorted(global_names(text)):
            if used != name and used not in self.members:
                self.add(used, *resolve(function, used), source)
        return _Written(text, {line - 1: source.place(at) for line, at in line_map(text, source.tree).items()})

    def write_defaults(self, clean: ast.FunctionDef, function: FunctionType, source: FunctionSource) -> None:
        """Put values in place of a helper's defaults: they were computed when it was defined."""
        arguments = clean.args
        named = function.__kwdefaults__ or {}
        pairs = list(zip(arguments.defaults, function.__defaults__ or (), strict=True))
        arguments.defaults = [self.default(each, value, function, source) for each, value in pairs]
        arguments.kw_defaults = [
            None if each is None else self.default(each, named[argument.arg], function, source)
            for argument, each in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        ]

    def default(self, written: ast.expr, value: Any, function: FunctionType, source: FunctionSource) -> ast.expr:
        """Write the value of a default; a function that has a name keeps it."""
        if (
            isinstance(written, ast.Name)
            and isinstance(value, FunctionType)
            and resolve(function, written.id)[1] is value
        ):
            return written
        name = f"{function.__name__}: {source.place(written.lineno)}"
        return parse_expression(self.literal(name, value))

    def add(self, name: str, found: bool, value: Any, source: FunctionSource) -> None:
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
        if name in GENERATED or name.startswith(RESERVED):
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
            return self.import_of_module(name, value)
        own = getattr(value, "__name__", "")
        for module, there in COMPILABLE.items():
            if own and callable(value) and getattr(there, own, None) is value:
                self.note_version(module)
                return f"from {module} import {own} as {name}"
        if value is lookup or value is text_code:
            return f"from {value.__module__} import {own} as {name}"
        home = str(getattr(value, "__module__", ""))
        importable = callable(value) and own and getattr(sys.modules.get(home), own, None) is value
        if self.compiled or not importable:
            return None
        if is_standard(home) or (not self.is_of_encoders(home) and distribution_of(home) is not None):
            self.note_version(home)
            return f"from {home} import {own} as {name}"
        return None

    def import_of_module(self, name: str, value: ModuleType) -> str:
        """Write the import of a module. Raises EncoderError for one whose code would have to be captured."""
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
        """Whether a module is the project's, so that its code is captured, not its name."""
        return self.is_of_encoders(module) or not (is_standard(module) or distribution_of(module) is not None)

    def is_of_encoders(self, module: str) -> bool:
        """Whether a module belongs to the package that the encoder does, or to the encoders' own."""
        tops = {module.partition(".")[0] for module in (self.module, "encoders")}
        return module.partition(".")[0] in tops

    def note_version(self, module: str) -> None:
        """Remember the version of a distribution on which plain Python's result depends."""
        distribution = None if self.compiled else distribution_of(module)
        if distribution is not None:
            self.versions[distribution[0]] = distribution[1]

    def literal(self, name: str, value: Any) -> str:
        """Write a constant. Raises EncoderError for a value that is none."""
        if isinstance(value, np.float64 | np.int64 | np.bool_ | np.str_):  # others compute otherwise than Python's
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
    """Puts names in place of what a function reads of the project's modules, as `helper__f` for `helper.f`."""

    def __init__(
        self, gathering: SourceCollector, function: FunctionType, source: FunctionSource, around: set[str]
    ) -> None:
        self.gathering, self.python, self.source, self.around = gathering, function, source, around

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:  # noqa: D102  # ast's naming
        chain: list[str] = []
        root: ast.expr = node
        while isinstance(root, ast.Attribute):
            chain.insert(0, root.attr)
            root = root.value
        if not isinstance(root, ast.Name) or root.id not in self.around:
            return self.generic_visit(node)
        value, name, rest = resolve(self.python, root.id)[1], root.id, list(chain)
        while rest and isinstance(value, ModuleType) and self.gathering.is_own(value.__name__):
            attribute = rest.pop(0)
            if not hasattr(value, attribute):
                raise EncoderError.because(
                    f"encoder '{self.gathering.encoder}' uses {value.__name__}.{attribute}, which is not defined, "
                    f"at {self.source.place(node.lineno)}"
                )
            value, name = getattr(value, attribute), f"{name}__{attribute}"
        if len(rest) == len(chain):
            return node
        self.gathering.members.add(name)
        self.gathering.add(name, True, value, self.source)
        found: ast.expr = ast.copy_location(ast.Name(name, node.ctx if not rest else ast.Load()), node)
        for place, attribute in enumerate(rest):
            last = place == len(rest) - 1
            found = ast.copy_location(ast.Attribute(found, attribute, node.ctx if last else ast.Load()), node)
        return found


def _first_use(name: str, source: FunctionSource) -> str:
    lines = [node.lineno for node in ast.walk(source.tree) if isinstance(node, ast.Name) and node.id == name]
    return source.place(min(lines, default=source.first))
