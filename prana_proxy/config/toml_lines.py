"""Finds the line of each field in a TOML file, which `tomllib` does not report."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import TypeAlias

TomlPath: TypeAlias = tuple[str | int, ...]
"""The path of a field from the top: names of tables and fields, indices of arrays."""

# Comments and blanks match no group. A multi-line string may end in one or two quotes of its own.
_TOKEN = re.compile(
    r'''
    (?P<long> """ (?: \\. | [^\\] )*? """ "{0,2} | \'\'\' .*? \'\'\' \'{0,2} )
    | (?P<unfinished> """ | \'\'\' )
    | (?P<string> " (?: \\. | [^"\\] )* " | ' [^']* ' )
    | (?P<mark> [\[\]{}=,.\n] )
    | (?P<bare> [^\s\[\]{}=,."'#]+ )
    | \#[^\n]* | [^\S\n]+
    ''',
    re.VERBOSE | re.DOTALL,
)
_END = ""


def lines_of(text: str) -> dict[TomlPath, int]:
    """Map each table, field and array entry of a TOML text to its line, from 1.

    A table's line is its header's; a table without a header begins at the first header or dotted name below it. A
    field's line is its name's, however many lines its value has.

    text: valid TOML; for any other text the result is undefined

    >>> lines_of('[split]\\nshares = [\\n  0.8,\\n  0.2,\\n]\\n')
    {(): 1, ('split',): 1, ('split', 'shares'): 2, ('split', 'shares', 0): 3, ('split', 'shares', 1): 4}
    """
    walk = _Walk(text)
    walk.document()
    return walk.lines


def unfinished_string(text: str) -> int | None:
    """Find the line where a multi-line string begins that is never closed, in a text that is valid before it."""
    return next((line for token, line in _tokens(text) if token in ('"""', "'''")), None)


class _Walk:
    """One pass over a text's tokens. It follows the grammar of fields and checks nothing."""

    def __init__(self, text: str) -> None:
        self.lines: dict[TomlPath, int] = {(): 1}
        self._tables: dict[TomlPath, int] = {}  # array of tables → how many it has so far
        self._tokens = _tokens(text)
        self._advance()

    def document(self) -> None:
        table: TomlPath = ()
        while self._symbol != _END:
            if self._symbol == "\n":
                self._advance()
            elif self._symbol == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> TomlPath:
        line = self._line
        self._advance()
        is_entry = self._symbol == "["
        if is_entry:
            self._advance()
        table: TomlPath = ()
        *parents, name = self._names()
        for parent in parents:
            table = self._within((*table, parent), line)
        table = (*table, name)
        if is_entry:
            self._tables[table] = self._tables.get(table, 0) + 1
            table = self._within(table, line)
        self.lines[table] = line
        while self._symbol == "]":
            self._advance()
        return table

    def _within(self, table: TomlPath, line: int) -> TomlPath:
        """Record a table; names below an array of tables belong to its last table so far."""
        self.lines.setdefault(table, line)
        return (*table, self._tables[table] - 1) if table in self._tables else table

    def _names(self) -> list[str]:
        """Read a name, or several with dots between them."""
        names = []
        while self._symbol not in ("=", "]"):
            if self._symbol != ".":
                quoted = self._symbol[0] in "\"'"
                names.append(tomllib.loads(f"name = {self._symbol}")["name"] if quoted else self._symbol)
            self._advance()
        return names

    def _pair(self, table: TomlPath) -> None:
        line = self._line
        for name in self._names():
            table = (*table, name)
            self.lines.setdefault(table, line)
        self._advance()
        self._value(table)

    def _value(self, place: TomlPath) -> None:
        if self._symbol == "[":
            self._array(place)
        elif self._symbol == "{":
            self._advance()
            while self._symbol != "}":
                if self._symbol in ("\n", ","):
                    self._advance()
                else:
                    self._pair(place)
            self._advance()
        else:
            while self._symbol not in ("\n", ",", "]", "}", _END):
                self._advance()

    def _array(self, place: TomlPath) -> None:
        self._advance()
        entry = 0
        while self._symbol != "]":
            if self._symbol in ("\n", ","):
                self._advance()
            else:
                self.lines[(*place, entry)] = self._line
                self._value((*place, entry))
                entry += 1
        self._advance()

    def _advance(self) -> None:
        self._symbol, self._line = next(self._tokens)


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    line = 1
    for token in _TOKEN.finditer(text):
        if token.lastgroup:
            yield token.group(), line
        line += token.group().count("\n")
    yield _END, line
