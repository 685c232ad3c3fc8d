"""Checks that an encoder reads only what it declared and writes only its features, and collects what it reads."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from encoders.layout import RESERVED, outer_fields
from encoders.source.function_source import FunctionSource
from encoders.source.function_tree import assignment_pairs
from schemas.data_keys import DataKey, Kind
from schemas.errors import EncoderError, EncoderOutputError, UndeclaredKeyError

ARGUMENTS = ("context", "items", "data", "out")
_INSIDE_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


@dataclass
class Reads:
    """What an encoder reads. None instead of names: its source does not show which, so it may read any.

    fields: element → its outermost fields
    indexed: global elements in which it looks up rows
    """

    context: set[str] | None = field(default_factory=set)
    items: set[str] | None = field(default_factory=set)
    fields: dict[str, set[str] | None] = field(default_factory=dict)
    indexed: set[str] = field(default_factory=set)


def check_source(
    name: str,
    source: FunctionSource,
    keys: Mapping[str, DataKey],
    features: Sequence[str],
    lookups: frozenset[str] = frozenset({"lookup"}),
    widths: Mapping[str, int] | None = None,
) -> Reads:
    """Check an encoder's body as far as possible without running it, and give what it reads.

    keys: the elements that it declared; lookups: its names for the function `lookup`
    widths: of the features that are vectors
    Raises UndeclaredKeyError, EncoderOutputError, or EncoderError for a field that an element does not have.
    """
    return _SourceCheck(name, source, keys, features, lookups, widths or {}).run()


class _SourceCheck:
    """One pass over the names in a function's tree."""

    def __init__(
        self,
        name: str,
        source: FunctionSource,
        keys: Mapping[str, DataKey],
        features: Sequence[str],
        lookups: frozenset[str],
        widths: Mapping[str, int],
    ) -> None:
        self.name, self.source, self.keys, self.features, self.lookups = name, source, keys, features, lookups
        self.widths = widths
        self.function = source.tree
        self.parents = {child: node for node in ast.walk(self.function) for child in ast.iter_child_nodes(node)}
        self.aliases = self.find_aliases()
        self.reads = Reads()
        self.written: set[str] | None = set()

    def run(self) -> Reads:
        self.refuse_results()
        for node in ast.walk(self.function):
            if isinstance(node, ast.Name):
                self.visit_name(node)
        unwritten = [] if self.written is None else [f for f in self.features if f not in self.written]
        if unwritten:
            raise EncoderOutputError.because(
                f"encoder '{self.name}' declares the feature '{unwritten[0]}' and never writes it",
                f"write out.{unwritten[0]}[i] = …",
            )
        return self.reads

    def find_aliases(self) -> dict[str, str]:
        """Local names of elements, from assignments such as `history, videos = data.viewing_history, …`."""
        assigned: dict[str, ast.Attribute] = {}
        stores: Counter[str] = Counter()
        for node in ast.walk(self.function):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                stores[node.id] += 1
            if isinstance(node, ast.Assign) and len(node.targets) == 1:
                for target, value in assignment_pairs(node.targets[0], node.value):
                    if isinstance(target, ast.Name) and isinstance(value, ast.Attribute) and _is(value.value, "data"):
                        assigned[target.id] = value
        once = {alias: value for alias, value in assigned.items() if stores[alias] == 1}
        self.aliased = set(once.values())
        return {alias: value.attr for alias, value in once.items()}

    def refuse_results(self) -> None:
        for node in ast.walk(self.function):
            if isinstance(node, ast.Yield | ast.YieldFrom | ast.Await):
                raise self.wrong(node, "yields, expected it to write its features to out")
            if isinstance(node, ast.Return) and node.value is not None and self.enclosing(node) is self.function:
                if isinstance(node.value, ast.Constant) and node.value.value is None:
                    continue
                raise self.wrong(node, "returns a value, expected None", f"write out.{self.features[0]}[i] = …")

    def enclosing(self, node: ast.AST) -> ast.AST:
        while node is not self.function:
            node = self.parents[node]
            if isinstance(node, _INSIDE_FUNCTIONS):
                return node
        return node

    def visit_name(self, node: ast.Name) -> None:
        if node.id in ARGUMENTS and isinstance(node.ctx, ast.Store | ast.Del):
            raise EncoderError.because(f"{self.at(node)} rebinds '{node.id}'", "use another name")
        parent = self.parents[node]
        attribute = parent if isinstance(parent, ast.Attribute) else None
        if node.id == "out":
            self.record_output(attribute)
        elif node.id in ("context", "items"):
            names = getattr(self.reads, node.id)
            if attribute is None or names is None:
                setattr(self.reads, node.id, None)
            else:
                names.add(attribute.attr)
                self.refuse_write(attribute, f"{node.id}.{attribute.attr}")
        elif node.id == "data":
            if attribute is None:
                for element in self.keys:
                    self.record_all_fields(element)
            else:
                self.record_element(attribute, attribute.attr)
        elif node.id in self.aliases and isinstance(node.ctx, ast.Load):
            self.record_element(node, self.aliases[node.id])

    def record_element(self, node: ast.expr, element: str) -> None:
        """Record how an element is used: a field, as the table of a lookup, as a whole, or only given a local name."""
        if element not in self.keys:
            unknown = UndeclaredKeyError.unknown("data element", element, self.keys)
            raise UndeclaredKeyError.because(f"{self.at(node)}: {unknown}")
        self.reads.fields.setdefault(element, set())
        parent = self.parents[node]
        if isinstance(parent, ast.Attribute):
            self.record_field(element, parent)
        elif isinstance(parent, ast.Call) and self.is_lookup(parent) and parent.args[0] is node:
            if self.keys[element].kind is not Kind.GLOBAL_ELEMENT:
                raise EncoderError.because(f"{self.at(node)}: lookup in '{element}', which is not a global element")
            self.reads.indexed.add(element)
        elif node not in self.aliased:
            self.refuse_write(node, f"data.{element}")
            self.record_all_fields(element)

    def record_field(self, element: str, attribute: ast.Attribute) -> None:
        key, name = self.keys[element], attribute.attr
        self.refuse_write(attribute, f"data.{element}.{name}")
        fields = outer_fields(key)
        if fields is None or name in RESERVED:
            if fields is None and name not in RESERVED:
                raise self.no_field(attribute, element, ["present", "value", "values", "offsets"])
            if name in ("slots", "values") and key.kind is Kind.GLOBAL_ELEMENT:
                self.reads.indexed.add(element)
            return
        if name not in fields:
            raise self.no_field(attribute, element, fields)
        names = self.reads.fields[element]
        if names is not None:
            names.add(name)

    def record_all_fields(self, element: str) -> None:
        self.reads.fields[element] = None
        if self.keys[element].kind is Kind.GLOBAL_ELEMENT:
            self.reads.indexed.add(element)

    def record_output(self, attribute: ast.Attribute | None) -> None:
        if attribute is None:
            self.written = None
            return
        if attribute.attr not in self.features:
            unknown = EncoderOutputError.unknown("feature", attribute.attr, self.features)
            raise EncoderOutputError.because(f"{self.at(attribute)}: {unknown}")
        if not isinstance(attribute.ctx, ast.Load):
            raise self.wrong(attribute, f"replaces out.{attribute.attr}", f"write out.{attribute.attr}[i] = …")
        self.check_places(attribute)
        if self.written is not None:
            self.written.add(attribute.attr)

    def check_places(self, attribute: ast.Attribute) -> None:
        """Refuse two places where each item has a number, and a component that a vector does not have."""
        name, parent = attribute.attr, self.parents[attribute]
        if not (
            isinstance(parent, ast.Subscript) and parent.value is attribute and isinstance(parent.slice, ast.Tuple)
        ):
            return
        width, places = self.widths.get(name), parent.slice.elts
        if width is None:
            hint = f'write out.{name}[i], or declare features=[Vector("{name}", 16)]'
            raise self.wrong(attribute, f"writes out.{name}[{', '.join(map(ast.unparse, places))}], a number", hint)
        last = places[-1].value if isinstance(places[-1], ast.Constant) else None
        if len(places) != 2 or (type(last) is int and last >= width):
            places_text = ", ".join(map(ast.unparse, places))
            hint = f"write out.{name}[i, j] with j from 0 to {width - 1}"
            raise self.wrong(attribute, f"writes out.{name}[{places_text}], which has {width} components", hint)

    def refuse_write(self, node: ast.expr, what: str) -> None:
        parent = self.parents[node]
        target: ast.expr = parent if isinstance(parent, ast.Subscript) and parent.value is node else node
        if isinstance(getattr(target, "ctx", None), ast.Store | ast.Del):
            raise self.wrong(node, f"writes to {what}", "write only to out")

    def is_lookup(self, call: ast.Call) -> bool:
        return isinstance(call.func, ast.Name) and call.func.id in self.lookups and bool(call.args)

    def wrong(self, node: ast.expr | ast.stmt, problem: str, hint: str | None = None) -> EncoderOutputError:
        return EncoderOutputError.because(f"{self.at(node)} {problem}", hint)

    def no_field(self, node: ast.expr, element: str, fields: Sequence[str]) -> EncoderError:
        unknown = EncoderError.unknown(f"field of '{element}'", getattr(node, "attr", ""), fields)
        return EncoderError.because(f"{self.at(node)}: {unknown}")

    def at(self, node: ast.expr | ast.stmt) -> str:
        return f"encoder '{self.name}' at {self.source.place(node.lineno)}"


def _is(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name
