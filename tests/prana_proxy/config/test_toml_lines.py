from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from prana_proxy.config.toml_lines import TomlPath, lines_of

NAMES = ["a", "b-1", "1", "x y", "é", "a.b", 'q"', "#", "[t]", "k = 1", "", "'"]
VALUES = [
    "1",
    "-1.5e3",
    "1979-05-27 07:32:00.5",
    "true",
    "inf",
    '""',
    "''",
    '"x = 1 # [t] \\" ]"',
    "'}\\'",
    '"""\nx = 1\n[t]\n# no \\""" \\\n   y"""',
    "'''\nx = 1 ]\n[[t]]\n'''",
    '""""quoted""""',
    "'''''two'''''",
    '""""""',
]
REMARKS = ["", "", " # a = 1", ' # """ [', "\n", "\n# [t]"]


class Writer:
    """Writes TOML of every shape and keeps the line of each place as it goes."""

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        self.draw = draw
        self.text = ""
        self.lines: dict[TomlPath, int] = {(): 1}
        self.names = 0
        self.opened: list[tuple[str, ...]] = []  # by headers
        self.implied: list[tuple[str, ...]] = []
        self.counts: dict[tuple[str, ...], int] = {}  # array of tables → its entries so far

    def pick(self, options: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(options))

    def new_name(self) -> str:
        self.names += 1
        return f"{self.pick(NAMES)}{self.names}"

    def spelled(self, name: str) -> Any:
        bare = name.isascii() and name.replace("-", "").isalnum()
        ways = [json.dumps(name), *([name] * bare), *([f"'{name}'"] * ("'" not in name))]
        return self.pick(ways)

    def note(self, steps: TomlPath) -> None:
        self.lines.setdefault(steps, self.text.count("\n") + 1)

    def pair(self, table: TomlPath, depth: int = 0) -> None:
        for _ in range(self.pick([0, 0, 1, 2])):
            name = self.new_name()
            table = (*table, name)
            self.note(table)
            self.text += self.spelled(name) + self.pick([".", " . "])
        name = self.new_name()
        self.note((*table, name))
        self.text += self.spelled(name) + self.pick(["=", " = "])
        self.value((*table, name), depth)

    def value(self, place: TomlPath, depth: int = 0) -> None:
        kind = self.pick(["scalar", "scalar", "array", "table"] if depth < 3 else ["scalar"])
        if kind == "scalar":
            self.text += self.pick(VALUES)
        elif kind == "array":
            self.text += "["
            length = self.pick([0, 1, 3])
            for i in range(length):
                self.text += self.gap()
                self.note((*place, i))
                self.value((*place, i), depth + 1)
                self.text += self.gap() + ("," if i < length - 1 else self.pick(["", ","]))
            self.text += self.gap() + "]"
        else:
            self.text += "{"
            for i in range(self.pick([0, 1, 2])):
                self.text += ", " if i else " "
                self.pair(place, depth + 1)
            self.text += " }"

    def gap(self) -> Any:
        return self.pick(["", "", " ", "\n", " # ], [\n", "\n\n\t"])

    def header(self) -> TomlPath:
        """Open a table: a new one below any, one that a header has implied, or another entry of an array of tables."""
        kind = self.pick(["new", *["implied"] * bool(self.implied), *["again"] * bool(self.counts)])
        if kind == "implied":
            names = self.implied.pop(self.pick(range(len(self.implied))))
        elif kind == "again":
            names = self.pick(list(self.counts))
            for known in (self.opened, self.implied):
                known[:] = [other for other in known if other[: len(names)] != names]
            self.counts = {k: v for k, v in self.counts.items() if k[: len(names)] != names or k == names}
        else:
            names = (*self.pick([(), *self.opened]), self.new_name())
            if self.pick([True, False]):
                self.implied.append(names)
                names = (*names, self.new_name())
        self.opened.append(names)
        is_entry = kind == "again" or (kind == "new" and self.pick([True, False]))
        if is_entry:
            self.counts[names] = self.counts.get(names, 0) + 1
        for length in range(1, len(names)):
            self.note(self.steps(names[:length]))
        self.lines.pop(self.steps(names), None)  # if it was implied, this is its own line
        self.note(self.steps(names)[: -1 if is_entry else None])
        self.note(self.steps(names))
        text = self.pick([".", " . "]).join(map(self.spelled, names))
        self.text += f"[[{text}]]" if is_entry else f"[ {text} ]"
        return self.steps(names)

    def steps(self, names: tuple[str, ...]) -> TomlPath:
        """Names of tables mean, of an array of tables, its last entry."""
        steps: TomlPath = ()
        for i, name in enumerate(names, 1):
            steps += (name, self.counts[names[:i]] - 1) if names[:i] in self.counts else (name,)
        return steps


@st.composite
def documents(draw: Callable[[Any], Any]) -> Writer:
    writer = Writer(draw)
    table: TomlPath = ()
    for _ in range(draw(st.integers(0, 12))):
        if draw(st.booleans()):
            table = writer.header()
        else:
            writer.pair(table)
        writer.text += writer.pick(REMARKS) + writer.pick(["\n", "\r\n"])
    return writer


def places(value: Any, steps: TomlPath = ()) -> Iterator[TomlPath]:
    yield steps
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, one in inner:
        yield from places(one, (*steps, step))


@settings(max_examples=300)
@given(documents())
def test_every_place_of_any_toml_has_its_line(written: Writer) -> None:
    try:
        content = tomllib.loads(written.text)
    except tomllib.TOMLDecodeError:  # the writer rarely opens a table that another entry has closed
        reject()
    found = lines_of(written.text)
    assert found == written.lines
    assert set(found) == set(places(content))


@pytest.mark.parametrize(
    ("text", "steps", "line"),
    [
        ("", (), 1),
        ("\n\na = 1", ("a",), 3),
        ('s = """\na = 1\n"""\na = 2', ("a",), 4),
        ("s = [ # ]\n]\na = 2", ("a",), 3),
        ("x.y = 1\nx.z = 2", ("x",), 1),
        ("x.y = 1\nx.z = 2", ("x", "z"), 2),
        ("[x.y]\n[x]\nz = 1", ("x",), 2),
        ("[[x]]\n[[x]]\n[x.y]\nz = 1", ("x", 1, "y", "z"), 4),
        ("[[x]]\n[[x]]\n[x.y]\nz = 1", ("x",), 1),
        ("[\"a.b\"]\n'c d' = 1", ("a.b", "c d"), 2),
        ('"\\u0061" = 1', ("a",), 1),
        ("e = [\n  'a',\n  { b = [\n 1 ], c = 2 },\n]", ("e", 1, "c"), 4),
        ("a = 1979-05-27 07:32:00\nb = 1", ("b",), 2),
        ("s = 'a\u2028b\x85'\nb = 1", ("b",), 2),
    ],
)
def test_a_field_begins_where_its_name_stands(text: str, steps: TomlPath, line: int) -> None:
    assert lines_of(text)[steps] == line
