"""Writes the module that runs an encoder over many contexts: its source, the shapes of its arguments, and the loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from encoders.layout import (
    BOOLEAN,
    FLOAT,
    INTEGER,
    OBJECT,
    TEXT,
    Column,
    Layout,
    ListLayout,
    ScalarLayout,
    StructLayout,
)
from schemas.data_keys import DataKey, Kind

_ABSENT = {INTEGER: "0", FLOAT: "_NAN", BOOLEAN: "False", OBJECT: "None", TEXT: "_NO_TEXT"}
GENERATED = frozenset(
    {"_batch", "_borrow", "_texts", "_as_text", "_vocabulary"}
)  # functions that are not rewritten for machine code
# While the loop runs, its caller owns the arrays. In compiled code `_borrow` turns off reference counting of an array,
# and `_texts` and `_as_text` give codes the type of text; in plain Python all three do nothing. A vocabulary is
# passed to compiled code as its codes and their index, which `_vocabulary` joins; to plain Python as texts, and None.
_PREAMBLE = """from collections import namedtuple as _namedtuple
_NAN, _NO_TEXT = float('nan'), None
{shapes}

def _borrow(array):
    return array

def _texts(array):
    return array

def _as_text(value):
    return value

def _vocabulary(texts, index):
    return texts
"""


def module_text(
    captured: str,
    context: Mapping[str, ScalarLayout],
    items: Mapping[str, ScalarLayout],
    elements: Mapping[str, tuple[DataKey, Layout, bool]],
    features: Sequence[str],
    parameters: Mapping[str, int | float | bool | str | tuple[str, ...]],
) -> tuple[str, list[Column]]:
    """Write the module, and list the columns that its `_batch` receives.

    captured: the encoder's self-contained source
    context, items: the variables it reads; elements: name → key, layout, whether rows are looked up in it
    parameters: with their values, which show which of them are texts and vocabularies
    `_batch(progress, item_offsets, *columns, *outputs, *parameters)` keeps the current context in progress[0].
    """
    writer = _ArgumentWriter()
    values = {name: f"{writer.argument(scalar.column)}[c]" for name, scalar in context.items()}
    slices = {name: f"{writer.argument(scalar.column)}[first:end]" for name, scalar in items.items()}
    state = {name: writer.element(name, *parts) for name, parts in elements.items()}
    outputs = {feature: f"out_{i}_{feature}" for i, feature in enumerate(features)}
    groups = [
        writer.grouped("context", values),
        writer.grouped("items", slices),
        writer.grouped("data", state),
        writer.grouped("out", {feature: f"{name}[first:end]" for feature, name in outputs.items()}),
    ]
    named_parameters = {f"parameter_{i}_{name}": value for i, (name, value) in enumerate(parameters.items())}
    received = [part for name, value in named_parameters.items() for part in _parts(name, value)]
    passed = [_passed(name, value) for name, value in named_parameters.items()]
    arguments = ["progress", "item_offsets", *writer.arguments.values(), *outputs.values(), *received]
    batch = _batch_lines(writer, arguments, list(outputs.values()), f"_encode({', '.join([*groups, *passed])})")
    text = "\n".join([captured, _PREAMBLE.format(shapes="\n".join(writer.shapes)), *batch])
    return text + "\n", list(writer.arguments)


def _parts(name: str, value: object) -> list[str]:
    """Name the arguments in which a parameter is received."""
    return [name, f"{name}_index"] if isinstance(value, tuple) else [name]


def _passed(name: str, value: object) -> str:
    """Write the expression of a parameter, as the encoder receives it."""
    if isinstance(value, tuple):
        return f"_vocabulary({', '.join(_parts(name, value))})"
    return f"_as_text({name})" if isinstance(value, str) else name


def _batch_lines(writer: _ArgumentWriter, arguments: Sequence[str], outputs: Sequence[str], call: str) -> list[str]:
    return [
        f"def _batch({', '.join(arguments)}):",
        *(f"    {name} = {_borrower(column)}({name})" for column, name in writer.arguments.items()),
        *(f"    {name} = _borrow({name})" for name in outputs),
        "    for c in range(len(item_offsets) - 1):",
        "        progress[0] = c",
        "        first, end = item_offsets[c], item_offsets[c + 1]",
        *(f"        {line}" for line in writer.lines),
        f"        {call}",
    ]


def _borrower(column: Column) -> str:
    return "_texts" if column.dtype == TEXT else "_borrow"


class _ArgumentWriter:
    """Assigns each column an argument, and each group of values a named tuple."""

    def __init__(self) -> None:
        self.arguments: dict[Column, str] = {}
        self.shapes: list[str] = []
        self.lines: list[str] = []
        self.ranges = 0

    def argument(self, column: Column) -> str:
        readable = "_".join(part.strip(":") for part in column.path[1:] if part != "[]")
        return self.arguments.setdefault(column, f"{readable}_{len(self.arguments)}")

    def grouped(self, title: str, members: Mapping[str, str]) -> str:
        name = f"_Tuple{len(self.shapes)}"
        self.shapes.append(f"{name} = _namedtuple({title!r}, {list(members)!r})")
        return f"{name}({', '.join(members.values())})"

    def element(self, name: str, key: DataKey, node: Layout, indexed: bool) -> str:
        rows = self.argument(Column(("data", name, ":rows"), INTEGER))
        row = f"row_{len(self.shapes)}_{name}"
        self.lines.append(f"{row} = {rows}[c]")
        members = {"present": f"{row} >= 0", **self.one(node, row, name)}
        if key.kind is Kind.GLOBAL_ELEMENT and indexed and isinstance(node, ListLayout):
            # the hash index: keys as codes, slots, and where each version's slots start
            index = (Column(("data", name, part), INTEGER) for part in (":keys", ":slots", ":slot_starts"))
            keys, slots, bounds = map(self.argument, index)
            start, end = self.range(self.argument(node.starts), row)
            members["values"] = f"{keys}[{start}:{end}]"
            start, end = self.range(bounds, row)
            members["slots"] = f"{slots}[{start}:{end}]"
        return self.grouped(name, members)

    def one(self, node: Layout, row: str, title: str) -> dict[str, str]:
        """Expressions of the members of the value at a row."""
        if isinstance(node, ScalarLayout):
            absent = _ABSENT[node.column.dtype]
            return {"value": f"{self.argument(node.column)}[{row}] if {row} >= 0 else {absent}"}
        if isinstance(node, StructLayout):
            return {name: self.member(name, child, self.one(child, row, name)) for name, child in node.fields.items()}
        start, end = self.range(self.argument(node.starts), row)
        return self.many(node.child, row, start, end, title)

    def many(self, node: Layout, row: str, start: str, end: str, title: str) -> dict[str, str]:
        """Expressions of the members of the values from start to end, within the outermost value at a row."""
        if isinstance(node, ScalarLayout):
            return {"values": f"{self.argument(node.column)}[{start}:{end}]"}
        if isinstance(node, StructLayout):
            return {
                name: self.member(name, child, self.many(child, row, start, end, name))
                for name, child in node.fields.items()
            }
        starts, offsets = self.argument(node.starts), self.argument(node.offsets)
        members = {"offsets": f"{offsets}[{start} + {row}:{end} + {row} + 1] if {row} >= 0 else {offsets}[0:0]"}
        inner = self.inner_range(starts, row, start, end)
        inside = self.many(node.child, row, *inner, title)
        if isinstance(node.child, ListLayout):
            inside = {"values": self.grouped(title, inside)}
        return {**members, **inside}

    def member(self, name: str, child: Layout, members: Mapping[str, str]) -> str:
        """The expression of one member: a scalar itself, or a tuple of the members of a struct or list."""
        return next(iter(members.values())) if isinstance(child, ScalarLayout) else self.grouped(name, members)

    def range(self, starts: str, row: str) -> tuple[str, str]:
        return self.inner_range(starts, row, row, f"{row} + 1")

    def inner_range(self, starts: str, row: str, first: str, last: str) -> tuple[str, str]:
        self.ranges += 1
        start, end = f"start_{self.ranges}", f"end_{self.ranges}"
        self.lines.append(f"{start} = {starts}[{first}] if {row} >= 0 else 0")
        self.lines.append(f"{end} = {starts}[{last}] if {row} >= 0 else 0")
        return start, end
